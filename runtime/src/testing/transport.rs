//! The transport of the app under test: `memory:` with a recorder and faults.
//!
//! A decorator: the [`Recorder`] gets every publication, every request that no service reads,
//! and every delivery until it is settled.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout_at};

use super::fault::{FaultKind, FaultPoint, FaultScript};
use super::recorder::Recorder;
use crate::clock::later;
use crate::delivery::{Delivery, DeliveryParts, Settle, Settlement};
use crate::message::{Envelope, Message};
use crate::names::QueueId;
use crate::transport::memory::Memory;
use crate::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Outgoing,
    SearchBounds, SearchQuery, SearchResult, Status, Topology, Transport, TransportError,
};

/// Stands in the plan for the transport's URL.
pub(super) const URL: &str = "testing:";

/// Creates the transport of an app under test.
pub(super) struct TestConnector {
    pub(super) recorder: Arc<Recorder>,
    pub(super) script: Arc<FaultScript>,
    /// Topics that services read.
    pub(super) read: BTreeSet<Arc<str>>,
    /// The decorated transport, once it is connected. The test itself sends through it, past
    /// the faults.
    pub(super) inner: Arc<OnceLock<Arc<dyn Transport>>>,
}

impl Connector for TestConnector {
    fn schemes(&self) -> &'static [&'static str] {
        &["testing"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        unreachable!("a plan under test is loaded with memory:")
    }

    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        _: &'a str,
        pressure: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        Box::pin(async move {
            let memory: Arc<dyn Transport> = Arc::new(Memory::new(pressure));
            let inner = self.inner.get_or_init(|| memory).clone();
            Ok(Arc::new(TestTransport {
                inner,
                common: Arc::new(Common {
                    recorder: self.recorder.clone(),
                    script: self.script.clone(),
                }),
                read: self.read.clone(),
            }) as Arc<dyn Transport>)
        })
    }
}

struct TestTransport {
    inner: Arc<dyn Transport>,
    common: Arc<Common>,
    read: BTreeSet<Arc<str>>,
}

struct Common {
    recorder: Arc<Recorder>,
    script: Arc<FaultScript>,
}

/// The label of the service that published a message: the last part of its source.
fn maker(message: &Message) -> &str {
    message.source.rsplit('/').next().unwrap_or_default()
}

impl Transport for TestTransport {
    fn scheme(&self) -> &'static str {
        self.inner.scheme()
    }

    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn declare<'a>(&'a self, topology: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        self.inner.declare(topology)
    }

    fn publish(&self, batch: Vec<Outgoing>, done: Completion) {
        let (recorder, script) = (self.common.recorder.clone(), &self.common.script);
        let service = batch.first().map_or("", |first| maker(&first.message));
        match script.strike(FaultPoint::Publish, service) {
            Some(FaultKind::Fail(failure)) => {
                let refused = TransportError::Refused(failure.text().to_owned());
                return done.complete(Err(refused));
            }
            Some(FaultKind::Hang | FaultKind::Panic) => return recorder.leave_unanswered(done),
            None => {}
        }
        let confirm = script.strike(FaultPoint::Confirm, service);
        let copies = batch
            .iter()
            .map(|outgoing| (outgoing.message.clone(), outgoing.delay));
        let copies: Vec<(Message, Duration)> = copies.collect();
        let recorded = Completion::new(move |outcome| {
            if outcome.is_ok() {
                recorder.published(copies);
            }
            match confirm {
                None => done.complete(outcome),
                Some(FaultKind::Fail(_)) => done.complete(Err(TransportError::Unconfirmed)),
                Some(FaultKind::Hang | FaultKind::Panic) => recorder.leave_unanswered(done),
            }
        });
        self.inner.publish(batch, recorded);
    }

    fn consume<'a>(
        &'a self,
        queue: &'a QueueId,
        bound: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        Box::pin(async move {
            Ok(Box::new(TestConsumer {
                inner: self.inner.consume(queue, bound).await?,
                queue: queue.clone(),
                common: self.common.clone(),
                ended: None,
            }) as Box<dyn Consumer>)
        })
    }

    fn ask(
        &self,
        request: Message,
        within: Duration,
    ) -> BoxFuture<'static, Result<Message, AskError>> {
        match self.common.script.strike(FaultPoint::Ask, maker(&request)) {
            Some(FaultKind::Fail(failure)) => {
                let text = failure.text().to_owned();
                return Box::pin(async move { Err(AskError::Failed(text)) });
            }
            Some(FaultKind::Hang | FaultKind::Panic) => {
                return Box::pin(async move {
                    tokio::time::sleep(within).await;
                    Err(AskError::Timeout(within))
                });
            }
            None => {}
        }
        let recorder = &self.common.recorder;
        if self.read.contains(&request.topic) && !recorder.answers(&request.topic) {
            return self.inner.ask(request, within);
        }
        let answer = recorder.asked(request.clone());
        let deadline = later(within);
        Box::pin(async move {
            let reply = match timeout_at(deadline, answer).await {
                Ok(Ok(reply)) => reply,
                // The test dropped the request: no reply will come.
                Ok(Err(_)) => {
                    sleep_until(deadline).await;
                    return Err(AskError::Timeout(within));
                }
                Err(_) => return Err(AskError::Timeout(within)),
            };
            let mut envelope = Envelope::new("reply", reply.map_err(AskError::Failed)?);
            envelope.parent = Some(request.id.clone());
            Ok(envelope.into())
        })
    }

    fn late_replies(&self) -> u64 {
        self.inner.late_replies()
    }

    fn overflowed(&self, queue: &QueueId) -> u64 {
        self.inner.overflowed(queue)
    }

    fn depth<'a>(&'a self, queue: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        self.inner.depth(queue)
    }

    fn find<'a>(
        &'a self,
        wanted: &'a SearchQuery,
        bounds: SearchBounds,
    ) -> BoxFuture<'a, Result<SearchResult, TransportError>> {
        self.inner.find(wanted, bounds)
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.inner.status()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        self.inner.flush()
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.common.recorder.drop_unanswered();
            self.inner.close().await;
        })
    }
}

struct TestConsumer {
    inner: Box<dyn Consumer>,
    queue: QueueId,
    common: Arc<Common>,
    /// The text of a fault that has ended this consumer.
    ended: Option<String>,
}

impl Consumer for TestConsumer {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        if let Some(text) = &self.ended {
            return Poll::Ready(Err(TransportError::Lost(text.clone())));
        }
        let mut taken = VecDeque::new();
        let outcome = self.inner.poll_take(cx, &mut taken, max);
        for _ in &taken {
            let struck = self
                .common
                .script
                .strike(FaultPoint::Consume, &self.queue.service);
            if let Some(FaultKind::Fail(failure)) = struck {
                // The drop of `taken` requeues the deliveries.
                self.inner.stop();
                let text = failure.text().to_owned();
                self.ended = Some(text.clone());
                return Poll::Ready(Err(TransportError::Lost(text)));
            }
        }
        into.extend(taken.into_iter().map(|delivery| self.record(delivery)));
        outcome
    }

    fn stop(&mut self) {
        self.inner.stop();
    }
}

impl TestConsumer {
    fn record(&self, delivery: Delivery) -> Delivery {
        let (message, taken) = (delivery.message().clone(), delivery.taken());
        let parts = DeliveryParts {
            attempt: delivery.attempt(),
            crashes: delivery.crashes(),
            tag: 0,
            message,
        };
        let settler = Arc::new(TestSettler {
            number: self.common.recorder.taken(&self.queue, &parts.message),
            queue: self.queue.clone(),
            inner: Mutex::new(Some(delivery)),
            common: self.common.clone(),
        });
        Delivery::taken_at(parts, settler, taken)
    }
}

/// Settles one delivery with the decorated transport.
struct TestSettler {
    number: u64,
    queue: QueueId,
    /// `None` once settled.
    inner: Mutex<Option<Delivery>>,
    common: Arc<Common>,
}

impl Settle for TestSettler {
    fn settle(&self, _: DeliveryParts, settlement: Settlement) {
        let Some(delivery) = self.inner.lock().take() else {
            return;
        };
        self.common.recorder.settled(self.number);
        if !matches!(settlement, Settlement::Requeue)
            && self
                .common
                .script
                .strike(FaultPoint::Settle, &self.queue.service)
                .is_some()
        {
            return delivery.nack_requeue();
        }
        delivery.settle(settlement);
    }

    fn note_attempt(&self, parts: &DeliveryParts) -> bool {
        let mut inner = self.inner.lock();
        let inner = inner.as_mut();
        inner.is_some_and(|delivery| delivery.note_attempt(parts.attempt))
    }
}
