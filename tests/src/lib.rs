//! What tests across crates share.
//!
//! | file | what |
//! | --- | --- |
//! | `app` | an app in the test's process, with virtual time |
//! | `puppet` | a service that does what messages tell it to |

pub mod app;
pub mod puppet;
