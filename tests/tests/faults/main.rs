//! Faults: whatever is cut, killed, frozen or gone, while an app works, nothing that was
//! accepted is lost, nobody is blamed for it, and work goes on by itself.
//!
//! | where | what befalls the app |
//! | --- | --- |
//! | `hundred` | the broker of a hundred services goes and comes back |
//! | `killed` | `kill -9` of the app, of the broker, of both, while they recover |
//! | `network` | the network between it and its broker, in every way |
//! | `outage` | the broker is gone for a while: askers, ticks, processes apart |
//! | `unconfirmed` | confirms that don't come |

mod hundred;
mod killed;
mod load;
mod network;
mod outage;
mod unconfirmed;
