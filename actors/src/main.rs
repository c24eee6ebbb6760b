//! The shipped binary: the command line over the ready-made service types and all
//! transports.

use std::process::ExitCode;

fn main() -> ExitCode {
    brickwork::cli::main(brickwork_actors::catalog(), brickwork_bridges::all())
}
