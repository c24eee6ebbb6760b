//! A program with puppets and pairs in its catalog, for tests in which a process may die.

use std::process::ExitCode;

use brickwork_tests::pair::Pair;
use brickwork_tests::puppet::Puppet;

fn main() -> ExitCode {
    brickwork::cli::main(
        brickwork_actors::catalog().with::<Puppet>().with::<Pair>(),
        brickwork_bridges::all(),
    )
}
