//! Types for configs: durations, sizes, paths and secrets as people write them.
//!
//! The JSON Schema of each type has a `format` or a `pattern`. The manifest resolves paths,
//! finds secrets and explains wrong values by it.

mod duration;
mod limit_name;
mod path;
mod secret;
mod size;
mod text_format;

pub use duration::{HumanDuration, parse_duration};
pub use limit_name::LimitName;
pub use path::ManifestPath;
pub use secret::Secret;
pub use size::{ByteSize, parse_size};

/// `format` of a [`LimitName`] in a JSON Schema.
pub const LIMIT_FORMAT: &str = "limit";
/// `format` of a [`ManifestPath`] in a JSON Schema.
pub const PATH_FORMAT: &str = "path";
/// `format` of a [`Secret`] in a JSON Schema.
pub const SECRET_FORMAT: &str = "password";
