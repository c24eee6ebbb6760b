//! State of one run of a service, from a start to the next stop.
//!
//! Any thread can take the deliveries of a run, also while a handler blocks the thread of the
//! service. A restart makes a new run.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::in_flight::InFlight;
use super::input_consumer::InputConsumer;
use super::keyed::KeyedDispatch;
use super::liveness::Liveness;
use super::mailbox::Mailbox;
use super::service_state::ServiceShared;
use crate::clock::later;
use crate::config::HumanDuration;
use crate::delivery::Delivery;
use crate::metrics::{Cause, Worker};
use crate::service::{Pause, RunControl};
use crate::supervision::{RestartType, RestartWindow};

/// One run of a service, shared by its actor, instances and bridges.
pub(crate) struct ServiceRun {
    service: Arc<ServiceShared>,
    /// The part of the run that handlers and sources share.
    pub(crate) control: Arc<RunControl>,
    pub(crate) mailbox: Arc<Mailbox<Delivery>>,
    /// Order by key; `None` if messages have no keys.
    pub(crate) keyed: Option<Arc<KeyedDispatch>>,
    /// Deliveries in flight, by instance.
    pub(crate) in_flight: Mutex<Vec<Arc<InFlight>>>,
    /// Consumers by input.
    pub(crate) consumers: Box<[InputConsumer]>,
    pub(crate) liveness: Liveness,
    /// The thread of the service.
    pub(crate) worker: Arc<Worker>,
    paused_until: Mutex<Option<Instant>>,
    /// Set once: instances may run their `stop` and end.
    released: watch::Sender<bool>,
    /// Messages and publications that this run will not finish, by name.
    abandoned: Mutex<Vec<String>>,
    /// Failures that count against the restart intensity of the service.
    failures: Mutex<RestartWindow>,
    /// Start of the run; restart decisions use the time since then.
    pub(crate) origin: Instant,
    /// The reason for giving up, once the service has given up.
    gave_up: watch::Sender<Option<String>>,
    /// An event has told that the service is up.
    pub(super) told_up: AtomicBool,
}

impl std::ops::Deref for ServiceRun {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.service
    }
}

impl ServiceRun {
    /// Creates a run. The first instance handles `suspects` one at a time before any other
    /// message: one of them made the previous process crash.
    pub(crate) fn new(
        service: Arc<ServiceShared>,
        worker: Arc<Worker>,
        suspects: Vec<Delivery>,
    ) -> Arc<Self> {
        let inputs = service.inputs.len();
        let mailbox = Arc::new(Mailbox::new(service.settings.mailbox));
        let keyed = service.settings.key.as_ref();
        let keyed = keyed.map(|_| KeyedDispatch::new(mailbox.clone(), service.ranks.clone()));
        let suspects = suspects.into_iter().filter_map(|delivery| match &keyed {
            Some(keyed) => keyed.adopt(delivery),
            None => Some(delivery),
        });
        let in_flight = InFlight::default();
        in_flight.put_all(suspects.collect());
        let run = Arc::new_cyclic(|run| Self {
            control: Arc::new(RunControl::new(pause_of(run))),
            mailbox,
            keyed,
            in_flight: Mutex::new(vec![Arc::new(in_flight)]),
            consumers: (0..inputs).map(|_| InputConsumer::default()).collect(),
            liveness: Liveness::new(service.loops.min),
            worker,
            paused_until: Mutex::new(None),
            released: watch::Sender::new(false),
            abandoned: Mutex::default(),
            failures: Mutex::default(),
            origin: Instant::now(),
            gave_up: watch::Sender::new(None),
            told_up: AtomicBool::new(false),
            service,
        });
        run.adopt_breaker();
        run
    }

    /// Records a failure of the service itself. Returns whether the service goes on; if not,
    /// it has given up and will be stopped. A temporary service is never restarted.
    pub(crate) fn record_failure(&self, cause: Cause, text: &str) -> bool {
        if self.settings.restart.restart_type == RestartType::Temporary {
            self.give_up(format!("failed ({}): {text}", cause.as_str()));
            return false;
        }
        let (within_intensity, count) = {
            let mut failures = self.failures.lock();
            let within_intensity =
                failures.restart(&self.settings.restart.intensity, self.origin.elapsed());
            (within_intensity, failures.len())
        };
        if !within_intensity {
            let within = HumanDuration(self.settings.restart.intensity.within);
            let cause = cause.as_str();
            let why = format!("failed {count} times within {within}, at last ({cause}): {text}");
            self.give_up(why);
        }
        within_intensity && !self.has_given_up()
    }

    /// Gives the service up. The first reason stays.
    pub(crate) fn give_up(&self, why: String) {
        self.gave_up.send_if_modified(|gave_up| {
            let first = gave_up.is_none();
            if first {
                *gave_up = Some(why);
            }
            first
        });
    }

    pub(crate) fn has_given_up(&self) -> bool {
        self.gave_up.borrow().is_some()
    }

    /// Resolves with the reason when the service has given up.
    pub(crate) async fn given_up(&self) -> String {
        let mut gave_up = self.gave_up.subscribe();
        match gave_up.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // Never: `self` owns the sender.
            Err(_) => std::future::pending().await,
        }
    }

    /// Returns whether the thread was abandoned: results of this run must have no effect.
    pub(crate) fn is_revoked(&self) -> bool {
        self.control.is_revoked()
    }

    /// Resolves when the thread was abandoned.
    pub(crate) async fn revoked(&self) {
        self.control.revoked().await;
    }

    /// Adds the name of a message or publication that this run will not finish.
    pub(crate) fn abandon(&self, name: String) {
        self.abandoned.lock().push(name);
    }

    /// Reports the messages that a source sends again because it was cut off before it could
    /// save its position.
    pub(crate) fn report_repeats(&self) {
        let repeats = self.position.repeats().most();
        if repeats > 0 {
            warn!(service = %self.label, repeats, "source did not save its position in time");
            self.abandon(format!(
                "position not saved in time, up to {repeats} messages are sent again"
            ));
        }
    }

    /// Takes the names of everything that this run will not finish. They are kept here
    /// because the abandoned thread may never report them.
    pub(crate) fn abandoned(&self) -> Vec<String> {
        std::mem::take(&mut self.abandoned.lock())
    }

    /// Lets the instances run their `stop` and end.
    pub(crate) fn release(&self) {
        self.released.send_replace(true);
    }

    /// Resolves when the instances may run their `stop` and end.
    pub(crate) async fn released(&self) {
        let mut released = self.released.subscribe();
        // Never an error: `self` owns the sender.
        let _open = released.wait_for(|released| *released).await;
    }

    /// Puts a delivery that was pulled back into the mailbox.
    pub(super) fn put_back(&self, delivery: Delivery) {
        let rank = self.ranks[delivery.input()];
        self.mailbox.put_back(delivery, rank);
    }

    /// Pauses the mailbox for a duration; a longer pause in progress stays.
    pub(crate) fn pause(self: &Arc<Self>, duration: Duration) {
        let until = later(duration);
        let mut paused = self.paused_until.lock();
        match &mut *paused {
            Some(end) => *end = until.max(*end),
            None => {
                *paused = Some(until);
                drop(paused);
                self.mailbox.pause();
                tokio::task::spawn_local(self.clone().resume_later());
            }
        }
    }

    async fn resume_later(self: Arc<Self>) {
        loop {
            let until = {
                let mut paused = self.paused_until.lock();
                match *paused {
                    Some(until) if until > Instant::now() => until,
                    _ => {
                        *paused = None;
                        break;
                    }
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(until) => {}
                // A stopping service takes no more messages.
                () = self.closed() => return,
            }
        }
        self.mailbox.resume();
    }

    /// Returns the rest of a pause.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock())?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// Tells the service to stop.
    pub(crate) fn close(&self) {
        self.control.close();
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.control.is_closing()
    }

    /// Resolves when the service is to stop.
    pub(crate) async fn closed(&self) {
        self.control.closed().await;
    }

    /// Returns the deliveries in flight of an instance.
    pub(crate) fn in_flight_of(&self, number: u32) -> Arc<InFlight> {
        let mut lists = self.in_flight.lock();
        while lists.len() <= number as usize {
            lists.push(Arc::default());
        }
        lists[number as usize].clone()
    }

    /// Returns the number of deliveries in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.lock().iter().map(|list| list.len()).sum()
    }

    /// Stops the consumers and takes every delivery of the run: those in the mailbox, and
    /// those in flight with the number of their instance. Prefetched deliveries are requeued.
    ///
    /// Works from any thread, also while a handler blocks its own. A handler result that comes
    /// later has no effect.
    pub(crate) fn seize(&self) -> Vec<(Option<u32>, Delivery)> {
        self.close();
        for consumer in &self.consumers {
            consumer.shut();
        }
        let waiting = self.close_mailbox().into_iter();
        let mut seized: Vec<_> = waiting.map(|delivery| (None, delivery)).collect();
        for (number, list) in (0..).zip(&*self.in_flight.lock()) {
            let in_flight = list.take_all().into_iter();
            seized.extend(in_flight.map(|delivery| (Some(number), delivery)));
        }
        seized
    }

    /// Abandons the thread of the run: takes every delivery as [`seize`](Self::seize) does,
    /// records those in flight as abandoned, and runs the abandon hooks.
    pub(crate) fn revoke(&self) -> Vec<(Option<u32>, Delivery)> {
        self.control.revoke();
        let seized = self.seize();
        let in_flight = seized.iter().filter(|(number, _)| number.is_some());
        let names = in_flight.map(|(_, delivery)| delivery.message().id.to_string());
        self.abandoned.lock().extend(names);
        self.control.notify_revoked();
        self.release();
        self.control.abandon_hooks.run();
        seized
    }
}

/// Returns the function by which handlers pause a run.
fn pause_of(run: &Weak<ServiceRun>) -> Pause {
    let run = run.clone();
    Box::new(move |duration| {
        if let Some(run) = run.upgrade() {
            run.pause(duration);
        }
    })
}
