//! Settings of the client.

use std::time::Duration;

use brickwork::config::{ManifestPath, Secret};
use brickwork::supervision::BreakerPolicy;
use schemars::JsonSchema;
use serde::Deserialize;

use super::credentials::AuthSettings;
use super::proxy::Proxy;

/// Settings of the client. A service type fills them from its config.
#[derive(Debug, Clone)]
pub(crate) struct ClientSettings {
    /// Hosts that may be called; see [`AllowList`](super::AllowList). Empty allows none.
    pub(crate) allow: Vec<String>,
    /// Time for name resolution, connect, proxy and TLS handshake together.
    pub(crate) connect_timeout: Duration,
    /// Time for a request with connect, redirects and the whole answer.
    pub(crate) timeout: Duration,
    /// Maximum size of an answer's body in bytes, before and after decompression.
    pub(crate) max_response: usize,
    /// Maximum redirects that are followed; 0 refuses them.
    pub(crate) max_redirects: u32,
    /// URL of an HTTP proxy, with user and password if it needs them.
    pub(crate) proxy: Option<Secret>,
    /// Certificates.
    pub(crate) tls: TlsSettings,
    /// Credentials for every host of `allow`.
    pub(crate) auth: Option<AuthSettings>,
    /// Age at which a connection is not used again, so that changes in DNS are seen.
    pub(crate) connection_lifetime: Duration,
    /// Time after which an unused connection is closed.
    pub(crate) idle_timeout: Duration,
    /// When the breaker of a host opens; `None` for no breakers.
    pub(crate) breaker: Option<BreakerPolicy>,
    /// Maximum requests in flight to one host.
    pub(crate) max_in_flight: usize,
    /// Whether a host that becomes slow gets fewer requests at once.
    pub(crate) adaptive: bool,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self {
            allow: Vec::new(),
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(10),
            max_response: 1024 * 1024,
            max_redirects: 0,
            proxy: None,
            tls: TlsSettings::default(),
            auth: None,
            connection_lifetime: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(60),
            breaker: Some(BreakerPolicy::default()),
            max_in_flight: 64,
            adaptive: true,
        }
    }
}

impl ClientSettings {
    /// Returns the key of a setting that is wrong, and how it is wrong.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        let proxy = self.proxy.as_ref().map(|url| Proxy::parse(url.reveal()));
        proxy.and_then(|parsed| Some(("proxy", parsed.err()?)))
    }
}

/// Certificates for `https`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// PEM file with certificates of authorities that are trusted beside those of the system.
    pub ca: Option<ManifestPath>,
    /// PEM file with the client certificate and its chain, for mutual TLS. Needs `key`.
    pub certificate: Option<ManifestPath>,
    /// PEM file with the private key of the client certificate.
    pub key: Option<ManifestPath>,
}
