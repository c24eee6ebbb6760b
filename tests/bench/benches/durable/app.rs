//! The benchmark's app: orders from a source, through services, counted at the end.

use std::path::Path;

use brickwork::Workers;
use brickwork::prelude::*;
use brickwork_bench::flow::{self, Made, Orders, Sink};

#[derive(Clone, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Order {
    pub(crate) order: u64,
    pub(crate) text: String,
}

impl Made for Order {
    fn made(order: u64, bytes: usize) -> Self {
        let text = "x".repeat(bytes);
        Self { order, text }
    }
}

pub(crate) const OUT: Output<Order> = Output::new("out");
pub(crate) const IN: Input<Order> = Input::new("in");

/// Result of one run.
pub(crate) struct Ran {
    /// Messages per second, from the first one sent to the last one received.
    pub(crate) rate: f64,
    /// CPU time of this process in microseconds per message.
    pub(crate) cpu_us: f64,
}

/// Runs a manifest to its end in a folder of its own.
pub(crate) fn run(
    folder: &Path,
    transport: &str,
    services: &str,
    catalog: Catalog,
    count: u64,
) -> Ran {
    let catalog = catalog.with_source::<Orders<Order>>().with::<Sink<Order>>();
    let ran = flow::run(
        folder,
        &format!("transport = \"{transport}\""),
        services,
        &catalog,
        &brickwork_bridges::all(),
        Workers::Threads,
        Some(count),
    );
    Ran {
        rate: count as f64 / ran.seconds,
        cpu_us: ran.cpu_seconds / count as f64 * 1e6,
    }
}
