//! `zeromq-in` and `zeromq-out`: links between apps, and to programs that speak ZeroMQ.
//!
//! With `mode = "ack"` two apps are linked at least once: a DEALER of `zeromq-out` sends to a
//! ROUTER of `zeromq-in`, which acks a message when its own transport has it. The sockets of the
//! other modes have no acks, so messages may be lost: `push` and `pub` are done with a message
//! when it is written to a connection or queued for it, `pull` and `sub` send nothing back.
//!
//! # The link with acks
//!
//! Messages in parts, over ZMTP 3.0 without encryption:
//!
//! | from | parts |
//! | --- | --- |
//! | DEALER | `brickwork1`, `msg`, head of the message as JSON, payload |
//! | DEALER | `brickwork1`, `ping` |
//! | ROUTER | `brickwork1`, `ack`, id |
//! | ROUTER | `brickwork1`, `later`, id, reason: the app is under backpressure |
//! | ROUTER | `brickwork1`, `refused`, id, reason: the message can never be accepted |
//! | ROUTER | `brickwork1`, `pong` |
//!
//! The message keeps its id, so that a copy is recognised. The DEALER pings when nothing came
//! for a while, and both ends drop a connection on which nothing comes. It connects again with
//! back-off. Meanwhile messages wait in their queue and lose no attempt.
//!
//! | file | content |
//! | --- | --- |
//! | `wire` | ZMTP: greeting, handshake, frames, within bounds |
//! | `endpoint` | `tcp://HOST:PORT`, and the check of a list of them |
//! | `acks` | the parts of the link with acks |
//! | `inbound` | `zeromq-in` |
//! | `outbound` | `zeromq-out` |
//! | `link` | the connections of `zeromq-out` |

mod acks;
mod endpoint;
mod inbound;
mod link;
mod outbound;
mod wire;

use std::time::Duration;

pub use inbound::{InMode, ZeromqIn, ZeromqInConfig};
pub use outbound::{OutMode, ZeromqOut, ZeromqOutConfig};

/// Time between two pings on a link with acks.
const PING_EVERY: Duration = Duration::from_secs(5);
/// Time without a byte from the peer after which a link with acks is dropped.
const SILENCE_MAX: Duration = Duration::from_secs(16);
/// Time for a write: the peer reads nothing.
const WRITE_WITHIN: Duration = Duration::from_secs(10);
/// First and longest wait before the next try to connect.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
