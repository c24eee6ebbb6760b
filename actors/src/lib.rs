//! Ready-made service types, and the `brickwork` command over them.
//!
//! A file each; what a type's config holds, what can go wrong and how it looks in a
//! manifest stand in its file, and `brickwork describe NAME` prints them.

mod chaos;
mod expression;
mod file_out;
mod filter;
mod json;
mod log;
mod map;
mod ports;
mod route;

use brickwork::Catalog;

pub use chaos::{Chaos, ChaosConfig};
pub use expression::{Condition, Expression, Scope};
pub use file_out::{FileOut, FileOutConfig};
pub use filter::{Filter, FilterConfig};
pub use log::{Level, Log, LogConfig};
pub use map::{Map, MapConfig};
pub use route::{Mode, Route, RouteConfig, Rule};

/// Every service type of this crate.
pub fn catalog() -> Catalog {
    Catalog::new()
        .with::<Chaos>()
        .with::<FileOut>()
        .with::<Filter>()
        .with::<Log>()
        .with::<Map>()
        .with::<Route>()
}
