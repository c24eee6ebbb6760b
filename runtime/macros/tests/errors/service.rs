//! Mistakes in the attribute of a service.

use brickwork::prelude::*;

struct A;

#[service]
struct B;

#[service]
enum C {}

#[service]
impl<T> A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service]
impl Clone for A {
    fn clone(&self) -> Self {
        Self
    }
}

#[service]
impl A {
    fn helper(&self) {}
}

#[service(name = "Big Name")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service(title = "a")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service(name)]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service(store = "no-such-folder")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    #[input("orders")]
    fn again(&mut self, order: String) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    fn start(config: &NoConfig, out: Out<String>) -> Result<Self> {
        Ok(Self)
    }
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
    fn stop(&mut self, order: String) {}
}

#[service(key = "msg.customer")]
impl A {
    #[input]
    fn orders(&mut self, order: String) {}
}

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, customer: Key) {}
}

#[service(key = "customer")]
impl A {
    #[input(batch = 10)]
    fn orders(&mut self, orders: Vec<String>, customer: Key) -> Vec<Result> {
        Vec::new()
    }
}

fn main() {}
