//! The way of events from the host to the transport: a bounded queue and the task that empties it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::warn;

use super::{Event, trace_of};
use crate::log_throttle::LogThrottle;
use crate::message::{Envelope, Message};
use crate::names::EVENTS_TOPIC;
use crate::transport::{Completion, Outgoing, Transport, TransportError};

/// Maximum events that wait for the transport.
const WAITING_MAX: usize = 1024;
/// Maximum events per publication.
const BATCH: usize = 64;
/// Attempts to publish events while the transport is not down.
const ATTEMPTS: u32 = 5;
/// Wait between two attempts.
const RETRY_AFTER: Duration = Duration::from_millis(200);

/// The events that a process tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventsOf {
    /// All events of its services.
    Everything,
    /// Those inside of a run: the parent process supervises the service.
    Runs,
}

/// Takes events from any thread. Without a reader of the topic it does nothing.
#[derive(Debug, Default)]
pub(crate) struct Events {
    outlet: Option<Outlet>,
    /// Events that were dropped.
    dropped: AtomicU64,
    log: LogThrottle,
}

#[derive(Debug)]
struct Outlet {
    sender: mpsc::Sender<Event>,
    of: EventsOf,
    /// Events that are not published yet.
    pending: AtomicUsize,
    /// The app stops: nothing is told any more.
    has_ceased: AtomicBool,
}

/// The task that publishes events.
pub(crate) struct EventTask {
    events: Arc<Events>,
    receiver: mpsc::Receiver<Event>,
    transport: Arc<dyn Transport>,
    /// `source` of the messages: the app.
    source: Arc<str>,
}

impl Events {
    /// Creates the events of an app whose topic has a reader, and the task that publishes them.
    pub(crate) fn of(
        app: &str,
        of: EventsOf,
        transport: Arc<dyn Transport>,
    ) -> (Arc<Self>, EventTask) {
        let (sender, receiver) = mpsc::channel(WAITING_MAX);
        let events = Arc::new(Self {
            outlet: Some(Outlet {
                sender,
                of,
                pending: AtomicUsize::new(0),
                has_ceased: AtomicBool::new(false),
            }),
            ..Self::default()
        });
        let task = EventTask {
            events: events.clone(),
            receiver,
            transport,
            source: format!("/{app}").into(),
        };
        (events, task)
    }

    /// Tells an event inside of a run. Never waits.
    pub(crate) fn tell(&self, event: impl FnOnce() -> Event) {
        let Some(outlet) = &self.outlet else { return };
        if outlet.has_ceased.load(Relaxed) {
            return;
        }
        outlet.pending.fetch_add(1, Relaxed);
        if outlet.sender.try_send(event()).is_err() {
            self.drop_events(1, "too many events wait for the transport");
        }
    }

    /// Tells an event of supervision. Never waits.
    pub(crate) fn tell_supervision(&self, event: impl FnOnce() -> Event) {
        if self
            .outlet
            .as_ref()
            .is_some_and(|it| it.of == EventsOf::Everything)
        {
            self.tell(event);
        }
    }

    /// Tells nothing any more: the app stops.
    pub(crate) fn cease(&self) {
        if let Some(outlet) = &self.outlet {
            outlet.has_ceased.store(true, Relaxed);
        }
    }

    /// Returns the number of events that are not published yet.
    pub(crate) fn pending(&self) -> usize {
        let outlet = self.outlet.as_ref();
        outlet.map_or(0, |outlet| outlet.pending.load(Relaxed))
    }

    /// Returns the number of events that were dropped.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Relaxed)
    }

    fn settle(&self, count: usize) {
        if let Some(outlet) = &self.outlet {
            outlet.pending.fetch_sub(count, Relaxed);
        }
    }

    fn drop_events(&self, count: usize, reason: &str) {
        self.settle(count);
        self.dropped.fetch_add(count as u64, Relaxed);
        if let Some(suppressed) = self.log.event() {
            warn!(count, reason, suppressed, "events dropped");
        }
    }
}

impl EventTask {
    /// Publishes events until the app stops.
    pub(crate) async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.receiver.recv_many(&mut batch, BATCH).await > 0 {
            let count = batch.len();
            let messages = batch.drain(..).filter_map(|event| self.message(&event));
            match self.publish(messages.collect()).await {
                Ok(()) => self.events.settle(count),
                Err(error) => self.events.drop_events(count, &error.to_string()),
            }
        }
    }

    /// Returns the message of an event; `None` for one that has no JSON, which can't be.
    fn message(&self, event: &Event) -> Option<Outgoing> {
        let payload = serde_json::to_vec(event).ok()?;
        let mut envelope = Envelope::new("Event", payload);
        envelope.source = self.source.clone();
        envelope.subject = Some(event.service().into());
        envelope.topic = EVENTS_TOPIC.into();
        envelope.trace = Some(trace_of(&envelope.id));
        Some(Message::from(envelope).into())
    }

    /// Publishes messages and waits for the confirm. Waits while the transport is down.
    async fn publish(&self, messages: Vec<Outgoing>) -> Result<(), TransportError> {
        let mut status = self.transport.status();
        let mut attempt = 0;
        loop {
            let (done, confirmed) = Completion::channel();
            self.transport.publish(messages.clone(), done);
            let Err(error) = confirmed.await else {
                return Ok(());
            };
            attempt += 1;
            if status.borrow().ended || attempt >= ATTEMPTS {
                return Err(error);
            }
            if status.borrow().down.is_some() {
                attempt = 0;
                let works = status.wait_for(|status| status.down.is_none() || status.ended);
                if works.await.is_err() {
                    return Err(error);
                }
            } else {
                sleep(RETRY_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Backpressure;
    use crate::transport::memory::Memory;

    fn events(of: EventsOf) -> (Arc<Events>, EventTask) {
        Events::of(
            "shop",
            of,
            Arc::new(Memory::new(Arc::<Backpressure>::default())),
        )
    }

    fn up() -> Event {
        Event::ServiceUp {
            service: "stock".into(),
            time_ms: 1,
        }
    }

    #[tokio::test]
    async fn events_beyond_the_bound_are_dropped_and_counted() {
        let (events, _task) = events(EventsOf::Everything);
        for _ in 0..WAITING_MAX + 3 {
            events.tell(up);
        }
        assert_eq!((events.pending(), events.dropped()), (WAITING_MAX, 3));
        events.cease();
        events.tell(up);
        assert_eq!((events.pending(), events.dropped()), (WAITING_MAX, 3));
    }

    #[test]
    fn without_a_reader_no_event_is_made() {
        Events::default().tell(|| unreachable!("no service reads events"));
    }

    #[tokio::test]
    async fn a_child_process_leaves_supervision_to_its_parent() {
        let (events, _task) = events(EventsOf::Runs);
        events.tell_supervision(|| unreachable!("the parent tells it"));
        events.tell(up);
        assert_eq!(events.pending(), 1);
    }
}
