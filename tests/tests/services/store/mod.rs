//! The store: a service's own database, with exactly-once effects.

use brickwork::prelude::*;

mod effects;
mod files;
mod relay;
mod till;
