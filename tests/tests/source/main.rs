//! Rules for the source code itself: plain words, short files, modules in layers, crates that can be packaged.
//!
//! | module | content |
//! | --- | --- |
//! | `words` | comments and texts name their subject |
//! | `layers` | modules import only modules of lower layers |
//! | `length` | no file has more than 500 lines |
//! | `log_fields` | no log line has a field named `message` |
//! | `packages` | the crates can be packaged |
//! | `files` | the source files of each room |
//! | `lexer` | splits Rust into code, comments and string literals |
//! | `imports` | the modules that a file uses |
//! | `circles` | modules that import each other |

mod circles;
mod files;
mod imports;
mod layers;
mod length;
mod lexer;
mod log_fields;
mod packages;
mod words;
