//! The HTTP client of all service types that call the outside.
//!
//! The client is hyper-util's with a connector of our own, not reqwest. The connector is where
//! addresses are checked, so that name resolution, check and connect are one step, also behind a
//! proxy; the marker of a connection's age, which bounds its lifetime, and the difference between
//! *not sent* and *outcome unknown* are both at hand there. reqwest offers neither, and twice as
//! many new crates. HTTP/1.1 only.
//!
//! | module | content |
//! | --- | --- |
//! | `request` | requests, answers and errors |
//! | `settings` | settings of a client |
//! | `verdict` | the consequence of a call for its message |
//! | `address` | hosts and addresses that may be called |
//! | `connector`, `tcp`, `proxy`, `tls` | connections |
//! | `headers`, `body` | headers of requests, bodies of answers |
//! | `exchange` | one request with its answer |
//! | `credentials`, `oauth` | credentials, tokens of OAuth 2 |
//! | `hosts`, `limit` | breaker, limit and pause of each host |
//! | `client` | the client: credentials, redirects |

mod address;
mod body;
mod client;
mod connector;
mod credentials;
mod exchange;
mod headers;
mod hosts;
mod limit;
mod oauth;
mod proxy;
mod request;
mod settings;
mod tcp;
mod tls;
mod verdict;

pub(crate) use address::AllowList;
pub(crate) use client::HttpClient;
pub use credentials::{AuthSettings, OAuth2Settings};
pub(crate) use headers::parse_name as parse_header_name;
pub(crate) use request::{Answer, CallError, OutsideRequest};
pub(crate) use settings::ClientSettings;
pub use settings::TlsSettings;
pub(crate) use verdict::{Verdict, retry_after};
