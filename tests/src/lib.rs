//! What tests that cross crates share.

pub mod binary;
pub mod http;
pub mod process;
