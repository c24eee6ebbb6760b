//! Accounts as entities: an actor for each account, whose balance survives every crash.
//!
//! Read [`account`] first.

mod account;
mod customers;
mod messages;

use std::process::ExitCode;

use brickwork::{Catalog, cli};

fn catalog() -> Catalog {
    brickwork_actors::catalog()
        .with_source::<customers::customers>()
        .with_entity::<account::Account>()
}

fn main() -> ExitCode {
    cli::main(catalog(), brickwork_bridges::all())
}
