//! What lasts of a service as long as its app: settings, wiring, meters, and how its
//! messages are made and sent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OnceCell, Semaphore};

use super::status::{LastFailure, ServiceState};
use crate::attempts::AttemptHistory;
use crate::clock::Clock;
use crate::dead_letter::Reason;
use crate::failure::Failure;
use crate::metrics::{Cause, Durations, Meters};
use crate::names::QueueId;
use crate::position::SourcePosition;
use crate::redact::Redactor;
use crate::service::{Publisher, WiredOutput};
use crate::sqlite::Migration;
use crate::store::{OpenStore, Stores};
use crate::supervision::{
    GiveUpPolicy, Instances, Intensity, RestartPolicy, RestartType, RetryPolicy,
};
use crate::transport::{Backpressure, Transport};

/// How many publications of one service may wait for their confirms.
pub(crate) const WINDOW: usize = 256;

/// Everything that an app decides about a service.
pub(crate) struct Settings {
    pub(crate) app: Arc<str>,
    pub(crate) label: Arc<str>,
    /// Its place in the manifest.
    pub(crate) number: u32,
    pub(crate) inputs: Vec<Arc<str>>,
    pub(crate) outputs: Vec<WiredOutput>,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) pressure: Arc<Backpressure>,
    pub(crate) clock: Clock,
    pub(crate) redactor: Arc<Redactor>,
    /// In loops: an instance of the manifest has `lanes` of them.
    pub(crate) instances: Instances,
    pub(crate) lanes: usize,
    pub(crate) mailbox_capacity: usize,
    /// How many messages an instance may have in hand at once.
    pub(crate) batch_max: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) restart: RestartPolicy,
    pub(crate) restart_type: RestartType,
    pub(crate) intensity: Intensity,
    pub(crate) give_up: GiveUpPolicy,
    pub(crate) message_bytes_max: usize,
    pub(crate) data: PathBuf,
    /// Where its store is, if it has one.
    pub(crate) stores: Option<Arc<Stores>>,
    /// How long publications took to be confirmed; kept where that takes time.
    pub(crate) confirms: Option<Arc<Mutex<Durations>>>,
}

/// State of a service for as long as its app runs, over all of its runs.
pub(crate) struct ServiceShared {
    pub(crate) publisher: Arc<Publisher>,
    /// Index of the service in the manifest.
    pub(crate) number: u32,
    pub(crate) redactor: Arc<Redactor>,
    pub(crate) instances: Instances,
    pub(crate) lanes: usize,
    pub(crate) mailbox_capacity: usize,
    pub(crate) batch_max: usize,
    pub(crate) handler_timeout: Duration,
    pub(crate) retry: RetryPolicy,
    pub(crate) restart: RestartPolicy,
    pub(crate) restart_type: RestartType,
    pub(crate) intensity: Intensity,
    pub(crate) give_up: GiveUpPolicy,
    pub(crate) state: ServiceState,
    pub(crate) attempts: AttemptHistory,
    /// A permit for each publication that may be unconfirmed.
    pub(crate) window: Arc<Semaphore>,
    /// Position of the service, if it is a source.
    pub(crate) position: Arc<SourcePosition>,
    /// The stores of the app; `None` if this service has no store.
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
    pub(crate) fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            position: Arc::new(SourcePosition::new(
                &settings.data,
                &settings.app,
                &settings.label,
            )),
            publisher: Arc::new(Publisher {
                source: format!("/{}/{}", settings.app, settings.label).into(),
                meters: Meters::new(settings.inputs.len(), settings.outputs.len()),
                app: settings.app,
                label: settings.label,
                inputs: settings.inputs,
                outputs: settings.outputs,
                message_bytes_max: settings.message_bytes_max,
                transport: settings.transport,
                pressure: settings.pressure,
                clock: settings.clock,
                confirms: settings.confirms,
            }),
            number: settings.number,
            redactor: settings.redactor,
            instances: settings.instances,
            lanes: settings.lanes,
            mailbox_capacity: settings.mailbox_capacity,
            batch_max: settings.batch_max,
            handler_timeout: settings.handler_timeout,
            retry: settings.retry,
            restart: settings.restart,
            restart_type: settings.restart_type,
            intensity: settings.intensity,
            give_up: settings.give_up,
            state: ServiceState::default(),
            attempts: AttemptHistory::default(),
            window: Arc::new(Semaphore::new(WINDOW)),
            stores: settings.stores,
            store: OnceCell::new(),
        })
    }

    /// Its store, once it is open.
    pub(crate) fn store(&self) -> Option<Arc<OpenStore>> {
        self.store.get().cloned()
    }

    /// Opens its store, unless it is open. Who asks meanwhile waits for the same.
    ///
    /// # Errors
    /// It has none, or it can't be used.
    pub(crate) async fn open_store(
        &self,
        migrations: &'static [Migration],
    ) -> Result<Arc<OpenStore>, Failure> {
        let Some(stores) = &self.stores else {
            return Err(Failure::reject("the service has no store"));
        };
        let open = async || {
            let opened = stores.open(&self.label, migrations).await?;
            opened.outbox.connect(&self.pressure);
            Ok(Arc::new(opened))
        };
        self.store.get_or_try_init(open).await.cloned()
    }

    /// How many messages wait in its outbox.
    pub(crate) fn outbox(&self) -> u64 {
        self.store.get().map_or(0, |store| store.outbox.waiting())
    }

    /// How many publications wait for their confirms.
    pub(crate) fn unconfirmed(&self) -> usize {
        WINDOW - self.window.available_permits()
    }

    /// How many messages were given up, by reason: here, and by the transport where a
    /// queue was full.
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

    /// Notes a failure without a message in hand, for people.
    pub(crate) fn note(&self, cause: Cause, text: &str) {
        self.state.failed(LastFailure {
            time_ms: self.clock.unix_ms(),
            what: cause.as_str().into(),
            text: text.to_owned(),
            message: None,
            attempt: None,
        });
    }

    /// Whether the transport is down, and tries to work again. Who fails because of that
    /// is not at fault, and the transport has said what is wrong.
    pub(crate) fn transport_is_down(&self) -> bool {
        let status = self.transport.status();
        let status = status.borrow();
        status.down.is_some() && !status.ended
    }

    /// How often the transport has come back.
    pub(crate) fn transport_reconnects(&self) -> u64 {
        self.transport.status().borrow().reconnects
    }

    /// Resolves when the transport works, or never will.
    pub(crate) async fn transport_works(&self) {
        let mut status = self.transport.status();
        // A transport that is gone never will.
        let _gone = status
            .wait_for(|status| status.down.is_none() || status.ended)
            .await;
    }
}
