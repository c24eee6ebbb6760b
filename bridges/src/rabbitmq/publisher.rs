//! Publishing with confirms: the owner of one confirm channel.
//!
//! One task publishes, because publishing from several on one channel mixes up whose
//! confirm is whose. It holds every confirm until it comes, at most [`WINDOW`] at a
//! time, and gives a job up that isn't confirmed within [`CONFIRM_TIMEOUT`].
//!
//! A message that must reach a queue is published as mandatory; the broker returns it
//! if there is none. The client library hands a return over with the next confirm that
//! it sees, whosever that is. So returns are matched by id and address, and on such a
//! channel no success is reported before every confirm that is out has come.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
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
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::error;

use super::link::Link;

/// The most messages that are out without a confirm.
const WINDOW: usize = 1000;
/// The most jobs that wait for their turn.
const WAITING_MAX: usize = 65_536;
/// After this a publication counts as failed.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(30);

/// A message with its address.
#[derive(Debug)]
pub(super) struct Publication {
    pub(super) exchange: ShortString,
    pub(super) key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) payload: Bytes,
}

/// Publishes on one channel. Clones share it.
#[derive(Clone)]
pub(super) struct Publisher {
    orders: mpsc::Sender<Order>,
    link: Arc<Link>,
}

enum Order {
    Publish(Job),
    Flush(oneshot::Sender<()>),
}

struct Job {
    publications: Vec<Publication>,
    done: Completion,
    since: Instant,
}

impl Publisher {
    /// Takes over a channel in confirm mode, on the current runtime.
    pub(super) fn start(channel: Channel, link: Arc<Link>, mandatory: bool) -> Self {
        let (orders, received) = mpsc::channel(WAITING_MAX);
        let owner = Owner {
            channel,
            link: link.clone(),
            mandatory,
            waiting: VecDeque::new(),
            jobs: BTreeMap::new(),
            sent: BTreeMap::new(),
            confirms: FuturesUnordered::new(),
            flushes: Vec::new(),
            next_job: 0,
            next_sent: 0,
        };
        tokio::spawn(owner.run(received));
        Self { orders, link }
    }

    /// Publishes in order and reports once on all.
    pub(super) fn publish(&self, publications: Vec<Publication>, done: Completion) {
        if let Err(ended) = self.link.check() {
            return done.complete(Err(ended));
        }
        let order = Order::Publish(Job {
            publications,
            done,
            since: Instant::now(),
        });
        let (order, error) = match self.orders.try_send(order) {
            Ok(()) => return,
            Err(mpsc::error::TrySendError::Full(order)) => {
                let why = format!("{WAITING_MAX} publications are waiting already");
                (order, TransportError::Refused(why))
            }
            Err(mpsc::error::TrySendError::Closed(order)) => (order, self.link.error()),
        };
        if let Order::Publish(job) = order {
            job.done.complete(Err(error));
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
        if self.orders.send(Order::Flush(done)).await.is_ok() {
            let _gone = flushed.await;
        }
    }
}

/// What became of one message.
type Answer = (u64, lapin::Result<Confirmation>);

struct Owner {
    channel: Channel,
    link: Arc<Link>,
    mandatory: bool,
    /// Jobs of which some messages are still to go out, in order.
    waiting: VecDeque<(u64, std::vec::IntoIter<Publication>)>,
    /// Jobs that have not been reported on, or have messages out.
    jobs: BTreeMap<u64, OpenJob>,
    /// Messages that are out, or whose success is held back.
    sent: BTreeMap<u64, Sent>,
    confirms: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// Who waits until no job before this number is open.
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    next_job: u64,
    next_sent: u64,
}

struct OpenJob {
    unconfirmed: usize,
    since: Instant,
    failure: Option<TransportError>,
    /// `None` once it was reported on.
    done: Option<Completion>,
}

struct Sent {
    job: u64,
    /// Only on a mandatory channel: what a return is known by.
    address: Option<(ShortString, ShortString, Option<ShortString>)>,
    returned: Option<TransportError>,
}

impl Owner {
    async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut clock = interval(Duration::from_secs(1));
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let link = self.link.clone();
        let ended = link.ended();
        tokio::pin!(ended);
        let error = loop {
            self.send_waiting();
            tokio::select! {
                biased;
                error = &mut ended => break error,
                Some((number, answer)) = self.confirms.next() => self.answered(number, answer),
                order = orders.recv(), if self.jobs.len() < WAITING_MAX => match order {
                    Some(order) => self.accept(order),
                    None => break TransportError::Closed,
                },
                _ = clock.tick() => self.give_up_old(),
            }
        };
        orders.close();
        while let Ok(order) = orders.try_recv() {
            self.accept(order);
        }
        for job in self.jobs.values_mut() {
            if let Some(done) = job.done.take() {
                done.complete(Err(error.clone()));
            }
        }
        // Whoever flushes learns by the drop that nothing is left to do.
    }

    fn accept(&mut self, order: Order) {
        match order {
            Order::Flush(done) => {
                self.flushes.push((self.next_job, done));
                self.report_flushes();
            }
            Order::Publish(job) => {
                let number = self.next_job;
                self.next_job += 1;
                let open = OpenJob {
                    unconfirmed: job.publications.len(),
                    since: job.since,
                    failure: None,
                    done: Some(job.done),
                };
                self.jobs.insert(number, open);
                if job.publications.is_empty() {
                    self.close_if_done(number);
                } else {
                    self.waiting
                        .push_back((number, job.publications.into_iter()));
                }
            }
        }
    }

    /// Sends what the window has room for.
    fn send_waiting(&mut self) {
        while self.sent.len() < WINDOW {
            let Some((job, publications)) = self.waiting.front_mut() else {
                return;
            };
            let (job, next) = (*job, publications.next());
            match next {
                Some(publication) => self.send(job, publication),
                None => {
                    self.waiting.pop_front();
                }
            }
        }
    }

    fn send(&mut self, job: u64, publication: Publication) {
        let number = self.next_sent;
        self.next_sent += 1;
        let Publication {
            exchange,
            key,
            properties,
            payload,
        } = publication;
        let address = self.mandatory.then(|| {
            let id = properties.message_id().clone();
            (exchange.clone(), key.clone(), id)
        });
        self.sent.insert(
            number,
            Sent {
                job,
                address,
                returned: None,
            },
        );
        let (channel, mandatory) = (self.channel.clone(), self.mandatory);
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
            Some((number, answer)) => self.answered(number, answer),
            None => self.confirms.push(confirm),
        }
    }

    fn answered(&mut self, number: u64, answer: lapin::Result<Confirmation>) {
        let (outcome, returned) = match answer {
            Ok(Confirmation::Ack(returned)) => (Ok(()), returned),
            Ok(Confirmation::Nack(returned)) => {
                let why = "the broker could not keep it".to_owned();
                (Err(TransportError::Refused(why)), returned)
            }
            Ok(Confirmation::NotRequested) => (Err(TransportError::Unconfirmed), None),
            Err(error) => {
                // A channel that has failed doesn't come back.
                self.link.fail(format!("publishing: {error}"));
                (Err(self.link.error()), None)
            }
        };
        if let Some(message) = returned {
            self.returned(&message);
        }
        match (outcome, self.mandatory) {
            (outcome, false) => self.settle(number, outcome),
            (Err(error), true) => self.settle(number, Err(error)),
            // Held back: a return of this one may come with a later confirm.
            (Ok(()), true) => {}
        }
        if self.mandatory && self.confirms.is_empty() {
            while let Some((&number, sent)) = self.sent.first_key_value() {
                let outcome = sent.returned.clone().map_or(Ok(()), Err);
                self.settle(number, outcome);
            }
        }
    }

    fn returned(&mut self, message: &BasicReturnMessage) {
        let id = message.delivery.properties.message_id();
        let address = (
            &message.delivery.exchange,
            &message.delivery.routing_key,
            id.as_ref(),
        );
        let mut sent = self.sent.values_mut().filter(|sent| {
            sent.returned.is_none()
                && sent
                    .address
                    .as_ref()
                    .is_some_and(|(exchange, key, id)| (exchange, key, id.as_ref()) == address)
        });
        match sent.next() {
            Some(sent) => {
                let why = format!("no queue takes {}: {}", address.1, message.reply_text);
                sent.returned = Some(TransportError::Refused(why));
            }
            None => error!(key = %address.1, "the broker returned a message that is not out"),
        }
    }

    /// One message is dealt with.
    fn settle(&mut self, number: u64, outcome: Result<(), TransportError>) {
        let Some(sent) = self.sent.remove(&number) else {
            return;
        };
        if let Some(job) = self.jobs.get_mut(&sent.job) {
            job.unconfirmed -= 1;
            if let Err(error) = outcome {
                job.failure.get_or_insert(error);
            }
        }
        self.close_if_done(sent.job);
    }

    fn close_if_done(&mut self, number: u64) {
        let done = |job: &OpenJob| job.unconfirmed == 0;
        if !self.jobs.get(&number).is_some_and(done) {
            return;
        }
        if let Some(mut job) = self.jobs.remove(&number)
            && let Some(done) = job.done.take()
        {
            done.complete(job.failure.map_or(Ok(()), Err));
        }
        self.report_flushes();
    }

    fn report_flushes(&mut self) {
        if self.flushes.is_empty() {
            return;
        }
        let first_open = self
            .jobs
            .iter()
            .find(|(_, job)| job.done.is_some())
            .map(|(number, _)| *number);
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
    fn give_up_old(&mut self) {
        let mut given_up = false;
        for job in self.jobs.values_mut() {
            if job.since.elapsed() >= CONFIRM_TIMEOUT
                && let Some(done) = job.done.take()
            {
                given_up = true;
                done.complete(Err(TransportError::Unconfirmed));
            }
        }
        if given_up {
            self.drop_unsent();
            self.report_flushes();
        }
    }

    /// What was given up before any of it went out needn't go out.
    fn drop_unsent(&mut self) {
        let jobs = &mut self.jobs;
        self.waiting.retain_mut(|(number, publications)| {
            let Some(job) = jobs.get_mut(number) else {
                return false;
            };
            if job.done.is_some() {
                return true;
            }
            job.unconfirmed -= publications.len();
            if job.unconfirmed == 0 {
                jobs.remove(number);
            }
            false
        });
    }
}
