//! What tests that cross crates share.
//!
//! | file | what |
//! | --- | --- |
//! | `app` | an app in the test's process, with virtual time |
//! | `binary` | where the shipped binary is |
//! | `http` | a very small HTTP client |
//! | `process` | servers that tests start: private, bounded, stopped by process id |
//! | `puppet` | a service that does what messages tell it to |

pub mod app;
pub mod binary;
pub mod broker;
pub mod http;
pub mod process;
pub mod puppet;
