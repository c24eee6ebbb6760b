//! Shared parts of the benchmarks: the plan of a service under test, and honest statistics.
//!
//! | module | content |
//! | --- | --- |
//! | `direct` | a minimal transport, to measure the host alone |
//! | `flow` | orders from a source to a sink, and running an app of them |
//! | `raw` | lapin by hand, the reference for the RabbitMQ transport |
//! | `rounds` | alternating rounds of all candidates, medians and ratios |

pub mod direct;
pub mod flow;
pub mod raw;
pub mod rounds;
