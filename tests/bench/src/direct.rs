//! A minimal transport: one bounded queue and no topics. The measured rest is the host itself
//! (bridge, mailbox, loop, guard, decode, metrics, settle).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use brickwork::transport::{
    AskError, Backpressure, Completion, Connector, Consumer, Depth, Guarantees, Outgoing, Status,
    Topology, Transport, TransportError,
};
use brickwork::{Delivery, DeliveryParts, Envelope, Message, QueueId, ReplyTo, Settle, Settlement};
use futures_util::future::BoxFuture;
use tokio::sync::{oneshot, watch};

/// Capacity of the queue; a sender waits while the queue is full.
const CAPACITY: usize = 64;

#[derive(Default)]
struct State {
    ready: VecDeque<(Message, Option<oneshot::Sender<brickwork::Reply>>)>,
    waiting: Vec<Option<oneshot::Sender<brickwork::Reply>>>,
    free: Vec<u64>,
    consumer: Option<Waker>,
    senders: Vec<Waker>,
    settled: u64,
    watchers: Vec<(u64, Waker)>,
}

/// The queue.
#[derive(Default)]
pub struct Direct(Mutex<State>);

impl Direct {
    /// Sends a message, waiting while the queue is full.
    pub async fn tell(&self, message: Message) {
        let mut message = Some((message, None));
        std::future::poll_fn(|cx| self.poll_send(cx, &mut message)).await;
    }

    /// Sends a request and waits for the reply.
    pub async fn ask(&self, message: Message) -> brickwork::Reply {
        let (sender, receiver) = oneshot::channel();
        let mut message = Some((message, Some(sender)));
        std::future::poll_fn(|cx| self.poll_send(cx, &mut message)).await;
        receiver.await.unwrap_or_else(|_| Err("failed".into()))
    }

    /// Waits until `count` messages have been settled since the start.
    pub async fn settled(&self, count: u64) {
        std::future::poll_fn(|cx| {
            let mut state = self.0.lock().unwrap();
            if state.settled >= count {
                return Poll::Ready(());
            }
            state.watchers.push((count, cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }

    /// Returns the number of messages settled since the start.
    pub fn settled_so_far(&self) -> u64 {
        self.0.lock().unwrap().settled
    }

    fn poll_send(
        &self,
        cx: &mut Context<'_>,
        message: &mut Option<(Message, Option<oneshot::Sender<brickwork::Reply>>)>,
    ) -> Poll<()> {
        let mut state = self.0.lock().unwrap();
        if state.ready.len() >= CAPACITY {
            state.senders.push(cx.waker().clone());
            return Poll::Pending;
        }
        state.ready.push_back(message.take().expect("sent once"));
        if let Some(waker) = state.consumer.take() {
            waker.wake();
        }
        Poll::Ready(())
    }
}

/// Creates a message with a static payload.
pub fn message(payload: &'static [u8]) -> Message {
    Envelope::new("ping", payload).into()
}

/// Creates a request with a static payload.
pub fn request(payload: &'static [u8]) -> Message {
    thread_local!(static ADDRESS: Arc<str> = "here".into());
    let mut envelope = Envelope::new("ping", payload);
    envelope.reply_to = Some(ReplyTo {
        address: ADDRESS.with(Arc::clone),
        correlation: None,
    });
    envelope.into()
}

struct Tap(Arc<Direct>);

impl Settle for Tap {
    fn settle(&self, parcel: DeliveryParts, settlement: Settlement) {
        let mut state = self.0.0.lock().unwrap();
        if parcel.tag != u64::MAX {
            let asker = state.waiting[parcel.tag as usize].take();
            state.free.push(parcel.tag);
            if let (Settlement::Ack(Some(reply)), Some(asker)) = (settlement, asker) {
                // An asker that has left needs no reply.
                let _gone = asker.send(reply);
            }
        }
        state.settled += 1;
        if !state.watchers.is_empty() {
            let settled = state.settled;
            state.watchers.retain(|(count, waker)| {
                let done = settled >= *count;
                if done {
                    waker.wake_by_ref();
                }
                !done
            });
        }
    }
}

struct Take {
    tap: Arc<Tap>,
}

impl Consumer for Take {
    fn poll_take(
        &mut self,
        cx: &mut Context<'_>,
        into: &mut VecDeque<Delivery>,
        max: usize,
    ) -> Poll<Result<(), TransportError>> {
        let mut state = self.tap.0.0.lock().unwrap();
        if state.ready.is_empty() {
            state.consumer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let taken = tokio::time::Instant::now();
        for _ in 0..max.min(state.ready.len()) {
            let (message, asker) = state.ready.pop_front().expect("counted");
            let tag = match asker {
                None => u64::MAX,
                Some(asker) => match state.free.pop() {
                    Some(tag) => {
                        state.waiting[tag as usize] = Some(asker);
                        tag
                    }
                    None => {
                        state.waiting.push(Some(asker));
                        state.waiting.len() as u64 - 1
                    }
                },
            };
            let parcel = DeliveryParts {
                message,
                attempt: 1,
                crashes: 0,
                tag,
            };
            into.push_back(Delivery::taken_at(parcel, self.tap.clone(), taken));
        }
        for waker in state.senders.drain(..) {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }

    fn stop(&mut self) {}
}

/// The transport over one queue.
pub struct DirectTransport {
    queue: Arc<Direct>,
    status: watch::Sender<Status>,
}

const GUARANTEES: Guarantees = Guarantees {
    durable: false,
    redelivers: false,
    ordered: true,
    crosses_processes: false,
    delays: false,
    limits: false,
    searches: false,
};

impl Transport for DirectTransport {
    fn scheme(&self) -> &'static str {
        "direct"
    }

    fn guarantees(&self) -> Guarantees {
        GUARANTEES
    }

    fn declare<'a>(&'a self, _: &'a Topology) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async { Ok(()) })
    }

    fn publish(&self, _: Vec<Outgoing>, done: Completion) {
        done.complete(Ok(()));
    }

    fn consume<'a>(
        &'a self,
        _: &'a QueueId,
        _: usize,
    ) -> BoxFuture<'a, Result<Box<dyn Consumer>, TransportError>> {
        let tap = Arc::new(Tap(self.queue.clone()));
        Box::pin(async { Ok(Box::new(Take { tap }) as Box<dyn Consumer>) })
    }

    fn ask(&self, _: Message, within: Duration) -> BoxFuture<'static, Result<Message, AskError>> {
        Box::pin(async move { Err(AskError::Timeout(within)) })
    }

    fn late_replies(&self) -> u64 {
        0
    }

    fn depth<'a>(&'a self, _: &'a QueueId) -> BoxFuture<'a, Result<Depth, TransportError>> {
        Box::pin(async { Ok(Depth::default()) })
    }

    fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async { Ok(()) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }
}

/// The connector of the transport; gives access to the queue.
#[derive(Clone, Default)]
pub struct DirectConnector(Arc<OnceLock<Arc<Direct>>>);

impl DirectConnector {
    /// Returns the queue.
    pub fn queue(&self) -> Arc<Direct> {
        self.0.get_or_init(Arc::default).clone()
    }
}

impl Connector for DirectConnector {
    fn schemes(&self) -> &'static [&'static str] {
        &["direct"]
    }

    fn guarantees(&self, _: &str) -> Guarantees {
        GUARANTEES
    }

    fn check(&self, _: &str) -> Result<(), String> {
        Ok(())
    }

    fn connect<'a>(
        &'a self,
        _: &'a str,
        _: Arc<Backpressure>,
    ) -> BoxFuture<'a, Result<Arc<dyn Transport>, TransportError>> {
        let queue = self.queue();
        Box::pin(async {
            let status = watch::Sender::default();
            Ok(Arc::new(DirectTransport { queue, status }) as Arc<dyn Transport>)
        })
    }
}
