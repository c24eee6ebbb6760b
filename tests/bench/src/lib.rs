//! What benchmarks share: the plan of a service under test, and honest statistics.
//!
//! | file | what |
//! | --- | --- |
//! | `direct` | a transport that does nothing but hand over, so that the host is measured |
//! | `flow` | orders from a source to a sink, and running an app of them |
//! | `raw` | lapin by hand: what the RabbitMQ transport is measured beside |
//! | `rounds` | rounds of all candidates by turns, medians and ratios |

pub mod direct;
pub mod flow;
pub mod raw;
pub mod rounds;
