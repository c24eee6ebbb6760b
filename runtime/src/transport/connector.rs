//! Connectors: create transports from URLs. A program lists the connectors that it is built with.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;

use super::memory::MemoryConnector;
use super::{
    Backpressure, Guarantees, Inspection, Prune, Pruned, SearchBounds, SearchQuery, SearchResult,
    Topology, Transport, TransportError,
};

/// Returns the URL of a transport with the present content of the files that it names.
///
/// An error describes the problem, without secrets.
pub type RenewUrl = Arc<dyn Fn() -> Result<String, String> + Send + Sync>;

/// Creates transports for one or more URL schemes.
///
/// A program passes its connectors to [`crate::cli::main`]. The runtime itself has `memory:`.
pub trait Connector: Send + Sync {
    /// Returns the URL schemes, such as `["amqp", "amqps"]`.
    fn schemes(&self) -> &'static [&'static str];

    /// Returns the promises of transports of a scheme, before connecting.
    fn guarantees(&self, scheme: &str) -> Guarantees;

    /// Returns the URL with its relative paths joined to `folder`, which is the folder of the
    /// manifest.
    fn resolve(&self, url: &str, folder: &Path) -> String {
        let _ = folder;
        url.to_owned()
    }

    /// Returns the URL for an app that names none and keeps its data in this folder. The first
    /// connector that returns one decides; without any the URL is `memory:`.
    fn default_url(&self, data: &Path) -> Option<String> {
        let _ = data;
        None
    }

    /// Validates a URL and the files that it names, without connecting.
    ///
    /// # Errors
    /// A description of the problem, without secrets.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Returns how long a message may be in flight before the transport delivers it again, as far
    /// as the URL tells. `None` without a limit.
    fn in_flight_max(&self, url: &str) -> Option<Duration> {
        let _ = url;
        None
    }

    /// Inspects the queues and bindings before an app with this topology runs, and changes nothing.
    ///
    /// # Errors
    /// The broker can't be reached or refuses access.
    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        let _ = topology;
        Box::pin(async move { Ok(Inspection::nothing_to_ask(scheme_of(url))) })
    }

    /// Finds queues and bindings that earlier manifests of the app left behind. Removes the
    /// unneeded ones if `how` says so. Leaves other apps alone.
    ///
    /// # Errors
    /// The broker can't be reached or refuses access.
    fn prune<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
        how: Prune,
    ) -> BoxFuture<'a, Result<Pruned, TransportError>> {
        let _ = (topology, how);
        let scheme = scheme_of(url);
        let note = format!("{scheme}: ends with its process and leaves nothing over");
        Box::pin(async move {
            Ok(Pruned {
                notes: vec![note],
                ..Pruned::default()
            })
        })
    }

    /// Searches the queues of an app that is not running, and changes nothing.
    ///
    /// # Errors
    /// There are no queues, or they can't be read. [`TransportError::Unsupported`] if they can't be
    /// read without connecting.
    fn search_offline<'a>(
        &'a self,
        url: &'a str,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        let _ = (url, wanted, bounds);
        Box::pin(async { Err(TransportError::Unsupported("searching queues at rest")) })
    }

    /// Connects.
    fn connect<'a>(
        &'a self,
        url: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>>;

    /// Connects, and calls `renew` before each later connection: a password may have been rotated.
    fn connect_renewing<'a>(
        &'a self,
        url: &'a str,
        renew: Option<RenewUrl>,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        let _ = renew;
        self.connect(url, pressure)
    }
}

/// The connectors of a program, by URL scheme.
#[derive(Clone)]
pub struct Transports(Vec<Arc<dyn Connector>>);

impl Default for Transports {
    fn default() -> Self {
        Self(vec![Arc::new(MemoryConnector)])
    }
}

impl Transports {
    /// Returns the connector for `memory:` alone.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector.
    #[must_use]
    pub fn with(mut self, connector: impl Connector + 'static) -> Self {
        self.0.push(Arc::new(connector));
        self
    }

    /// Returns the connector for a URL.
    pub fn for_url(&self, url: &str) -> Option<&dyn Connector> {
        let scheme = scheme_of(url);
        self.0
            .iter()
            .find(|c| c.schemes().contains(&scheme))
            .map(|c| &**c)
    }

    /// Returns the URL for an app that names none and keeps its data in this folder.
    pub(crate) fn default_url(&self, data: &Path) -> String {
        let mut own = self.0.iter().filter_map(|c| c.default_url(data));
        own.next().unwrap_or_else(|| "memory:".to_owned())
    }

    /// Returns every supported scheme.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().flat_map(|c| c.schemes().iter().copied())
    }
}

/// Returns the part of a URL before the first colon.
pub fn scheme_of(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}
