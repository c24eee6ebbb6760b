//! Sources: services that start messages from outside.

use super::ports::PortTable;
use super::{Config, ConfigError, Output, Payload, Request, SourceContext};
use crate::failure::Failure;

/// A service type that starts messages: from a file, from HTTP, by a clock.
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
///     async fn run(_: &NoConfig, out: &mut Outlet) -> Result<(), Failure> {
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
    /// Its name in catalogs: `use = "NAME"`.
    const NAME: &'static str;
    /// What it does, in one line.
    const SUMMARY: &'static str = "";
    /// A piece of manifest that shows it in use.
    const EXAMPLE: &'static str = "";
    /// What can go wrong, a line each, for people who operate it.
    const FAILURES: &'static [&'static str] = &[];
    /// It runs once in an app of many processes: of those that could run it one does, the
    /// others stand by, and one of them takes over when that one stops, dies or loses the
    /// transport. The one that takes over starts from its own position.
    const SINGLE: bool = true;
    /// What the manifest's `config` holds.
    type Config: Config;

    /// Names its ports. They may depend on the config.
    fn ports(config: &Self::Config, ports: &mut SourcePorts);

    /// Says what is wrong with a config that has the right form.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(config: &Self::Config) -> Result<(), Vec<ConfigError>> {
        let _ = config;
        Ok(())
    }

    /// Whether it comes to an end by itself (a file does, a clock never).
    fn ends(config: &Self::Config) -> bool {
        let _ = config;
        false
    }

    /// How many of its messages may be under way, not yet taken over by the transport.
    fn in_flight(config: &Self::Config) -> usize {
        let _ = config;
        256
    }

    /// Sends messages until there are no more, or until `out` says to stop.
    ///
    /// # Errors
    /// Something failed: it is run again after the restart back-off.
    async fn run(config: &Self::Config, out: &mut SourceContext) -> Result<(), Failure>;
}

/// Collects a source's ports in [`Source::ports`].
#[derive(Default)]
pub struct SourcePorts(pub(super) PortTable);

impl SourcePorts {
    /// An output.
    pub fn output<M: Payload>(&mut self, output: &Output<M>) -> &mut Self {
        self.0.output(output);
        self
    }

    /// An output for questions, answered by a service.
    pub fn request<M: Payload, R: Payload>(&mut self, request: &Request<M, R>) -> &mut Self {
        self.0.request(request);
        self
    }
}
