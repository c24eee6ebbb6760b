//! The service that holds the entities of one type: takes the entity of each message out of memory
//! or out of the store, and saves it with the message.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::LocalBoxFuture;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Entity;
use super::active::Active;
use super::lookup::{Found, Lookups, Question};
use super::reminders::is_reminder;
use super::work::{EntityWork, EntityWrite};
use crate::failure::Failure;
use crate::key::Key;
use crate::message::Message;
use crate::service::catalog::{Catalog, ServiceType, TypeMetadata};
use crate::service::context::{Context, TxState};
use crate::service::erased::{ConfiguredType, Instance, InstanceFactory, Kind};
use crate::service::parameters::key_of;
use crate::service::port::Tick;
use crate::service::ports::{BatchResults, Handler, PortTable, Ports, Reply, TickSpec};
use crate::service::publisher::Publisher;
use crate::sqlite::Migration;
use crate::store::entities::{ENTITY_TABLES, SavedState};

/// The tick that passivates entities.
const PASSIVATE: Tick = Tick::new("passivate");
/// Longest interval of this tick.
const PASSIVATE_MAX: Duration = Duration::from_secs(10);

impl Catalog {
    /// Adds an entity type.
    ///
    /// # Panics
    /// As [`with`](Catalog::with).
    #[must_use]
    pub fn with_entity<E: Entity>(self) -> Self {
        let metadata = TypeMetadata {
            name: E::NAME,
            role: "service",
            summary: E::SUMMARY,
            failures: E::FAILURES,
            example: E::EXAMPLE,
            single: false,
        };
        let configured = |config| Arc::new(EntityBlueprint::<E>::new(config)) as _;
        self.add(ServiceType::new(metadata, E::check, configured))
    }
}

/// An entity type with its config.
pub(crate) struct EntityBlueprint<E: Entity> {
    config: Arc<E::Config>,
    table: PortTable,
    handlers: Arc<[Handler<E>]>,
}

impl<E: Entity> EntityBlueprint<E> {
    /// # Panics
    /// The type declares a tick, which is a bug of the program.
    pub(crate) fn new(config: E::Config) -> Self {
        let mut ports = Ports::new();
        E::ports(&config, &mut ports);
        assert!(
            ports.table.ticks.is_empty(),
            "the entity {} declares a tick: it can't tick while it is not in memory, use \
             Context::remind",
            E::NAME
        );
        let interval = (E::IDLE / 4).clamp(Duration::from_millis(10), PASSIVATE_MAX);
        ports.table.ticks.push(TickSpec {
            tick: PASSIVATE,
            interval,
        });
        Self {
            config: Arc::new(config),
            table: ports.table,
            handlers: ports.handlers.into(),
        }
    }
}

impl<E: Entity> ConfiguredType for EntityBlueprint<E> {
    fn ports(&self) -> &PortTable {
        &self.table
    }

    fn role(&self) -> Kind<'_> {
        Kind::Service(self)
    }
}

impl<E: Entity> InstanceFactory for EntityBlueprint<E> {
    fn migrations(&self) -> &'static [Migration] {
        ENTITY_TABLES
    }

    fn key(&self) -> &'static str {
        E::KEY
    }

    fn holds_entities(&self) -> bool {
        true
    }

    fn start<'a>(
        &'a self,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Box<dyn Instance>, Failure>> {
        Box::pin(async move {
            let opened = cx.opened_store()?;
            let publisher = cx.publisher.clone();
            let make = async || {
                Ok(Entities {
                    active: Mutex::default(),
                    lookups: Lookups::new(opened),
                    publisher,
                })
            };
            Ok(Box::new(EntityInstance::<E> {
                entities: cx.shared(make).await?,
                config: self.config.clone(),
                handlers: self.handlers.clone(),
            }) as Box<dyn Instance>)
        })
    }
}

/// The entities that the instances of a service share.
struct Entities<E> {
    active: Mutex<Active<InMemory<E>>>,
    lookups: Arc<Lookups>,
    publisher: Arc<Publisher>,
}

/// An entity in memory.
struct InMemory<E> {
    entity: E,
    /// Version of the saved state; 0 before the first message is done.
    version: i64,
    _counted: Counted,
}

/// Counts an entity as active until it is dropped.
struct Counted(Arc<Publisher>);

impl Counted {
    fn new(publisher: &Arc<Publisher>) -> Self {
        publisher.meters.entities.started();
        Self(publisher.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.meters.entities.ended();
    }
}

/// An instance: handles one message of one entity at a time.
struct EntityInstance<E: Entity> {
    entities: Arc<Entities<E>>,
    config: Arc<E::Config>,
    handlers: Arc<[Handler<E>]>,
}

impl<E: Entity> EntityInstance<E> {
    /// Returns the entity of the handled message; `None` if the message is a reminder that was
    /// cancelled.
    ///
    /// # Errors
    /// The message was done before, the store can't be read, or the entity can't be started.
    async fn open(&self, key: &Key, cx: &mut Context) -> Result<Option<InMemory<E>>, Failure> {
        loop {
            let wants_state = !self.entities.active.lock().contains(key);
            let message = cx.handled_message();
            let question = Question {
                key: key.as_str().into(),
                wants_state,
                id: (!message.anonymous).then(|| message.id.to_string().into()),
                input: cx.input_name(),
                is_reminder: is_reminder(message),
            };
            let saved = match self.entities.lookups.ask(question).await? {
                Found::Done(reply) => return Err(cx.done_before(reply)),
                Found::Cancelled => return Ok(None),
                Found::New(saved) => saved,
            };
            if let Some(active) = self.entities.active.lock().take(key) {
                return Ok(Some(active));
            }
            // Otherwise the entity has left memory during the lookup.
            if wants_state {
                return self.load(key, saved, cx).await.map(Some);
            }
        }
    }

    /// Returns an entity that was not in memory.
    async fn load(
        &self,
        key: &Key,
        saved: Option<SavedState>,
        cx: &mut Context,
    ) -> Result<InMemory<E>, Failure> {
        let (entity, version) = match saved {
            Some(saved) => {
                let entity = serde_json::from_str(&saved.state).map_err(|error| {
                    let name = E::NAME;
                    Failure::reject(format!(
                        "the saved state of {key} is no {name} any more: {error}; give new fields \
                         `#[serde(default)]`, or remove the entity with `entities evict`"
                    ))
                })?;
                (entity, saved.version)
            }
            None => (E::start(key, &self.config, cx).await?, 0),
        };
        Ok(InMemory {
            entity,
            version,
            _counted: Counted::new(&self.entities.publisher),
        })
    }

    /// Saves the entity with its message, and puts it back into memory.
    async fn save(
        &self,
        mut active: InMemory<E>,
        reply: Option<Reply>,
        cx: &mut Context,
    ) -> Result<(), Failure> {
        let EntityWork { key, changes, .. } = cx.take_entity()?;
        let changes = changes.into_inner();
        let mut removed = changes.cancelled;
        let message = cx.handled_message();
        if is_reminder(message) {
            removed.push(message.id.to_string());
        }
        let state = serde_json::to_string(&active.entity).map_err(|error| {
            Failure::reject(format!("the entity can't be written as JSON: {error}"))
        })?;
        let write = EntityWrite {
            key: key.clone(),
            version: active.version,
            state,
            reminders: changes.reminders,
            removed,
        };
        cx.store()?.save_entity(write, reply).await?;
        active.version += 1;
        let now = Instant::now();
        let passivated = {
            let mut entities = self.entities.active.lock();
            entities.put(key, active, now);
            entities.passivate(E::IDLE, E::ACTIVE_MAX, now)
        };
        self.passivated(passivated);
        Ok(())
    }

    /// Drops entities that have left memory.
    fn passivated(&self, entities: Vec<InMemory<E>>) {
        let meters = &self.entities.publisher.meters;
        meters.entities.passivated.add(entities.len() as u64);
    }
}

impl<E: Entity> Instance for EntityInstance<E> {
    fn handle<'a>(
        &'a mut self,
        input: usize,
        cx: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<Option<Reply>, Failure>> {
        Box::pin(async move {
            let key = key_of(cx)?;
            cx.entity = Some(EntityWork {
                key: key.clone(),
                config: self.config.clone(),
                changes: Default::default(),
            });
            let Some(mut active) = self.open(&key, cx).await? else {
                return Ok(None);
            };
            let Handler::One(handle) = &self.handlers[input] else {
                unreachable!("`HandleBatch` is for services alone")
            };
            let reply = handle(&mut active.entity, cx).await?;
            self.save(active, reply.clone(), cx).await?;
            Ok(reply)
        })
    }

    fn handle_batch<'a>(
        &'a mut self,
        _: usize,
        _: &'a [Message],
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, BatchResults> {
        unreachable!("an input of an entity takes one message at a time")
    }

    fn tick<'a>(
        &'a mut self,
        _: Tick,
        _: &'a mut Context,
    ) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async {
            let now = Instant::now();
            let mut entities = self.entities.active.lock();
            let passivated = entities.passivate(E::IDLE, E::ACTIVE_MAX, now);
            drop(entities);
            self.passivated(passivated);
            Ok(())
        })
    }

    fn stop<'a>(&'a mut self, _: &'a mut Context) -> LocalBoxFuture<'a, Result<(), Failure>> {
        Box::pin(async { Ok(()) })
    }
}

impl Context {
    /// Marks the handled message as done before, and returns the failure that ends its handler.
    fn done_before(&self, reply: Option<Reply>) -> Failure {
        if let Some(store) = &self.store {
            store.repeated.add(1);
        }
        let mut transactions = self.transactions.borrow_mut();
        transactions.push((0, TxState::AlreadyDone(reply)));
        Failure::defer(Duration::ZERO, "the message was done before")
    }

    fn take_entity(&mut self) -> Result<EntityWork, Failure> {
        let entity = self.entity.take();
        entity.ok_or_else(|| Failure::reject("the handler has no entity"))
    }
}
