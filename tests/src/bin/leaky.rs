//! A program with a careless service, for the test that no secret is shown.

use std::process::ExitCode;

use brickwork_tests::leaky::Leaky;

fn main() -> ExitCode {
    brickwork::cli::main(
        brickwork_actors::catalog().with::<Leaky>(),
        brickwork_bridges::all(),
    )
}
