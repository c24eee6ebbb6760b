//! Sources: services that bring messages in from outside.

use std::net::SocketAddr;

use super::config::{Config, ConfigError};
use super::http_route::HttpRoute;
use super::payload::Payload;
use super::port::{Output, Request};
use super::ports::PortTable;
use super::source_context::SourceContext;
use crate::failure::Failure;

/// A service type that brings messages in from outside: a file, HTTP, a clock.
///
/// ```
/// use brickwork::prelude::*;
///
/// const NUMBERS: Output<u32> = Output::new("out");
///
/// struct Count;
///
/// impl Source for Count {
///     const NAME: &'static str = "count";
///     type Config = NoConfig;
///
///     fn ports(_: &NoConfig, ports: &mut SourcePorts) {
///         ports.output(&NUMBERS);
///     }
///
///     async fn run(_: &NoConfig, out: &mut SourceContext) -> Result<(), Failure> {
///         for number in 0..10 {
///             out.send(&NUMBERS, number).await?;
///         }
///         Ok(())
///     }
/// }
/// # let _ = Catalog::new().with_source::<Count>();
/// ```
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait Source: Sized + 'static {
    /// Name in catalogs: `use = "NAME"`.
    const NAME: &'static str;
    /// Purpose, in one line.
    const SUMMARY: &'static str = "";
    /// Manifest excerpt that uses the type.
    const EXAMPLE: &'static str = "";
    /// Possible failures, one line each, for operators.
    const FAILURES: &'static [&'static str] = &[];
    /// Whether the source runs once in an app of several processes. One process holds the
    /// lease and runs it, the others stand by. When that process stops, dies or loses the
    /// transport, another one takes over and starts from its own saved position.
    const SINGLE: bool = true;
    /// Type of the manifest's `config`; [`NoConfig`](crate::NoConfig) for none.
    type Config: Config;

    /// Declares the ports. They may depend on the config.
    fn ports(config: &Self::Config, ports: &mut SourcePorts);

    /// Validates a config that has the right types.
    ///
    /// # Errors
    /// All errors in the config.
    fn check(config: &Self::Config) -> Result<(), Vec<ConfigError>> {
        let _ = config;
        Ok(())
    }

    /// Returns whether the source ends by itself: a file does, a clock does not.
    fn ends(config: &Self::Config) -> bool {
        let _ = config;
        false
    }

    /// Returns the address that the source listens on. `check` reports an address that two
    /// listeners of a process have.
    fn listens(config: &Self::Config) -> Option<SocketAddr> {
        let _ = config;
        None
    }

    /// Returns the routes that the source serves over HTTP, for `brickwork export openapi`.
    fn http_routes(config: &Self::Config) -> Vec<HttpRoute> {
        let _ = config;
        Vec::new()
    }

    /// Returns the maximum number of messages in flight: sent and not yet confirmed.
    fn in_flight(config: &Self::Config) -> usize {
        let _ = config;
        256
    }

    /// Sends messages until there are no more, or until `out` says to stop.
    ///
    /// # Errors
    /// A failure of the source: the host runs it again after the restart back-off.
    async fn run(config: &Self::Config, out: &mut SourceContext) -> Result<(), Failure>;
}

/// Declares the ports of a source in [`Source::ports`].
#[derive(Default)]
pub struct SourcePorts {
    pub(super) table: PortTable,
}

impl SourcePorts {
    /// Adds an output.
    pub fn output<M: Payload>(&mut self, output: &Output<M>) -> &mut Self {
        self.table.output(output);
        self
    }

    /// Adds an output for requests, which a service answers.
    pub fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) -> &mut Self {
        self.table.request(request);
        self
    }
}
