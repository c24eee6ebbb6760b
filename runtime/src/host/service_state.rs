//! State of a service for as long as its app runs.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::breaker::ServiceBreaker;
use super::mailbox::Rank;
use super::status::{LastFailure, ServiceState};
use crate::clock::Clock;
use crate::dead_letter::Reason;
use crate::events::Events;
use crate::failure::Failure;
use crate::limits::Limits;
use crate::message_trace::AttemptHistory;
use crate::metrics::{Cause, Durations, Meters};
use crate::names::QueueId;
use crate::position::SourcePosition;
use crate::redact::Redactor;
use crate::service::{Answerers, Publisher, WiredOutput};
use crate::settings::ServiceSettings;
use crate::sqlite::Migration;
use crate::store::{OpenStore, Stores};
use crate::supervision::Instances;
use crate::transport::{SourcePressure, Transport};

/// Maximum unconfirmed publications of one service.
pub(crate) const WINDOW: usize = 256;

/// Everything that an app gives to a service: settings, wiring and shared parts.
pub(crate) struct ServiceSetup {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    /// Index of the service in the manifest.
    pub(crate) number: u32,
    pub(crate) inputs: Vec<Arc<str>>,
    /// Whether the messages of an input go before those of others.
    pub(crate) first: Vec<bool>,
    pub(crate) outputs: Vec<WiredOutput>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: SourcePressure,
    pub(crate) answerers: Arc<Answerers>,
    pub(crate) limits: Limits,
    pub(crate) clock: Clock,
    pub(crate) events: Arc<Events>,
    pub(crate) redactor: Arc<Redactor>,
    /// Settings from the manifest.
    pub(crate) settings: ServiceSettings,
    /// Handler loops: `lanes` for each instance of the manifest.
    pub(crate) loops: Instances,
    pub(crate) lanes: usize,
    /// Maximum messages in flight per handler loop.
    pub(crate) batch_max: usize,
    pub(crate) message_bytes_max: usize,
    /// Data folder of the app.
    pub(crate) data: PathBuf,
    /// The stores of the app; `None` if this service has no store.
    pub(crate) stores: Option<Arc<Stores>>,
    /// Confirm latencies; `None` if the transport confirms at once.
    pub(crate) confirms: Option<Arc<Mutex<Durations>>>,
}

/// State of a service over all of its runs.
pub(crate) struct ServiceShared {
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) number: u32,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) events: Arc<Events>,
    pub(crate) settings: ServiceSettings,
    pub(crate) loops: Instances,
    pub(crate) lanes: usize,
    pub(crate) batch_max: usize,
    /// Ranks of the inputs in the mailbox.
    pub(super) ranks: Box<[Rank]>,
    pub(crate) state: ServiceState,
    /// The circuit breaker, unless it is off or the service has no inputs.
    pub(crate) breaker: Option<ServiceBreaker>,
    pub(crate) history: AttemptHistory,
    /// A permit for each publication that may be unconfirmed.
    pub(crate) window: Arc<Semaphore>,
    /// Position of the service, if it is a source.
    pub(crate) position: Arc<SourcePosition>,
    pub(crate) stores: Option<Arc<Stores>>,
    store: OnceCell<Arc<OpenStore>>,
}

impl std::ops::Deref for ServiceShared {
    type Target = Publisher;

    fn deref(&self) -> &Publisher {
        &self.publisher
    }
}

impl ServiceShared {
    pub(crate) fn new(setup: ServiceSetup) -> Arc<Self> {
        let breaker = setup.settings.breaker.filter(|_| !setup.inputs.is_empty());
        let position = SourcePosition::new(&setup.data, &setup.app, &setup.label);
        let publisher = Publisher {
            source: format!("/{}/{}", setup.app, setup.label).into(),
            meters: Meters::new(setup.inputs.len(), setup.outputs.len()),
            app: setup.app,
            label: setup.label,
            inputs: setup.inputs,
            outputs: setup.outputs,
            key: setup.settings.key.as_ref().map(|key| key.rule.clone()),
            message_bytes_max: setup.message_bytes_max,
            transport: setup.transport,
            pressure: setup.pressure,
            answerers: setup.answerers,
            limits: setup.limits,
            clock: setup.clock,
            confirms: setup.confirms,
        };
        let ranks = setup.first.into_iter().map(|is_first| match is_first {
            true => Rank::First,
            false => Rank::Ordinary,
        });
        Arc::new(Self {
            publisher: Arc::new(publisher),
            number: setup.number,
            redactor: setup.redactor,
            events: setup.events,
            breaker: breaker.map(ServiceBreaker::new),
            settings: setup.settings,
            loops: setup.loops,
            lanes: setup.lanes,
            batch_max: setup.batch_max,
            ranks: ranks.collect(),
            state: ServiceState::default(),
            history: AttemptHistory::default(),
            window: Arc::new(Semaphore::new(WINDOW)),
            position: Arc::new(position),
            stores: setup.stores,
            store: OnceCell::new(),
        })
    }

    /// Returns the store, if it is open.
    pub(crate) fn store(&self) -> Option<Arc<OpenStore>> {
        self.store.get().cloned()
    }

    /// Returns the number of messages that the mailbox holds at most.
    pub(crate) fn mailbox_capacity(&self) -> usize {
        let has = |rank| self.ranks.contains(&rank);
        let ranks = usize::from(has(Rank::First)) + usize::from(has(Rank::Ordinary));
        self.settings.mailbox * ranks.max(1)
    }

    /// Opens the store, or returns the open one. Concurrent calls wait for the same result.
    ///
    /// # Errors
    /// The service has no store, or it can't be opened.
    pub(crate) async fn open_store(
        &self,
        migrations: &'static [Migration],
    ) -> Result<Arc<OpenStore>, Failure> {
        let Some(stores) = &self.stores else {
            return Err(Failure::reject("the service has no store"));
        };
        let open = async || {
            let opened = stores.open(&self.label, migrations).await?;
            opened.outbox.connect(&self.label, self.pressure.all());
            Ok(Arc::new(opened))
        };
        self.store.get_or_try_init(open).await.cloned()
    }

    /// Returns the number of messages in the outbox.
    pub(crate) fn outbox(&self) -> u64 {
        self.store.get().map_or(0, |store| store.outbox.waiting())
    }

    /// Returns the number of unconfirmed publications.
    pub(crate) fn unconfirmed(&self) -> usize {
        WINDOW - self.window.available_permits()
    }

    /// Returns the number of dead letters by reason, including those that the transport made
    /// because a queue was full.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let queues = self.inputs.iter();
        let overflowed: u64 = queues
            .map(|input| self.transport.overflowed(&QueueId::new(&self.label, input)))
            .sum();
        let overflow = Reason::Overflow.as_str();
        self.meters.dead_letters().map(move |(reason, count)| {
            let more = if reason == overflow { overflowed } else { 0 };
            (reason, count + more)
        })
    }

    /// Records a failure that concerns no single message.
    pub(crate) fn note(&self, cause: Cause, text: &str) {
        self.state.failed(LastFailure {
            time_ms: self.clock.unix_ms(),
            what: cause.as_str().into(),
            text: text.to_owned(),
            message: None,
            attempt: None,
        });
    }

    /// Returns whether the transport is down and tries to reconnect. A failure because of
    /// that is not the fault of the service, and the transport has logged the reason.
    pub(crate) fn transport_is_down(&self) -> bool {
        let status = self.transport.status();
        let status = status.borrow();
        status.down.is_some() && !status.ended
    }

    /// Returns the number of reconnects of the transport.
    pub(crate) fn transport_reconnects(&self) -> u64 {
        self.transport.status().borrow().reconnects
    }

    /// Resolves when the transport works, or has ended for good.
    pub(crate) async fn transport_works(&self) {
        let mut status = self.transport.status();
        // An error means that the transport is gone for good.
        let _gone = status
            .wait_for(|status| status.down.is_none() || status.ended)
            .await;
    }
}
