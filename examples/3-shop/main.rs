//! A shop of small services with a private store each, and an auditor that checks them.
//!
//! Read [`messages`] first, then [`orders`]: `orders` decides the next step of each order, and
//! the other services carry the steps out. [`auditor`] proves that the result is right.

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
