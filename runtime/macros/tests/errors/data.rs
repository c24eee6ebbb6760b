//! Mistakes in messages and configs.

use brickwork::prelude::*;

#[message]
struct Generic<T> {
    value: T,
}

#[message]
struct Borrowed<'a> {
    text: &'a str,
}

#[message(name = "x")]
struct Arguments {
    text: String,
}

#[message]
fn function() {}

#[config]
struct GenericConfig<T> {
    value: T,
}

#[config(default)]
struct ConfigArguments {
    text: String,
}

#[config]
struct EmptyDefault {
    #[default]
    number: u32,
}

#[config]
#[derive(Default)]
struct TwoDefaults {
    #[default(10)]
    number: u32,
}

#[config]
const NUMBER: u32 = 1;

fn main() {}
