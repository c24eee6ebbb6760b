//! Entities: instances that belong to one key each, with a state that is saved with each message.
//!
//! | module | content |
//! | --- | --- |
//! | `active` | the entities in memory, least recently used first |
//! | `erased` | the service that holds the entities of a type |
//! | `lookup` | reads of states and inbox entries, many at a time |
//! | `reminders` | messages of an entity to itself |
//! | `work` | the part of a handler's context that belongs to its entity |
//!
//! # A message, step by step
//! 1. The host hands out one message of a key at a time.
//! 2. The inbox is asked: a message that was done before ends here. In the same step the state is
//!    read, unless the entity is in memory.
//! 3. The entity is taken out of memory, and its handler runs.
//! 4. State, inbox entry, outputs and reminders commit together, if the version of the saved
//!    state is still the one that was read.
//! 5. The entity goes back into memory. After a failure, a panic or a timeout in steps 3 and 4 it
//!    is dropped instead: the next message reads the saved state.

mod active;
mod erased;
mod lookup;
mod reminders;
mod work;

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

#[cfg(feature = "testing")]
pub(crate) use erased::EntityBlueprint;
pub use reminders::ReminderId;
pub(super) use work::{EntityWork, EntityWrite};

use super::config::{Config, ConfigError};
use super::context::Context;
use super::ports::Ports;
use crate::failure::Failure;
use crate::key::Key;

/// An entity type: an actor for each key, such as an account or a device.
///
/// A value of the type is the entity of one key. It is started at the first message of its key,
/// kept in memory while it is busy, and its state is saved in the transaction of each message. So a
/// message has its effect exactly once, also if the process is killed. A panic harms one message of
/// one entity.
///
/// The attribute [`entity`](macro@crate::entity) writes the impl of this trait. By hand:
///
/// ```
/// use brickwork::prelude::*;
/// use brickwork::testing::TestApp;
///
/// #[message]
/// struct Deposit { account: String, cents: i64 }
/// #[message]
/// struct Balance { account: String, cents: i64 }
///
/// const DEPOSITS: Input<Deposit> = Input::new("deposits");
/// const BALANCES: Output<Balance> = Output::new("balances");
///
/// #[message]
/// #[derive(Default)]
/// struct Account { cents: i64 }
///
/// impl Entity for Account {
///     const NAME: &'static str = "account";
///     const KEY: &'static str = "account";
///     type Config = NoConfig;
///
///     fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
///         ports.input(&DEPOSITS).output(&BALANCES);
///     }
///
///     async fn start(_: &Key, _: &NoConfig, _: &mut Context) -> Result<Self, Failure> {
///         Ok(Self::default())
///     }
/// }
///
/// impl Handle<Deposit> for Account {
///     async fn handle(&mut self, deposit: Deposit, cx: &mut Context) -> Result<(), Failure> {
///         self.cents += deposit.cents;
///         cx.emit(&BALANCES, Balance { account: deposit.account, cents: self.cents })
///     }
/// }
///
/// let app = TestApp::of_entity::<Account>(NoConfig {});
/// for cents in [3, 4] {
///     app.send(&DEPOSITS, Deposit { account: "ada".into(), cents });
/// }
/// assert_eq!(app.expect(&BALANCES).cents, 3);
/// assert_eq!(app.expect(&BALANCES).cents, 7);
/// ```
#[allow(async_fn_in_trait, reason = "futures of services stay on their thread")]
pub trait Entity: Serialize + DeserializeOwned + Send + Sized + 'static {
    /// Name in catalogs: `use = "NAME"`.
    const NAME: &'static str;
    /// Purpose, in one line.
    const SUMMARY: &'static str = "";
    /// Manifest excerpt that uses the type.
    const EXAMPLE: &'static str = "";
    /// Possible failures, one line each, for operators.
    const FAILURES: &'static [&'static str] = &[];
    /// Field of the messages that is the [key](crate::Key) of their entity, in each input.
    /// `services.S.key` in a manifest overrides it.
    const KEY: &'static str;
    /// Time without a message after which an entity leaves memory.
    const IDLE: Duration = Duration::from_secs(60);
    /// Maximum entities in memory. Above it those leave that were used least recently.
    const ACTIVE_MAX: usize = 10_000;
    /// Type of the manifest's `config`; [`NoConfig`](crate::NoConfig) for none.
    type Config: Config;

    /// Declares the ports, without batches and ticks: an entity handles one message at a time, and
    /// can't tick while it is not in memory. Use [`Context::remind`] instead.
    fn ports(config: &Self::Config, ports: &mut Ports<Self>);

    /// Validates a config that has the right types.
    ///
    /// # Errors
    /// All errors in the config.
    fn check(config: &Self::Config) -> Result<(), Vec<ConfigError>> {
        let _ = config;
        Ok(())
    }

    /// Creates the entity of a key that has no saved state. It is part of handling the first
    /// message, and is saved with it.
    ///
    /// # Errors
    /// The message fails, and no entity is saved.
    async fn start(key: &Key, config: &Self::Config, cx: &mut Context) -> Result<Self, Failure>;
}
