//! A shop of small services, each with a store of its own; an auditor watches them.
//!
//! Read [`messages`] first, then [`orders`]: it decides what is to be done for an order, and
//! the others do it. [`auditor`] is how one knows that it works.

mod auditor;
mod book;
mod evidence;
mod histories;
mod ledger;
mod luck;
mod messages;
mod orders;
mod payments;
mod shipping;
mod shoppers;
mod sightings;
mod stock;

use std::process::ExitCode;

use brickwork::Catalog;
use brickwork::cli;

fn catalog() -> Catalog {
    brickwork_actors::catalog()
        .with_source::<shoppers::Shoppers>()
        .with::<orders::Orders>()
        .with::<stock::Stock>()
        .with::<payments::Payments>()
        .with::<shipping::Shipping>()
        .with::<ledger::Ledger>()
        .with::<auditor::Auditor>()
}

fn main() -> ExitCode {
    cli::main(catalog(), brickwork_bridges::all())
}
