//! Rules for the source code itself: plain words, and modules in layers.
//!
//! | module | content |
//! | --- | --- |
//! | `words` | comments and texts name their subject |
//! | `layers` | modules import only modules of lower layers |
//! | `files` | the source files of each room |
//! | `lexer` | splits Rust into code, comments and string literals |
//! | `imports` | the modules that a file uses |
//! | `circles` | modules that import each other |

mod circles;
mod files;
mod imports;
mod layers;
mod lexer;
mod words;
