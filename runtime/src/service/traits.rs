//! The traits of a service type: start, handle, tick and stop.

use super::config::{Config, ConfigError};
use super::context::Context;
use super::port::Tick;
use super::ports::Ports;
use crate::failure::Failure;
use crate::sqlite::Migration;

/// A service type: an actor with one job.
///
/// A value of the type is one instance. It handles one message at a time on one thread, so
/// `&mut self` needs no lock and futures need not be `Send`. More instances give concurrency.
/// Messages keep their order only with one instance and without retries, or
/// [by key](Service::KEY).
///
/// Every hook may fail or panic. The host then retries the handled message, drops the
/// instance and creates a new one with [`start`](Service::start). Other services go on.
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
    /// Name in catalogs: `use = "NAME"`.
    const NAME: &'static str;
    /// Purpose, in one line.
    const SUMMARY: &'static str = "";
    /// Manifest excerpt that uses the type.
    const EXAMPLE: &'static str = "";
    /// Possible failures, one line each, for operators.
    const FAILURES: &'static [&'static str] = &[];
    /// Migrations that create the tables of the [store](crate::Store), in order. If there are
    /// any, the manifest entry must have `store = true`.
    const STORE: &'static [Migration] = &[];
    /// Field of the messages that is their [key](crate::Key), in each input. Messages of one key
    /// are then handled one at a time, in order. Empty for no key. `services.S.key` in a manifest
    /// overrides it.
    const KEY: &'static str = "";
    /// Type of the manifest's `config`; [`NoConfig`](crate::NoConfig) for none.
    type Config: Config;

    /// Declares the ports. They may depend on the config.
    fn ports(config: &Self::Config, ports: &mut Ports<Self>);

    /// Validates a config that has the right types.
    ///
    /// # Errors
    /// All errors in the config.
    fn check(config: &Self::Config) -> Result<(), Vec<ConfigError>> {
        let _ = config;
        Ok(())
    }

    /// Returns the number of messages that one instance of the manifest handles at once. The
    /// host runs as many loops for each instance; every loop has its own value, created by
    /// [`start`](Service::start), and its own number. For a service whose values share one
    /// resource that works on many messages at once, such as a connection or a child process.
    fn concurrency(config: &Self::Config) -> usize {
        let _ = config;
        1
    }

    /// Creates an instance, at first and after each crash.
    ///
    /// # Errors
    /// The instance can't work now: the host tries again after the restart back-off.
    async fn start(config: &Self::Config, cx: &mut Context) -> Result<Self, Failure>;

    /// Runs at the interval of a tick that [`ports`](Service::ports) declared.
    ///
    /// # Errors
    /// A failure of the instance: it restarts, and the messages emitted by this tick are
    /// discarded.
    async fn tick(&mut self, tick: Tick, cx: &mut Context) -> Result<(), Failure> {
        let _ = (tick, cx);
        Ok(())
    }

    /// Runs before an instance ends in a graceful stop.
    ///
    /// # Errors
    /// The host logs the failure.
    async fn stop(&mut self, cx: &mut Context) -> Result<(), Failure> {
        let _ = cx;
        Ok(())
    }
}

/// Handles messages of type `M`; a caller that asked gets the reply `R`. For a [`Service`] or an
/// entity.
///
/// A service with several inputs for messages of one type names a type of its own as `P` for each
/// of them, and declares them with [`Ports::input_as`].
///
/// An example stands at [`Service`].
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait Handle<M, R = (), P = ()>: Sized + 'static {
    /// Handles one message. The host publishes the emitted messages after `Ok`, and acks the
    /// message when they are confirmed.
    ///
    /// # Errors
    /// The kind of the [`Failure`] decides whether the host retries the message, defers it or
    /// dead-letters it.
    async fn handle(&mut self, message: M, cx: &mut Context) -> Result<R, Failure>;
}

/// Handles messages of type `M` in batches.
///
/// ```
/// use brickwork::prelude::*;
/// # struct Indexer;
/// # impl Service for Indexer {
/// #     const NAME: &'static str = "indexer";
/// #     type Config = NoConfig;
/// #     fn ports(_: &NoConfig, _: &mut Ports<Self>) {}
/// #     async fn start(_: &NoConfig, _: &mut Context) -> Result<Self, Failure> { Ok(Self) }
/// # }
/// # async fn write_all(documents: &[String]) -> Result<(), Failure> { Ok(()) }
/// impl HandleBatch<String> for Indexer {
///     async fn handle_batch(
///         &mut self,
///         documents: Vec<String>,
///         _: &mut Context,
///     ) -> Vec<Result<(), Failure>> {
///         let written = write_all(&documents).await;
///         documents.iter().map(|_| written.clone()).collect()
///     }
/// }
/// ```
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait HandleBatch<M, P = ()>: Service {
    /// Handles a batch and returns one outcome for each message, in order.
    ///
    /// Emit with [`Context::emit_for`], which names the message. If the handler panics or runs
    /// out of time, the host retries each message alone, so that only the culprit is blamed.
    async fn handle_batch(&mut self, batch: Vec<M>, cx: &mut Context) -> Vec<Result<(), Failure>>;
}
