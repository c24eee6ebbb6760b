//! The service API: what one writes to make a service.
//!
//! A service is a value with handlers for its inputs. It never sees a transport, a
//! thread or its neighbours; the [host](crate::host) runs it.

use std::fmt::Debug;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::sqlite::Migration;

mod actor;
mod catalog;
mod context;
mod descriptor;
mod erased;
mod payload;
mod port;
mod ports;
mod shared;
mod source;
mod source_output;

pub use actor::Outcome;
#[cfg(feature = "testing")]
pub(crate) use catalog::TypeMetadata;
pub use catalog::{Catalog, ConfigError, ServiceType};
pub use context::Context;
pub(crate) use context::{PendingEmit, Work};
pub use descriptor::{Descriptor, PortDescriptor};
pub(crate) use erased::{ConfiguredType, Instance, InstanceFactory, Kind, Reply, Run};
#[cfg(feature = "testing")]
pub(crate) use erased::{ServiceBlueprint, SourceBlueprint};
pub use payload::{CodecError, Payload, Raw};
pub use port::{Input, Output, Request, Tick};
#[cfg(any(test, feature = "testing"))]
pub(crate) use ports::PortTable;
pub(crate) use ports::TickSpec;
pub use ports::{Batch, Ports};
pub(crate) use shared::Shared;
pub use source::{Source, SourcePorts};
pub use source_output::{MessageBuilder, SendHandle, SourceContext, TrySubmitError};

/// What a manifest configures: a serde struct with documented fields.
///
/// Implemented for every type that has what it takes.
pub trait Config: DeserializeOwned + JsonSchema + Default + Debug + Send + Sync + 'static {}

impl<T: DeserializeOwned + JsonSchema + Default + Debug + Send + Sync + 'static> Config for T {}

/// A service type: an actor with one job.
///
/// One value of it is one instance: it handles one message at a time, on one thread,
/// so `&mut self` needs no lock and futures need not be `Send`. More instances give
/// concurrency; order holds with one instance and no retry.
///
/// Every hook may fail or panic: the message in hand is tried again, the instance is
/// dropped and built anew by [`start`](Service::start), nobody else notices.
///
/// ```
/// use brickwork::prelude::*;
///
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct Greet { name: String }
/// #[derive(Serialize, Deserialize, JsonSchema)]
/// struct Greeting { text: String }
///
/// const NAMES: Input<Greet> = Input::new("names");
/// const GREETINGS: Output<Greeting> = Output::new("greetings");
///
/// struct Greeter { greeted: u32 }
///
/// impl Service for Greeter {
///     const NAME: &'static str = "greeter";
///     type Config = NoConfig;
///
///     fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
///         ports.input(&NAMES).output(&GREETINGS);
///     }
///
///     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
///         Ok(Self { greeted: 0 })
///     }
/// }
///
/// impl Handle<Greet> for Greeter {
///     async fn handle(&mut self, greet: Greet, cx: &mut Context) -> Result<(), Failure> {
///         self.greeted += 1;
///         cx.emit(&GREETINGS, Greeting { text: format!("Hello, {}!", greet.name) })
///     }
/// }
///
/// let catalog = Catalog::new().with::<Greeter>();
/// assert!(catalog.get("greeter").is_some());
/// ```
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait Service: Sized + 'static {
    /// Its name in catalogs: `use = "NAME"`.
    const NAME: &'static str;
    /// What it does, in one line.
    const SUMMARY: &'static str = "";
    /// A piece of manifest that shows it in use.
    const EXAMPLE: &'static str = "";
    /// What can go wrong, a line each, for people who operate it.
    const FAILURES: &'static [&'static str] = &[];
    /// What the tables of its [store](crate::Store) are made by, step by step. If there are
    /// any, its manifest entry must have `store = true`.
    const STORE: &'static [Migration] = &[];
    /// What the manifest's `config` holds; [`NoConfig`] for nothing.
    type Config: Config;

    /// Names its ports. They may depend on the config.
    fn ports(config: &Self::Config, ports: &mut Ports<Self>);

    /// Says what is wrong with a config that has the right form.
    ///
    /// # Errors
    /// Everything that is wrong.
    fn check(config: &Self::Config) -> Result<(), Vec<ConfigError>> {
        let _ = config;
        Ok(())
    }

    /// How many messages one instance of the manifest has in hand at once: the host runs
    /// so many loops for each, numbered on, each with a value of its own made by
    /// [`start`](Service::start). For a service whose values are lanes to one thing that
    /// works on many messages at a time, such as a connection or a child process.
    fn concurrency(config: &Self::Config) -> usize {
        let _ = config;
        1
    }

    /// Makes an instance: at first, and again after each crash.
    ///
    /// # Errors
    /// It can't work now: tried again after the restart back-off.
    async fn start(config: &Self::Config, cx: &mut Context) -> Result<Self, Failure>;

    /// Runs at each beat of a tick that [`ports`](Service::ports) named.
    ///
    /// # Errors
    /// Counts as a failure of the instance; what it emitted is not published.
    async fn tick(&mut self, tick: Tick, cx: &mut Context) -> Result<(), Failure> {
        let _ = (tick, cx);
        Ok(())
    }

    /// Runs before an instance goes, in an orderly stop only.
    ///
    /// # Errors
    /// Is logged.
    async fn stop(&mut self, cx: &mut Context) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }
}

/// Handles messages of type `M`; the answer for those who asked is an `R`.
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait Handle<M, R = ()>: Service {
    /// Handles one message. What it emits is published when it returns `Ok`.
    ///
    /// # Errors
    /// See [`Failure`] for what happens then.
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<R, Failure>;
}

/// Handles messages of type `M` many at a time.
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait HandleBatch<M>: Service {
    /// Handles what came together and returns an outcome for each message, in order.
    ///
    /// Emit with [`Context::emit_for`], which says for which message. If it panics or
    /// runs out of time, each message is tried again by itself, so that only the
    /// culprit is blamed.
    async fn handle_batch(&mut self, batch: Vec<M>, cx: &mut Context) -> Vec<Result<(), Failure>>;
}

/// The config of a service type that has nothing to configure.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct NoConfig {}
