//! Order by key: messages of one key are handled one at a time, in order.
//!
//! Bridges bring every message through the [`KeyGate`](gate::KeyGate). One message of each key is
//! in the mailbox or in flight; the next one follows when that one is acked, after its outputs are
//! confirmed, or dead-lettered. It goes to the end of the mailbox, so that keys take turns. A
//! message that waits for its retry stays unsettled and keeps its key.
//!
//! A delivery knows the gate that it passed and reports to it when it is settled or dropped, so no
//! key stays busy without a message. If the message returns to its queue, so do those behind it.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use self::gate::{Arrival, KeyGate, Keyed};
use super::mailbox::{Mailbox, Rank};
use super::service_run::ServiceRun;
use crate::clock::later;
use crate::delivery::{Delivery, KeyHolder, Settlement};
use crate::failure::Failure;
use crate::key::Key;
use crate::metrics::Outcome;

mod gate;

pub(crate) use gate::HELD_MAX;

impl Keyed for Delivery {
    fn key(&self) -> &Key {
        self.key()
            .expect("the bridge reads the key of each message")
    }

    fn input(&self) -> usize {
        self.input()
    }

    fn bytes(&self) -> usize {
        self.message().size()
    }
}

/// The gate of one run, with the mailbox behind it.
pub(crate) struct KeyedDispatch {
    state: Mutex<State>,
    mailbox: Arc<Mailbox<Delivery>>,
    /// Ranks of the inputs in the mailbox.
    ranks: Box<[Rank]>,
    /// A retry may be due earlier than the one that the timer waits for.
    earlier: Notify,
    this: Weak<Self>,
}

#[derive(Default)]
struct State {
    gate: KeyGate<Delivery>,
    /// Bridges that wait for room.
    bridges: Vec<Waker>,
}

impl State {
    /// Takes the wakers of bridges if there is room again.
    fn take_wakers(&mut self) -> Vec<Waker> {
        match self.gate.room() > 0 {
            true => std::mem::take(&mut self.bridges),
            false => Vec::new(),
        }
    }
}

impl KeyedDispatch {
    pub(super) fn new(mailbox: Arc<Mailbox<Delivery>>, ranks: Box<[Rank]>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            state: Mutex::default(),
            mailbox,
            ranks,
            earlier: Notify::new(),
            this: this.clone(),
        })
    }

    /// Waits for room behind busy keys and returns it.
    fn poll_room(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let mut state = self.state.lock();
        match state.gate.room() {
            0 => {
                let mut bridges = state.bridges.iter();
                if !bridges.any(|waker| waker.will_wake(cx.waker())) {
                    state.bridges.push(cx.waker().clone());
                }
                Poll::Pending
            }
            room => Poll::Ready(room),
        }
    }

    /// Moves deliveries through the gate, in order. Returns `false` if the service stops: the rest
    /// stays in `taken`.
    fn arrive(&self, taken: &mut VecDeque<Delivery>) -> bool {
        let mut passed = VecDeque::with_capacity(taken.len());
        let mut state = self.state.lock();
        while let Some(delivery) = taken.pop_front() {
            match state.gate.arrive(delivery) {
                Arrival::Passes(mut delivery) => {
                    delivery.set_holder(self.this.clone());
                    passed.push_back(delivery);
                }
                Arrival::Waits => {}
                Arrival::Closed(delivery) => {
                    taken.push_front(delivery);
                    break;
                }
            }
        }
        drop(state);
        self.mailbox
            .push_all(&mut passed, |it| self.ranks[it.input()]);
        let is_open = passed.is_empty() && taken.is_empty();
        passed.append(taken);
        *taken = passed;
        is_open
    }

    /// Lets a delivery of an earlier run keep its key busy. Returns it if it may be handled now.
    pub(crate) fn adopt(&self, mut delivery: Delivery) -> Option<Delivery> {
        match self.state.lock().gate.arrive(delivery) {
            Arrival::Waits => return None,
            Arrival::Passes(passed) | Arrival::Closed(passed) => delivery = passed,
        }
        delivery.set_holder(self.this.clone());
        Some(delivery)
    }

    /// Moves deliveries that have passed to the end of the mailbox.
    fn pass(&self, passed: impl IntoIterator<Item = Delivery>) {
        let now = Instant::now();
        let mut passed: VecDeque<_> = passed.into_iter().collect();
        for delivery in &mut passed {
            delivery.set_taken(now);
            delivery.set_holder(self.this.clone());
        }
        self.mailbox
            .push_all(&mut passed, |it| self.ranks[it.input()]);
        // Left over by a closed mailbox: their drop requeues them.
        drop(passed);
    }

    /// Holds a delivery that has passed until its retry, or requeues it if the service stops.
    fn retry(&self, delivery: Delivery, after: Duration) {
        let held = self.state.lock().gate.retry(delivery, later(after));
        match held {
            Ok(()) => self.earlier.notify_one(),
            Err(delivery) => delivery.nack_requeue(),
        }
    }

    /// Lets the deliveries whose retries are due pass. Returns the time of the next one.
    fn pass_due(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        let due = state.gate.due(Instant::now());
        let (next, bridges) = (state.gate.next_retry(), state.take_wakers());
        drop(state);
        self.pass(due);
        bridges.into_iter().for_each(Waker::wake);
        next
    }

    /// Requeues the messages of an input that wait behind busy keys, because their consumer has
    /// ended and they come again. Those that wait for their retries keep their keys.
    pub(super) fn requeue_behind(&self, input: usize) {
        let taken = self.state.lock().gate.take_all_behind(input);
        taken.into_iter().for_each(Delivery::nack_requeue);
    }

    /// Closes the gate and returns every delivery that it holds.
    pub(super) fn close(&self) -> Vec<Delivery> {
        let mut state = self.state.lock();
        let bridges = std::mem::take(&mut state.bridges);
        let held = state.gate.close();
        drop(state);
        bridges.into_iter().for_each(Waker::wake);
        held
    }

    /// Visits every delivery that the gate holds.
    pub(super) fn each(&self, visit: impl FnMut(&Delivery)) {
        self.state.lock().gate.each(visit);
    }

    /// Returns the number of keys whose message waits for its retry, and the number of messages
    /// that wait behind busy keys.
    pub(crate) fn held(&self) -> KeysHeld {
        let state = self.state.lock();
        KeysHeld {
            keys: state.gate.retrying(),
            messages: state.gate.behind(),
        }
    }
}

/// Messages that a gate holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeysHeld {
    /// Keys whose message waits for its retry.
    pub(crate) keys: usize,
    /// Messages that wait behind a message of their key.
    pub(crate) messages: usize,
}

impl KeyHolder for KeyedDispatch {
    fn finished(&self, key: &Key) {
        let mut state = self.state.lock();
        let next = state.gate.finish(key);
        let bridges = state.take_wakers();
        drop(state);
        if next.is_some() {
            self.pass(next);
        }
        bridges.into_iter().for_each(Waker::wake);
    }

    fn returned(&self, key: &Key, input: usize) {
        // A bridge on another thread may take some of them before the others are in the queue
        // again. The key stays busy until none is here, so that the next one is the oldest.
        loop {
            let mut state = self.state.lock();
            let behind = state.gate.take_behind(key, input);
            if behind.is_empty() {
                break;
            }
            drop(state);
            behind.into_iter().for_each(Delivery::nack_requeue);
        }
        self.finished(key);
    }
}

/// Lets messages pass when their retries are due, until the run ends.
pub(super) async fn follow(run: Arc<ServiceRun>) {
    let Some(keyed) = &run.keyed else { return };
    loop {
        let earlier = keyed.earlier.notified();
        let next = keyed.pass_due();
        tokio::select! {
            () = run.closed() => return,
            () = earlier => {}
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {}
        }
    }
}

impl ServiceRun {
    /// Waits until a bridge may take deliveries, and returns their number; 0 if the service stops.
    pub(super) fn poll_room(&self, cx: &mut Context<'_>, rank: Rank) -> Poll<usize> {
        match (self.mailbox.poll_room(cx, rank), &self.keyed) {
            (Poll::Ready(room), Some(keyed)) if room > 0 => {
                keyed.poll_room(cx).map(|held| held.min(room))
            }
            (room, _) => room,
        }
    }

    /// Takes deliveries from a bridge, for which there is room. Returns `false` if the service
    /// stops: the rest stays in `taken`.
    pub(super) fn take_in(
        &self,
        cx: &mut Context<'_>,
        rank: Rank,
        taken: &mut VecDeque<Delivery>,
    ) -> bool {
        match &self.keyed {
            None => self.mailbox.poll_push(cx, rank, taken).is_ready() && taken.is_empty(),
            Some(keyed) => {
                self.read_keys(taken);
                keyed.arrive(taken)
            }
        }
    }

    /// Reads the keys of deliveries. One without a key is dead-lettered.
    fn read_keys(&self, taken: &mut VecDeque<Delivery>) {
        let Some(settings) = &self.settings.key else {
            return;
        };
        for _ in 0..taken.len() {
            let Some(mut delivery) = taken.pop_front() else {
                return;
            };
            match settings.rule.key(delivery.message()) {
                Ok(key) => {
                    delivery.set_key(key);
                    taken.push_back(delivery);
                }
                Err(why) => {
                    self.meters.handled(delivery.input(), Outcome::Reject);
                    self.fail(delivery, &Failure::reject(why).into());
                }
            }
        }
    }

    /// Redelivers a message after a delay, as the given attempt. A message with a key stays
    /// unsettled meanwhile, so that no later message of the key overtakes it.
    pub(super) fn retry_later(&self, mut delivery: Delivery, after: Duration, attempt: u32) {
        match &self.keyed {
            Some(keyed) if delivery.note_attempt(attempt) => keyed.retry(delivery, after),
            _ => delivery.settle(Settlement::Retry { after, attempt }),
        }
    }

    /// Requeues the deliveries of an input that wait for an instance: its consumer has ended.
    pub(super) fn requeue_waiting(&self, input: usize) {
        let of_input = |delivery: &Delivery| delivery.input() == input;
        for delivery in self.mailbox.take_if(of_input) {
            delivery.nack_requeue();
        }
        if let Some(keyed) = &self.keyed {
            keyed.requeue_behind(input);
        }
    }

    /// Takes in no more deliveries and returns those that wait.
    pub(super) fn close_mailbox(&self) -> Vec<Delivery> {
        let mut waiting: Vec<_> = self.mailbox.close().into();
        if let Some(keyed) = &self.keyed {
            waiting.extend(keyed.close());
        }
        waiting
    }
}
