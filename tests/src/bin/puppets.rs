//! A program with puppets in its catalog, for tests in which a process may die.

use std::process::ExitCode;

use brickwork_tests::puppet::Puppet;

fn main() -> ExitCode {
    brickwork::cli::main(
        brickwork_actors::catalog().with::<Puppet>(),
        brickwork_bridges::all(),
    )
}
