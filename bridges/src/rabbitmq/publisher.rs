//! Publishing with confirms: the owner of one confirm channel.
//!
//! One task publishes, because publishing from several on one channel mixes up whose
//! confirm is whose. It holds every confirm until it comes, at most [`WINDOW`] at a
//! time, and gives a job up that isn't confirmed within [`CONFIRM_TIMEOUT`].
//!
//! A message that must reach a queue is published as mandatory; the broker returns it,
//! before it confirms it, if there is none. The client library hands a return over with
//! the next confirm that it looks at, whosever that is. So returns are matched by id and
//! address, and no success of such a message is reported before every confirm that the
//! library looked at until then has been seen here.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use brickwork::transport::{Completion, TransportError};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use lapin::message::BasicReturnMessage;
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::{error, warn};

use super::channel_replacement::{REFUSED_FOR, ReplacementPolicy};
use super::connection::{Connections, confirm_channel};
use super::declarer::refusal;
use super::max_message_size::MaxMessageSize;
use super::session_state::SessionState;
use super::slot_queue::SlotQueue;

/// The most messages that are out without a confirm.
const WINDOW: usize = 1000;
/// The most jobs that wait for their turn.
const QUEUED_MAX: usize = 65_536;
/// When nothing at all is confirmed for so long, somebody should know.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// After this a publication counts as failed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// When nothing at all is confirmed for so long, on a connection that lives, another one
/// may do better.
const STALLED_MAX: Duration = Duration::from_secs(120);
/// For a new channel, on a connection that works.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message with its address.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Bytes,
    /// If no queue takes it, it fails.
    pub(super) mandatory: bool,
}

/// Publishes on one channel. Clones share it.
#[derive(Clone)]
pub(super) struct Publisher {
    commands: mpsc::Sender<PublishCommand>,
    session_state: Arc<SessionState>,
    max_message_size: Arc<MaxMessageSize>,
}

enum PublishCommand {
    Publish(PublishBatch),
    Flush(oneshot::Sender<()>),
}

struct PublishBatch {
    publications: Vec<Publication>,
    done: Completion,
    since: Instant,
}

impl Publisher {
    /// Takes over a channel in confirm mode, on the current runtime. With `connections` it
    /// may replace that by another; without, the session ends when that has to be.
    pub(super) fn start(
        channel: Channel,
        connections: Option<Arc<Connections>>,
        session_state: Arc<SessionState>,
        max_message_size: Arc<MaxMessageSize>,
    ) -> Self {
        let (commands, received) = mpsc::channel(QUEUED_MAX);
        // To end a session costs more than to replace a channel.
        let first = connections
            .as_ref()
            .map_or(CONFIRM_TIMEOUT, |_| REFUSED_FOR);
        let owner = PublisherTask {
            channel,
            connections,
            replacement: ReplacementPolicy::new(first),
            replacing_since: None,
            session_state: session_state.clone(),
            max_message_size: max_message_size.clone(),
            waiting: VecDeque::new(),
            batches: SlotQueue::new(),
            sent: SlotQueue::new(),
            confirms: FuturesUnordered::new(),
            held_back: Vec::new(),
            last_answer: Instant::now(),
            is_stalled: false,
            flushes: Vec::new(),
        };
        tokio::spawn(owner.run(received));
        Self {
            commands,
            session_state,
            max_message_size,
        }
    }

    /// Publishes in order and reports once on all.
    pub(super) fn publish(&self, publications: Vec<Publication>, done: Completion) {
        if let Err(ended) = self.session_state.check() {
            return done.complete(Err(ended));
        }
        let mut sizes = publications.iter().map(|it| it.payload.len());
        if let Err(error) = sizes.try_for_each(|bytes| self.max_message_size.check(bytes)) {
            return done.complete(Err(error));
        }
        let command = PublishCommand::Publish(PublishBatch {
            publications,
            done,
            since: Instant::now(),
        });
        let (command, error) = match self.commands.try_send(command) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(command)) => {
                let why = format!("{QUEUED_MAX} publications are waiting already");
                (command, TransportError::Refused(why))
            }
            Err(mpsc::error::TrySendError::Closed(command)) => {
                (command, self.session_state.error())
            }
        };
        if let PublishCommand::Publish(batch) = command {
            batch.done.complete(Err(error));
        }
    }

    /// Publishes one message.
    pub(super) async fn send(&self, publication: Publication) -> Result<(), TransportError> {
        let (done, outcome) = Completion::channel();
        self.publish(vec![publication], done);
        outcome.await
    }

    /// Waits until everything before is confirmed or has failed.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        // An owner that is gone has nothing left to do.
        if self
            .commands
            .send(PublishCommand::Flush(done))
            .await
            .is_ok()
        {
            let _gone = flushed.await;
        }
    }
}

/// What became of one message.
type Answer = (u64, lapin::Result<Confirmation>);

struct PublisherTask {
    channel: Channel,
    connections: Option<Arc<Connections>>,
    replacement: ReplacementPolicy,
    /// Since when nothing goes out, because the channel is to be replaced as soon as all
    /// that is out is answered.
    replacing_since: Option<Instant>,
    session_state: Arc<SessionState>,
    max_message_size: Arc<MaxMessageSize>,
    /// Jobs of which some messages are still to go out, in order.
    waiting: VecDeque<(u64, std::vec::IntoIter<Publication>)>,
    /// Jobs that have not been reported on, or have messages out.
    batches: SlotQueue<OpenBatch>,
    /// Messages that are out, or whose success is held back.
    sent: SlotQueue<Sent>,
    confirms: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Messages whose success is held back.
    held_back: Vec<u64>,
    last_answer: Instant,
    /// Nothing was confirmed for longer than [`SILENCE`], and everybody knows.
    is_stalled: bool,
    /// Who waits until no job before this number is open.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
}

struct OpenBatch {
    unconfirmed: usize,
    since: Instant,
    failure: Option<TransportError>,
    /// `None` once it was reported on.
    done: Option<Completion>,
}

struct Sent {
    batch: u64,
    /// If it is mandatory: what a return of it is known by.
    address: Option<Address>,
    returned: Option<TransportError>,
}

/// Exchange, routing key and id.
type Address = (ShortString, ShortString, Option<ShortString>);

impl PublisherTask {
    async fn run(mut self, mut commands: mpsc::Receiver<PublishCommand>) {
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let session_state = self.session_state.clone();
        let ended = session_state.ended();
        tokio::pin!(ended);
        let error = loop {
            if self.replacing_since.is_some() && self.sent.len() == 0 {
                tokio::select! {
                    biased;
                    error = &mut ended => break error,
                    () = self.replace_channel() => {}
                }
            }
            self.send_waiting();
            tokio::select! {
                biased;
                error = &mut ended => break error,
                () = poll_fn(|cx| self.poll_confirms(cx)) => {}
                command = commands.recv(), if self.batches.len() < QUEUED_MAX => match command {
                    Some(command) => self.on_command(command),
                    None => break TransportError::Closed,
                },
                _ = clock.tick() => self.expire_batches(),
            }
        };
        commands.close();
        while let Ok(command) = commands.try_recv() {
            self.on_command(command);
        }
        for (_, batch) in self.batches.iter_mut() {
            if let Some(done) = batch.done.take() {
                done.complete(Err(error.clone()));
            }
        }
        // Whoever flushes learns by the drop that nothing is left to do.
    }

    fn on_command(&mut self, command: PublishCommand) {
        match command {
            PublishCommand::Flush(done) => {
                self.flushes.push((self.batches.next(), done));
                self.report_flushes();
            }
            PublishCommand::Publish(batch) => {
                let open = OpenBatch {
                    unconfirmed: batch.publications.len(),
                    since: batch.since,
                    failure: None,
                    done: Some(batch.done),
                };
                let number = self.batches.push(open);
                if batch.publications.is_empty() {
                    self.close_if_done(number);
                } else {
                    self.waiting
                        .push_back((number, batch.publications.into_iter()));
                }
            }
        }
    }

    /// Goes on with a new channel. What was refused is published again by whoever
    /// published it.
    async fn replace_channel(&mut self) {
        let Some(connections) = &self.connections else {
            return self
                .session_state
                .fail("publishing: the broker refuses everything");
        };
        match timeout(REPLACE_TIMEOUT, confirm_channel(&connections.publishing)).await {
            Ok(Ok(channel)) => {
                self.channel = channel;
                self.replacing_since = None;
            }
            Ok(Err(error)) => self.session_state.fail(format!("publishing: {error}")),
            Err(_) => self
                .session_state
                .fail(format!("publishing: no channel within {REPLACE_TIMEOUT:?}")),
        }
    }

    /// Sends what the window has room for.
    fn send_waiting(&mut self) {
        if self.replacing_since.is_some() {
            return;
        }
        while self.sent.len() < WINDOW {
            let Some((batch, publications)) = self.waiting.front_mut() else {
                return;
            };
            let (batch, next) = (*batch, publications.next());
            match next {
                Some(publication) => self.send(batch, publication),
                None => {
                    self.waiting.pop_front();
                }
            }
        }
    }

    fn send(&mut self, batch: u64, publication: Publication) {
        let Publication {
            exchange,
            key,
            properties,
            payload,
            mandatory,
        } = publication;
        let address = mandatory.then(|| {
            let id = properties.message_id().clone();
            (exchange.clone(), key.clone(), id)
        });
        let number = self.sent.push(Sent {
            batch,
            address,
            returned: None,
        });
        if self.confirms.is_empty() {
            // It was silent because nothing was asked.
            self.last_answer = Instant::now();
        }
        let channel = self.channel.clone();
        let mut confirm = async move {
            let options = BasicPublishOptions {
                mandatory,
                ..Default::default()
            };
            let published = channel
                .basic_publish(exchange, key, options, &payload, properties)
                .await;
            match published {
                Ok(confirm) => (number, confirm.await),
                Err(error) => (number, Err(error)),
            }
        }
        .boxed();
        // The first poll hands it to the connection: so they go out in order.
        match (&mut confirm).now_or_never() {
            Some((number, answer)) => self.on_confirm(number, answer),
            None => self.confirms.push(confirm),
        }
    }

    /// Ready when anything was answered.
    fn poll_confirms(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut any = self.drain_confirms(cx);
        while !self.held_back.is_empty() {
            any = true;
            let held = self.held_back.len();
            // One frame of the broker's can confirm many, and the library may be in the
            // middle of it: a return can still come with another one. It holds a lock
            // meanwhile, and this takes the same lock (and no more: the rest of what it
            // would do is not waited for).
            let _unwanted = self.channel.wait_for_confirms().now_or_never();
            self.drain_confirms(cx);
            for number in self.held_back.drain(..held).collect::<Vec<_>>() {
                let returned = self.sent.get_mut(number).and_then(|it| it.returned.take());
                self.settle(number, returned.map_or(Ok(()), Err));
            }
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Takes every answer that is there. Returns whether there was one.
    fn drain_confirms(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        // Twice, because it may pause to let others go on.
        for _ in 0..2 {
            while let Poll::Ready(Some((number, answer))) = self.confirms.poll_next_unpin(cx) {
                any = true;
                self.on_confirm(number, answer);
            }
        }
        any
    }

    fn on_confirm(&mut self, number: u64, answer: lapin::Result<Confirmation>) {
        self.last_answer = Instant::now();
        if std::mem::take(&mut self.is_stalled) {
            self.session_state.confirms_stalled(None);
        }
        let (outcome, returned) = match answer {
            Ok(Confirmation::Ack(returned)) => (Ok(()), returned),
            Ok(Confirmation::Nack(returned)) => {
                let why = "the broker could not keep it".to_owned();
                (Err(TransportError::Refused(why)), returned)
            }
            Ok(Confirmation::NotRequested) => (Err(TransportError::Unconfirmed), None),
            Err(error) => {
                if let Some((_, text)) = refusal(&error) {
                    self.max_message_size.learn(text);
                }
                // A channel that has failed doesn't come back.
                self.session_state.fail(format!("publishing: {error}"));
                (Err(self.session_state.error()), None)
            }
        };
        if let Some(message) = returned {
            self.on_return(&message);
        }
        let address = self.sent.get_mut(number).and_then(|it| it.address.as_ref());
        if let Some((exchange, key, _)) = address {
            match &outcome {
                Ok(()) => self.replacement.accepted(exchange, key),
                Err(TransportError::Refused(_)) => {
                    let now = Instant::now();
                    if self.replacement.refused(exchange, key, now) {
                        warn!(%key, "the broker refuses what is published, by another channel then");
                        self.replacing_since.get_or_insert(now);
                    }
                }
                Err(_) => {}
            }
        }
        if outcome.is_ok() && address.is_some() {
            self.held_back.push(number);
        } else {
            self.settle(number, outcome);
        }
    }

    fn on_return(&mut self, message: &BasicReturnMessage) {
        let id = message.delivery.properties.message_id();
        let address = (
            &message.delivery.exchange,
            &message.delivery.routing_key,
            id.as_ref(),
        );
        let mut sent = self.sent.iter_mut().filter(|(_, sent)| {
            sent.returned.is_none()
                && sent
                    .address
                    .as_ref()
                    .is_some_and(|(exchange, key, id)| (exchange, key, id.as_ref()) == address)
        });
        match sent.next() {
            Some((_, sent)) => {
                let why = format!("no queue takes {}: {}", address.1, message.reply_text);
                sent.returned = Some(TransportError::Refused(why));
            }
            None => error!(key = %address.1, "the broker returned a message that is not out"),
        }
    }

    /// One message is dealt with.
    fn settle(&mut self, number: u64, outcome: Result<(), TransportError>) {
        let Some(sent) = self.sent.remove(number) else {
            return;
        };
        if let Some(batch) = self.batches.get_mut(sent.batch) {
            batch.unconfirmed -= 1;
            if let Err(error) = outcome {
                batch.failure.get_or_insert(error);
            }
        }
        self.close_if_done(sent.batch);
    }

    fn close_if_done(&mut self, number: u64) {
        let done = |batch: &mut OpenBatch| batch.unconfirmed == 0;
        if !self.batches.get_mut(number).is_some_and(done) {
            return;
        }
        if let Some(mut batch) = self.batches.remove(number)
            && let Some(done) = batch.done.take()
        {
            done.complete(batch.failure.map_or(Ok(()), Err));
        }
        self.report_flushes();
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let first_open = self
            .batches
            .iter_mut()
            .find(|(_, batch)| batch.done.is_some())
            .map(|(number, _)| number);
        self.flushes.retain_mut(|(before, done)| {
            let open = first_open.is_some_and(|first| first < *before);
            if !open {
                let (unused, _) = oneshot::channel();
                let _gone = std::mem::replace(done, unused).send(());
            }
            open
        });
    }

    /// Reports failure of jobs that have waited too long. Their messages stay in the
    /// window until the broker says something: they may have arrived.
    fn expire_batches(&mut self) {
        let silence = self.last_answer.elapsed();
        if !self.confirms.is_empty() && silence >= STALLED_MAX && !self.session_state.is_blocked() {
            self.session_state.fail(format!(
                "publishing: nothing was confirmed for {STALLED_MAX:?}"
            ));
            return;
        }
        if self
            .replacing_since
            .is_some_and(|since| since.elapsed() >= CONFIRM_TIMEOUT)
        {
            self.session_state
                .fail("publishing: what is out is not answered");
            return;
        }
        if !self.confirms.is_empty() && silence >= STALLED_AFTER && !self.is_stalled {
            // One queue that doesn't take what it gets is enough: the broker stops reading
            // from a connection with too much that isn't confirmed.
            self.is_stalled = true;
            let why = format!("nothing that was published is confirmed since {STALLED_AFTER:?}");
            self.session_state.confirms_stalled(Some(why));
        }
        let mut expired = false;
        for (_, batch) in self.batches.iter_mut() {
            if batch.since.elapsed() >= CONFIRM_TIMEOUT
                && let Some(done) = batch.done.take()
            {
                expired = true;
                done.complete(Err(TransportError::Unconfirmed));
            }
        }
        if expired {
            self.drop_unsent();
            self.report_flushes();
        }
    }

    /// What was given up before any of it went out needn't go out.
    fn drop_unsent(&mut self) {
        let batches = &mut self.batches;
        self.waiting.retain_mut(|(number, publications)| {
            let Some(batch) = batches.get_mut(*number) else {
                return false;
            };
            if batch.done.is_some() {
                return true;
            }
            batch.unconfirmed -= publications.len();
            if batch.unconfirmed == 0 {
                batches.remove(*number);
            }
            false
        });
    }
}
