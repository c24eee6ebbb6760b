//! What surrounds a service in one life of it: from a start to the next stop.
//!
//! What it has can be taken away from any thread, also while a handler blocks its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::abandon_hooks::Hooks;
use super::in_flight::InFlight;
use super::input_consumer::InputConsumer;
use super::liveness::Liveness;
use super::log_throttle::LogThrottle;
use super::mailbox::Mailbox;
use super::pending_work::PendingWork;
use super::service_state::ServiceShared;
use crate::clock::later;
use crate::config::HumanDuration;
use crate::delivery::Delivery;
use crate::metrics::{Cause, Worker};
use crate::service::Shared;
use crate::supervision::RestartWindow;

/// The surroundings of a service from one start to the next stop, shared by its actor,
/// instances and bridges. A restart of the service makes new ones.
pub(crate) struct ServiceRun {
    core: Arc<ServiceShared>,
    pub(crate) mailbox: Mailbox<Delivery>,
    pub(crate) hands: Mutex<Vec<Arc<InFlight>>>,
    /// What each input consumes by, where it can be stopped from any thread.
    pub(crate) taps: Box<[InputConsumer]>,
    pub(crate) pulse: Liveness,
    pub(crate) shared: Shared,
    pub(super) hooks: Hooks,
    /// What it will do of its own accord.
    pub(crate) schedule: PendingWork,
    /// The thread that it runs on.
    pub(crate) worker: Arc<Worker>,
    paused_until: Mutex<Option<Instant>>,
    /// Set once, when no more is to be taken.
    closing: watch::Sender<bool>,
    /// Set once, when instances may run their `stop` and go.
    leaving: watch::Sender<bool>,
    /// Set once, when the thread was given up: nothing that happens there counts.
    fenced: AtomicBool,
    /// Wakes who waits for that.
    fencing: Notify,
    /// What was in hand and will not be finished in this life, by name.
    abandoned: Mutex<Vec<String>>,
    /// For saying that the transport doesn't take messages over.
    pub(super) refusals: LogThrottle,
    /// How often it didn't take a source's.
    not_taken: AtomicU64,
    /// Failures that count against the service's intensity.
    charges: Mutex<RestartWindow>,
    /// Restart decisions count from here.
    pub(crate) origin: Instant,
    /// Why the service gave up, once it has.
    gave_up: watch::Sender<Option<String>>,
}

impl std::ops::Deref for ServiceRun {
    type Target = ServiceShared;

    fn deref(&self) -> &ServiceShared {
        &self.core
    }
}

impl ServiceRun {
    /// `trials` are messages of which one is to blame, and nobody knows which: the first
    /// instance handles them one at a time before anything else.
    pub(crate) fn new(
        core: Arc<ServiceShared>,
        worker: Arc<Worker>,
        trials: Vec<Delivery>,
    ) -> Arc<Self> {
        let inputs = core.inputs.len();
        let hand = InFlight::default();
        hand.put_all(trials);
        Arc::new(Self {
            mailbox: Mailbox::new(core.settings.mailbox),
            hands: Mutex::new(vec![Arc::new(hand)]),
            taps: (0..inputs).map(|_| InputConsumer::default()).collect(),
            pulse: Liveness::new(core.loops.min),
            shared: Shared::default(),
            hooks: Hooks::default(),
            schedule: PendingWork::default(),
            worker,
            paused_until: Mutex::new(None),
            closing: watch::Sender::new(false),
            leaving: watch::Sender::new(false),
            fenced: AtomicBool::new(false),
            fencing: Notify::new(),
            abandoned: Mutex::default(),
            refusals: LogThrottle::default(),
            not_taken: AtomicU64::default(),
            charges: Mutex::default(),
            origin: Instant::now(),
            gave_up: watch::Sender::new(None),
            core,
        })
    }

    /// Counts a failure that is the service's own. Says whether it is to go on; if not,
    /// it has given up and will be stopped.
    pub(crate) fn charge(&self, cause: Cause, text: &str) -> bool {
        let (borne, count) = {
            let mut charges = self.charges.lock();
            let borne = charges.restart(&self.settings.restart.intensity, self.origin.elapsed());
            (borne, charges.len())
        };
        if !borne {
            let within = HumanDuration(self.settings.restart.intensity.within);
            let cause = cause.as_str();
            let why = format!("failed {count} times within {within}, at last ({cause}): {text}");
            self.give_up(why);
        }
        borne && !self.has_given_up()
    }

    /// The service gives up. What it said first counts.
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

    /// Resolves, with the reason, when the service has given up.
    pub(crate) async fn given_up(&self) -> String {
        let mut gave_up = self.gave_up.subscribe();
        match gave_up.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            // The sender is `self`: it can't be gone.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether the thread was given up: what happens there must have no effect.
    pub(crate) fn is_fenced(&self) -> bool {
        self.fenced.load(Relaxed)
    }

    /// Resolves when the thread was given up.
    pub(crate) async fn fenced(&self) {
        let fencing = self.fencing.notified();
        if !self.is_fenced() {
            fencing.await;
        }
    }

    /// Something was in hand, and will not be finished in this life.
    pub(crate) fn abandon(&self, what: String) {
        self.abandoned.lock().push(what);
    }

    /// Takes the names of what will not be finished in this life. They are kept here
    /// because the thread that knew them may never come back to tell.
    pub(crate) fn abandoned(&self) -> Vec<String> {
        std::mem::take(&mut self.abandoned.lock())
    }

    /// Instances may run their `stop` and go.
    pub(crate) fn let_go(&self) {
        self.leaving.send_replace(true);
    }

    /// Resolves when instances may run their `stop` and go.
    pub(crate) async fn may_leave(&self) {
        let mut leaving = self.leaving.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = leaving.wait_for(|leaving| *leaving).await;
    }

    /// Stops giving out messages for a while.
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
                // A service that stops takes no messages any more.
                () = self.closed() => return,
            }
        }
        self.mailbox.resume();
    }

    /// How long the service still takes no messages, if it paused itself.
    pub(crate) fn paused_for(&self) -> Option<Duration> {
        let until = (*self.paused_until.lock())?;
        Some(until.saturating_duration_since(Instant::now()))
    }

    /// The transport didn't take a message of this source over.
    pub(crate) fn was_not_taken(&self) {
        self.not_taken.fetch_add(1, Relaxed);
    }

    /// How often the transport didn't take a message of this source over.
    pub(crate) fn not_taken(&self) -> u64 {
        self.not_taken.load(Relaxed)
    }

    /// Says that the service is to stop.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    pub(crate) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Resolves when the service is to stop.
    pub(crate) async fn closed(&self) {
        let mut closing = self.closing.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = closing.wait_for(|closing| *closing).await;
    }

    /// The hand of an instance by its number.
    pub(crate) fn hand(&self, number: u32) -> Arc<InFlight> {
        let mut hands = self.hands.lock();
        while hands.len() <= number as usize {
            hands.push(Arc::default());
        }
        hands[number as usize].clone()
    }

    /// How many deliveries are in the hands of instances.
    pub(crate) fn in_flight(&self) -> usize {
        self.hands.lock().iter().map(|hand| hand.len()).sum()
    }

    /// Takes everything away: what its consumers fetched ahead goes back, what is in its
    /// mailbox and in the hands of its instances is returned, with the number of the
    /// instance that had it in hand. Works from any thread, also while a handler blocks
    /// its own; results that come later no longer count.
    pub(crate) fn seize(&self) -> Vec<(Option<u32>, Delivery)> {
        self.close();
        for tap in &self.taps {
            tap.shut();
        }
        let waiting = self.mailbox.close().into_iter();
        let mut seized: Vec<_> = waiting.map(|delivery| (None, delivery)).collect();
        for (number, hand) in (0..).zip(&*self.hands.lock()) {
            let held = hand.take_all().into_iter();
            seized.extend(held.map(|delivery| (Some(number), delivery)));
        }
        seized
    }

    /// Gives the thread up, then takes everything away as [`seize`](Self::seize) does.
    /// What was in hand is abandoned.
    pub(crate) fn fence(&self) -> Vec<(Option<u32>, Delivery)> {
        self.fenced.store(true, Relaxed);
        let seized = self.seize();
        let in_flight = seized.iter().filter(|(number, _)| number.is_some());
        let names = in_flight.map(|(_, delivery)| delivery.message().id.to_string());
        self.abandoned.lock().extend(names);
        self.fencing.notify_waiters();
        self.let_go();
        self.hooks.run();
        seized
    }
}
