//! Faults: connections are cut, processes killed, brokers frozen or stopped while an app works.
//! No accepted message is lost, no service is blamed, and the app resumes by itself.
//!
//! | module | fault |
//! | --- | --- |
//! | `accounts` | random kills of the entities of `examples/5-accounts` |
//! | `cluster` | a node of a RabbitMQ cluster dies |
//! | `hundred` | the broker of a hundred services stops and comes back |
//! | `keys` | `kill -9` of an app whose messages have keys |
//! | `killed` | `kill -9` of the app, of the broker, of both, and during recovery |
//! | `network` | every fault of the network between app and broker |
//! | `never_deaf` | faults after which a connected app might no longer consume |
//! | `outage` | the broker is away for a while: requests, ticks, child processes |
//! | `shop` | random kills of the app and the broker of `examples/3-shop` |
//! | `stages` | random kills of an app with `dedup` and `aggregate` |
//! | `unconfirmed` | confirms that do not come |

mod accounts;
mod cluster;
mod hundred;
mod keys;
mod killed;
mod load;
mod network;
mod never_deaf;
mod outage;
mod shop;
mod stages;
mod unconfirmed;
