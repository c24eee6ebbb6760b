//! From a URL to a transport: what a program is built with.

use std::path::Path;
use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::memory::MemoryConnector;
use super::{
    Backpressure, Guarantees, Inspection, Prune, Pruned, SearchBounds, SearchQuery, SearchResult,
    Topology, Transport, TransportError,
};

/// Makes transports of one or more URL schemes.
///
/// A program hands the ones that it has to [`crate::cli::main`], by scheme; the runtime
/// itself brings `memory:`.
pub trait Connector: Send + Sync {
    /// The schemes that it answers to, such as `["amqp", "amqps"]`.
    fn schemes(&self) -> &'static [&'static str];

    /// What transports of a scheme promise, known before connecting.
    fn guarantees(&self, scheme: &str) -> Guarantees;

    /// The URL with the relative paths in it, if there can be any, joined to `folder`:
    /// that of the manifest that names them.
    fn resolve(&self, url: &str, folder: &Path) -> String {
        let _ = folder;
        url.to_owned()
    }

    /// The URL of an app that names none, with this folder for its data: for a transport
    /// that needs nothing else. The first connector that has one decides; without any it is
    /// `memory:`.
    fn default_url(&self, data: &Path) -> Option<String> {
        let _ = data;
        None
    }

    /// Says what is wrong with a URL, and with the files that it names, without
    /// connecting.
    ///
    /// # Errors
    /// What is wrong, in words, without secrets.
    fn check(&self, url: &str) -> Result<(), String>;

    /// Looks at what is there before an app of this topology runs, and changes nothing.
    ///
    /// # Errors
    /// It can't be reached, or refused to let us in.
    fn inspect<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
    ) -> BoxFuture<'a, Result<Inspection, TransportError>> {
        let _ = topology;
        Box::pin(async move { Ok(Inspection::nothing_to_ask(scheme_of(url))) })
    }

    /// Finds what earlier manifests of the app left there, and removes what nothing needs,
    /// if that is wanted. Touches nothing of other apps.
    ///
    /// # Errors
    /// It can't be reached, or refused to let us in.
    fn prune<'a>(
        &'a self,
        url: &'a str,
        topology: &'a Topology,
        how: Prune,
    ) -> BoxFuture<'a, Result<Pruned, TransportError>> {
        let _ = (topology, how);
        let scheme = scheme_of(url);
        let note = format!("{scheme}: goes with its process, and leaves nothing over");
        Box::pin(async move {
            Ok(Pruned {
                notes: vec![note],
                ..Pruned::default()
            })
        })
    }

    /// Looks for messages in the queues that an app left behind, while nobody uses them, and
    /// changes nothing there.
    ///
    /// # Errors
    /// There is nothing to look at, or it can't be read; [`TransportError::Unsupported`]
    /// where there is nothing to look at without connecting.
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
}

/// The transports that a program has, by URL scheme.
#[derive(Clone)]
pub struct Transports(Vec<Arc<dyn Connector>>);

impl Default for Transports {
    fn default() -> Self {
        Self(vec![Arc::new(MemoryConnector)])
    }
}

impl Transports {
    /// Only `memory:`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector.
    #[must_use]
    pub fn with(mut self, connector: impl Connector + 'static) -> Self {
        self.0.push(Arc::new(connector));
        self
    }

    /// The connector for a URL, by its scheme.
    pub fn for_url(&self, url: &str) -> Option<&dyn Connector> {
        let scheme = scheme_of(url);
        self.0
            .iter()
            .find(|c| c.schemes().contains(&scheme))
            .map(|c| &**c)
    }

    /// The URL of an app that names none, with this folder for its data.
    pub(crate) fn default_url(&self, data: &Path) -> String {
        let mut own = self.0.iter().filter_map(|c| c.default_url(data));
        own.next().unwrap_or_else(|| "memory:".to_owned())
    }

    /// Every scheme that can be used.
    pub fn schemes(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.0.iter().flat_map(|c| c.schemes().iter().copied())
    }
}

/// The part of a URL before the first colon.
pub fn scheme_of(url: &str) -> &str {
    url.split_once(':').map_or("", |(scheme, _)| scheme)
}
