//! A server for HTTP/1.1 that no client can exhaust: the admin endpoint and `http-in` run on it.
//!
//! Connections are limited in number, and each phase of a connection has a time limit. At the
//! maximum of connections, clients that send nothing are disconnected after a second, so that
//! those who wait to be accepted get their turn.
//!
//! | file | content |
//! | --- | --- |
//! | `server` | accepts connections, bounds their number, closes them at the stop |
//! | `connection` | one connection, from its first byte to a close that loses no response |
//! | `io_deadline` | the phase of a connection, and its deadline |
//! | `host` | the header Host: protection against DNS rebinding |

mod connection;
mod host;
mod io_deadline;
mod server;

pub use host::{HostProblem, IsAccepted, check_host};
pub use server::{Limits, Server};
