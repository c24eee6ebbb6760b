//! Faults: whatever is cut, killed, frozen or gone, while an app works, nothing that was
//! accepted is lost, nobody is blamed for it, and work goes on by itself.
//!
//! | where | what befalls the app |
//! | --- | --- |
//! | `network` | the network between it and its broker, in every way |

mod load;
mod network;
