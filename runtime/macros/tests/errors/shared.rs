//! Mistakes in the shared value of a service.

use brickwork::prelude::*;

struct A;

#[service]
impl A {
    #[input]
    fn orders(&mut self, order: String, pool: Shared<String>) {}
}

#[service]
impl A {
    fn share(&self) -> Result<String> {
        Ok(String::new())
    }
    #[input]
    fn orders(&mut self, order: String, pool: Shared<String>) {}
}

#[service]
impl A {
    fn share() {}
    #[input]
    fn orders(&mut self, order: String, pool: Shared<String>) {}
}

#[service]
impl A {
    fn share(cx: &Context) -> Result<String> {
        Ok(String::new())
    }
    #[input]
    fn orders(&mut self, order: String, pool: Shared<String>) {}
}

#[service]
impl A {
    fn share() -> Result<String> {
        Ok(String::new())
    }
    #[input]
    fn orders(&mut self, order: String, pool: &Shared<String>) {}
}

#[service]
impl A {
    fn share() -> Result<String> {
        Ok(String::new())
    }
    #[input]
    fn orders(&mut self, order: String, pool: Shared) {}
}

#[service]
impl A {
    fn share() -> Result<String> {
        Ok(String::new())
    }
    #[input]
    fn orders(&mut self, order: String, pool: Shared<String>, cache: Shared<u32>) {}
}

#[service]
fn orders(order: String, pool: Shared<String>) {}

#[source]
async fn lines(lines: Feed<String>, pool: Shared<String>) -> Result {
    Ok(())
}

fn main() {}
