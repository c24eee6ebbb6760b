//! A program with the test services in its catalog, for tests in which a process may die.

use std::process::ExitCode;

use brickwork_tests::answerer::{Answerer, Asker};
use brickwork_tests::key_witness::Witness;
use brickwork_tests::pair::Pair;
use brickwork_tests::puppet::Puppet;
use brickwork_tests::tally::Tally;

fn main() -> ExitCode {
    brickwork::cli::main(
        brickwork_actors::catalog()
            .with::<Puppet>()
            .with::<Pair>()
            .with::<Answerer>()
            .with::<Asker>()
            .with::<Tally>()
            .with::<Witness<true>>()
            .with::<Witness<false>>(),
        brickwork_bridges::all(),
    )
}
