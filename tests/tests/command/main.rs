//! The command `brickwork` and its service types on one machine, without a broker.
//!
//! | module | promises on |
//! | --- | --- |
//! | `accepted` | an HTTP answer 202 comes after the message is on the disk |
//! | `clock` | a clock that is set back |
//! | `backlog` | a backlog larger than the memory |
//! | `breaker` | an open circuit breaker is seen |
//! | `damage` | damaged files of an `embedded:` transport |
//! | `disk` | the order of SQLite's writes and syncs |
//! | `entities` | the verb `entities`, and the memory of many entities |
//! | `exits` | exit codes and last output of `run` |
//! | `files` | files that are written, replaced or piped |
//! | `folder` | `check --connect` and `prune` of an `embedded:` folder |
//! | `http_in`, `http_reply` | the HTTP server |
//! | `killed`, `replayed` | `kill -9` at random moments |
//! | `moments` | `kill -9` at chosen system calls |
//! | `manifests` | wrong manifests and their reports |
//! | `outputs` | a stdout or stderr that can't be written |
//! | `process` | services as child programs in other languages |
//! | `prometheus` | metrics and alert rules, read by Prometheus |
//! | `room`, `store_room` | a full disk |
//! | `watch` | `run --watch` |
//! | `zeromq` | links over ZeroMQ |

mod accepted;
mod backlog;
mod breaker;
mod clock;
mod damage;
mod disk;
mod entities;
mod exits;
mod files;
mod folder;
mod http_in;
mod http_reply;
mod killed;
mod manifests;
mod moments;
mod outputs;
mod process;
mod prometheus;
mod replayed;
mod room;
mod store_room;
mod watch;
mod zeromq;
