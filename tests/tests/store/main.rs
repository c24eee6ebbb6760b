//! The store: what a service keeps, and what happens once because of it.

use brickwork::prelude::*;

mod effects;
mod files;
mod relay;
mod till;
