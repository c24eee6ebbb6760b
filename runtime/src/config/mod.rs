//! Types for configs: durations, sizes, paths and secrets as people write them.
//!
//! Each says in its JSON Schema (`format`) what it is, so that the manifest can resolve
//! paths, find secrets, and explain what it expects.

mod duration;
mod path;
mod secret;
mod size;
mod text_format;

pub use duration::{HumanDuration, parse_duration};
pub use path::ManifestPath;
pub use secret::Secret;
pub use size::{ByteSize, parse_size};

/// `format` of a [`ManifestPath`] in a JSON Schema.
pub const PATH_FORMAT: &str = "path";
/// `format` of a [`Secret`] in a JSON Schema.
pub const SECRET_FORMAT: &str = "password";
