//! Mistakes in the parameters of handlers.

use brickwork::prelude::*;

struct A;

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, other: String) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: &String) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: &mut String) {}
}

#[service]
impl A {
    #[input]
    fn orders<T>(&mut self, order: T) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, paid: Out) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, _: Out<String>) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, paid: &mut Out<String>) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, price: Ask<String>) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, cx: Context) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, cx: &mut Context, paid: Out<String>) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, paid: Out<String>) {}
    #[input]
    fn returns(&mut self, order: String, paid: Out<u32>) {}
}

#[service]
impl A {
    #[input]
    fn orders(order: String, tx: &Tx) {}
}

#[service]
impl A {
    #[input]
    fn orders(order: String, tx: Tx) {}
}

#[service]
impl A {
    #[input]
    async fn orders(order: String, tx: &mut Tx) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, tx: &mut Tx) {}
}

#[service]
impl A {
    #[input]
    fn orders(order: String, tx: &mut Tx, price: Ask<String, u32>) {}
}

#[service]
impl A {
    #[input]
    fn orders(order: String, tx: &mut Tx, cx: &Context) {}
}

#[service]
impl A {
    #[input(batch = 10)]
    fn orders(orders: Vec<String>, tx: &mut Tx) -> Vec<Result> {
        Vec::new()
    }
}

#[service]
fn no_message(paid: Out<String>) {}

#[service]
fn two_configs(order: String, first: &NoConfig, second: &NoConfig) {}

fn main() {}
