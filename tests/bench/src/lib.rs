//! What benchmarks share: the plan of a service under test, and honest statistics.
//!
//! | file | what |
//! | --- | --- |
//! | `direct` | a transport that does nothing but hand over, so that the host is measured |
//! | `rounds` | rounds of all candidates by turns, medians and ratios |

pub mod direct;
pub mod rounds;
