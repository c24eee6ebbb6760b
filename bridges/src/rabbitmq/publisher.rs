//! Publishes with confirms: the task that owns one confirm channel.
//!
//! Only one task publishes on a channel, because concurrent publishers mix up their confirms
//! (lapin 4.12). The task keeps at most [`WINDOW`] messages unconfirmed, and reports a batch as
//! failed if it isn't confirmed within [`CONFIRM_TIMEOUT`]. `confirm_window` keeps the books.

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
use lapin::options::BasicPublishOptions;
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tracing::warn;

use super::channel_replacement::{REFUSED_FOR, ReplacementPolicy};
use super::confirm_window::ConfirmWindow;
use super::connection::{Connections, confirm_channel};
use super::declarer::refusal;
use super::max_message_size::MaxMessageSize;
use super::session_state::SessionState;

/// Maximum unconfirmed messages.
const WINDOW: usize = 1000;
/// Maximum queued batches.
const QUEUED_MAX: usize = 65_536;
/// If nothing is confirmed for this time, the status reports it.
const STALLED_AFTER: Duration = Duration::from_secs(5);
/// After this time an unconfirmed batch is reported as failed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);
/// If nothing is confirmed for this time on a live connection, the session ends.
const STALLED_MAX: Duration = Duration::from_secs(120);
/// Maximum commands that are handled before the task looks at confirms.
const COMMANDS_MAX: usize = 64;
/// Time limit to open a new channel.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(10);

/// A message with its exchange and routing key.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Bytes,
    /// The publication fails if no queue receives the message.
    pub(super) mandatory: bool,
}

/// Publishes on one channel. Clones share the channel.
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
    /// Starts the task for a channel in confirm mode, on the current runtime. With
    /// `connections` the task can replace the channel; without, the session ends instead.
    pub(super) fn start(
        channel: Channel,
        connections: Option<Arc<Connections>>,
        session_state: Arc<SessionState>,
        max_message_size: Arc<MaxMessageSize>,
    ) -> Self {
        let (commands, received) = mpsc::channel(QUEUED_MAX);
        // Ending a session costs more than replacing a channel.
        let first = connections
            .as_ref()
            .map_or(CONFIRM_TIMEOUT, |_| REFUSED_FOR);
        let task = PublisherTask {
            channel,
            connections,
            replacement: ReplacementPolicy::new(first),
            replacing_since: None,
            session_state: session_state.clone(),
            max_message_size: max_message_size.clone(),
            unsent: VecDeque::new(),
            window: ConfirmWindow::default(),
            confirms: FuturesUnordered::new(),
            last_answer: Instant::now(),
            is_stalled: false,
        };
        tokio::spawn(task.run(received));
        Self {
            commands,
            session_state,
            max_message_size,
        }
    }

    /// Publishes in order and reports the outcome of all once.
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
                let why = format!("{QUEUED_MAX} batches are queued already");
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

    /// Publishes one message and waits for its confirm.
    pub(super) async fn send(&self, publication: Publication) -> Result<(), TransportError> {
        let (done, outcome) = Completion::channel();
        self.publish(vec![publication], done);
        outcome.await
    }

    /// Waits until every earlier message is confirmed or has failed.
    pub(super) async fn flush(&self) {
        let (done, flushed) = oneshot::channel();
        // A task that has ended has nothing in progress.
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

/// The number of a message and its confirm.
type Confirm = (u64, lapin::Result<Confirmation>);

struct PublisherTask {
    channel: Channel,
    connections: Option<Arc<Connections>>,
    replacement: ReplacementPolicy,
    /// Set while nothing is sent, because the channel will be replaced when all messages in
    /// flight are confirmed: since when.
    replacing_since: Option<Instant>,
    session_state: Arc<SessionState>,
    max_message_size: Arc<MaxMessageSize>,
    /// Batches with unsent messages, in order.
    unsent: VecDeque<(u64, std::vec::IntoIter<Publication>)>,
    window: ConfirmWindow,
    /// Confirms of the sent messages.
    confirms: FuturesUnordered<BoxFuture<'static, Confirm>>,
    last_answer: Instant,
    /// Nothing was confirmed for [`STALLED_AFTER`], and the status reports it.
    is_stalled: bool,
}

impl PublisherTask {
    async fn run(mut self, mut commands: mpsc::Receiver<PublishCommand>) {
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let session_state = self.session_state.clone();
        let ended = session_state.ended();
        tokio::pin!(ended);
        let mut received = Vec::with_capacity(COMMANDS_MAX);
        let error = loop {
            if self.replacing_since.is_some() && self.window.in_flight() == 0 {
                tokio::select! {
                    biased;
                    error = &mut ended => break error,
                    () = self.replace_channel() => {}
                }
            }
            self.send_unsent();
            tokio::select! {
                biased;
                error = &mut ended => break error,
                () = poll_fn(|cx| self.poll_confirms(cx)) => {}
                count = commands.recv_many(&mut received, COMMANDS_MAX),
                    if self.window.batches() < QUEUED_MAX =>
                {
                    if count == 0 {
                        break TransportError::Closed;
                    }
                    for command in received.drain(..) {
                        self.on_command(command);
                    }
                }
                _ = clock.tick() => self.expire_batches(),
            }
        };
        commands.close();
        while let Ok(command) = commands.try_recv() {
            self.on_command(command);
        }
        self.window.fail_all(&error);
        // Dropping the flushes' senders answers them.
    }

    fn on_command(&mut self, command: PublishCommand) {
        match command {
            PublishCommand::Flush(caller) => self.window.flush(caller),
            PublishCommand::Publish(batch) => {
                let count = batch.publications.len();
                let number = self.window.open(count, batch.since, batch.done);
                if count > 0 {
                    let publications = batch.publications.into_iter();
                    self.unsent.push_back((number, publications));
                }
            }
        }
    }

    /// Replaces the channel. The callers publish refused messages again.
    async fn replace_channel(&mut self) {
        let Some(connections) = &self.connections else {
            let why = "publishing: the broker refuses everything";
            return self.session_state.fail(why);
        };
        let why = match timeout(REPLACE_TIMEOUT, confirm_channel(&connections.publishing)).await {
            Ok(Ok(channel)) => {
                self.channel = channel;
                self.replacing_since = None;
                return;
            }
            Ok(Err(error)) => format!("publishing: {error}"),
            Err(_) => format!("publishing: no channel within {REPLACE_TIMEOUT:?}"),
        };
        self.session_state.fail(why);
    }

    /// Sends messages while the window has room.
    fn send_unsent(&mut self) {
        if self.replacing_since.is_some() {
            return;
        }
        while self.window.in_flight() < WINDOW {
            let Some((batch, publications)) = self.unsent.front_mut() else {
                return;
            };
            let (batch, next) = (*batch, publications.next());
            match next {
                Some(publication) => self.send(batch, publication),
                None => {
                    self.unsent.pop_front();
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
        let number = self.window.add(batch, address);
        if self.awaited() == 0 {
            // Nothing was in flight before: a stall starts here.
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
        // The first poll hands the message to the connection, so messages leave in order.
        match (&mut confirm).now_or_never() {
            Some((number, answer)) => self.on_confirm(number, answer),
            None => self.confirms.push(confirm),
        }
    }

    /// Number of messages that the broker hasn't answered.
    fn awaited(&self) -> usize {
        self.confirms.len()
    }

    /// Ready after at least one confirm.
    fn poll_confirms(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut any = self.drain_confirms(cx);
        while self.window.held_back() > 0 {
            any = true;
            let held_back = self.window.held_back();
            // One frame can confirm many messages, and the library may be in the middle of it:
            // a return can still arrive with a later confirm. The library holds a lock
            // meanwhile; this call takes and releases the same lock. Its further work isn't
            // needed.
            let _unwanted = self.channel.wait_for_confirms().now_or_never();
            self.drain_confirms(cx);
            self.window.release(held_back);
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Handles every confirm that has arrived. Returns whether there was one.
    fn drain_confirms(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        // Twice, because the stream may yield once to other tasks.
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
                let why = "the broker refused the message".to_owned();
                (Err(TransportError::Refused(why)), returned)
            }
            Ok(Confirmation::NotRequested) => (Err(TransportError::Unconfirmed), None),
            Err(error) => {
                if let Some((_, text)) = refusal(&error) {
                    self.max_message_size.learn(text);
                }
                // A failed channel doesn't recover.
                self.session_state.fail(format!("publishing: {error}"));
                (Err(self.session_state.error()), None)
            }
        };
        if let Some(message) = returned {
            self.window.returned(&message);
        }
        if let Some((exchange, key, _)) = self.window.address(number) {
            match &outcome {
                Ok(()) => self.replacement.accepted(exchange, key),
                Err(TransportError::Refused(_)) => {
                    let now = Instant::now();
                    if self.replacement.refused(exchange, key, now) {
                        warn!(%key, "broker refuses publications, replacing the channel");
                        self.replacing_since.get_or_insert(now);
                    }
                }
                Err(_) => {}
            }
        }
        self.window.confirmed(number, outcome);
    }

    /// Reports old batches as failed, and stalled confirms. Ends the session if waiting longer
    /// is useless.
    fn expire_batches(&mut self) {
        let silence = self.last_answer.elapsed();
        let is_waiting = self.awaited() > 0;
        if is_waiting && silence >= STALLED_MAX && !self.session_state.is_blocked() {
            let why = format!("publishing: nothing was confirmed for {STALLED_MAX:?}");
            return self.session_state.fail(why);
        }
        let replacing = self.replacing_since.map(|since| since.elapsed());
        if replacing.is_some_and(|elapsed| elapsed >= CONFIRM_TIMEOUT) {
            let why = "publishing: messages in flight are not confirmed";
            return self.session_state.fail(why);
        }
        if is_waiting && silence >= STALLED_AFTER && !self.is_stalled {
            // One stuck queue can cause this: the broker stops reading from a connection with
            // too many unconfirmed messages.
            self.is_stalled = true;
            let why = format!("no publication was confirmed for {STALLED_AFTER:?}");
            self.session_state.confirms_stalled(Some(why));
        }
        if self.window.expire(CONFIRM_TIMEOUT) {
            let window = &mut self.window;
            self.unsent
                .retain(|(batch, publications)| !window.withdraw(*batch, publications.len()));
        }
    }
}
