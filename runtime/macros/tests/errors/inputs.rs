//! Mistakes in the attributes of handlers.

use brickwork::prelude::*;

struct A;

#[service]
impl A {
    #[input]
    fn orders(&mut self) {}
}

#[service]
impl A {
    #[input]
    fn orders(self, order: String) {}
}

#[service]
impl A {
    #[input("Orders")]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[input(size = 3)]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[input(3)]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[input(within = "1s")]
    fn orders(&mut self, orders: Vec<String>) -> Vec<Result> {
        Vec::new()
    }
}

#[service]
impl A {
    #[input(batch = 10)]
    fn orders(&mut self, order: String) -> Vec<Result> {
        Vec::new()
    }
}

#[service]
impl A {
    #[input(batch = 0)]
    fn orders(&mut self, orders: Vec<String>) -> Vec<Result> {
        Vec::new()
    }
}

#[service]
impl A {
    #[input(batch = 10, within = "soon")]
    fn orders(&mut self, orders: Vec<String>) -> Vec<Result> {
        Vec::new()
    }
}

#[service]
impl A {
    #[input]
    #[tick("1s")]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[tick]
    fn often(&mut self) {}
}

#[service]
impl A {
    #[tick("10")]
    fn often(&mut self) {}
}

#[service]
impl A {
    #[tick("0s")]
    fn often(&mut self) {}
}

#[service]
impl A {
    #[tick("1s")]
    fn often(&mut self, order: String) {}
}

#[service]
impl A {
    #[tick("1s")]
    fn often(&mut self, meta: Meta) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    fn forgotten(&mut self, order: String, paid: Out<String>) {}
}

#[service]
impl A {
    #[input(first)]
    fn orders(&mut self, order: String) {}
    #[input(first, batch = 10)]
    fn returns(&mut self, orders: Vec<String>) -> Vec<Result> {
        Vec::new()
    }
}

fn main() {}
