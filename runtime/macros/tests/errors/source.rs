//! Mistakes in sources.

use brickwork::prelude::*;

#[source]
struct A;

#[source]
fn waits(lines: Feed<String>) -> Result {
    Ok(())
}

#[source]
async fn infallible(lines: Feed<String>) {}

#[source]
async fn silent(cx: &SourceContext) -> Result {
    Ok(())
}

#[source]
async fn emits(lines: Out<String>) -> Result {
    Ok(())
}

#[source]
async fn takes(order: String, lines: Feed<String>) -> Result {
    Ok(())
}

#[source(store = "a")]
async fn keeps(lines: Feed<String>) -> Result {
    Ok(())
}

#[source]
async fn unnamed(_: Feed<String>) -> Result {
    Ok(())
}

#[source]
async fn method(&self, lines: Feed<String>) -> Result {
    Ok(())
}

struct B;

#[service]
impl B {
    #[input]
    fn orders(&mut self, order: String, lines: Feed<String>) {}
}

#[service]
impl B {
    #[input]
    fn orders(&mut self, order: String, position: Position<u32>) {}
}

fn main() {}
