//! An HTTP API over a service with a store. Read [`todos`] first.

mod todos;

use std::process::ExitCode;

use brickwork::{Catalog, cli};

fn catalog() -> Catalog {
    brickwork_actors::catalog().with::<todos::Todos>()
}

fn main() -> ExitCode {
    cli::main(catalog(), brickwork_bridges::all())
}
