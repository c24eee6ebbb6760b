//! Mistakes in the attribute of an entity.

use brickwork::prelude::*;

#[derive(Default)]
struct A;

#[entity(key = "customer")]
struct B;

#[entity(key = "customer")]
fn orders(order: String) {}

#[entity(key = "customer")]
impl<T> A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[entity]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[entity(key = "order.customer")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[entity(key = "customer", store = "migrations")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[entity(key = "customer", idle = "soon")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[entity(key = "customer")]
impl A {
    fn helper(&self) {}
}

#[entity(key = "customer")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    #[tick("10s")]
    fn beat(&mut self) {}
}

#[entity(key = "customer")]
impl A {
    #[input(batch = 10)]
    fn orders(&mut self, orders: Vec<String>) -> Vec<Result> {
        Vec::new()
    }
}

#[entity(key = "customer")]
impl A {
    #[input]
    fn orders(order: String, tx: &mut Tx) {}
}

#[entity(key = "customer")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    fn stop(&mut self) {}
}

#[entity(key = "customer")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    fn start(order: String) -> Self {
        Self
    }
}

fn main() {}
