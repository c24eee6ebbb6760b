//! Taking letters out: replayed, or for good.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until};

use super::walk::Walk;
use super::{Bounds, DeadLetters, Letter, Selection};
use crate::delivery::Delivery;
use crate::name::QueueId;
use crate::transport::{Completion, Outgoing, TransportError};

/// Replays under way, unconfirmed.
const WINDOW: u32 = 64;

/// Which letters go, and how.
#[derive(Debug, Clone)]
pub struct Removal {
    /// Which.
    pub selection: Selection,
    /// At most so many.
    pub limit: u64,
    /// Only finds out what would be done.
    pub dry_run: bool,
    /// How fast.
    pub pace: Pace,
    /// What the walk may hold of letters that stay.
    pub bounds: Bounds,
}

/// How fast letters go, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pace(Option<Duration>);

impl Pace {
    /// So many a second; `None` if that is no positive number.
    pub fn per_second(letters: f64) -> Option<Self> {
        let gap = Duration::try_from_secs_f64(1.0 / letters).ok()?;
        (letters > 0.0).then_some(Self(Some(gap)))
    }
}

/// Lets letters go one by one.
struct Turns {
    gap: Option<Duration>,
    next: Instant,
}

impl Turns {
    fn new(Pace(gap): Pace) -> Self {
        Self {
            gap,
            next: Instant::now(),
        }
    }

    /// Waits for the next one's turn. Time that was lost isn't made up for.
    async fn next(&mut self) {
        if let Some(gap) = self.gap {
            sleep_until(self.next).await;
            self.next = Instant::now().max(self.next) + gap;
        }
    }
}

/// What became of the letters of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// How many were there.
    pub letters: u64,
    /// How many were selected.
    pub selected: u64,
    /// How many were removed (with `dry_run`: would be).
    pub removed: u64,
    /// Selected, but no input of the manifest is the one that gave them up: they stay.
    pub without_input: u64,
    /// Whether there may be letters that were not looked at.
    pub more: bool,
    /// It was told to stop.
    pub stopped: bool,
    /// The first error of a publication; the letter stays, and nothing further was tried.
    pub error: Option<String>,
    /// With `dry_run`: the ids that were selected.
    pub ids: Vec<String>,
}

/// What publications under way report.
#[derive(Default)]
struct Progress {
    confirmed: u64,
    error: Option<TransportError>,
}

/// What is to be done with one selected letter.
enum Step {
    Done,
    /// It can't go; it stays.
    Stays(Delivery),
    /// Nothing more can.
    Fails(Delivery),
}

pub(super) async fn replay(
    letters: &DeadLetters,
    service: &str,
    removal: &Removal,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let progress: Arc<Mutex<Progress>> = Arc::default();
    let window = Arc::new(Semaphore::new(WINDOW as usize));
    let send = async |input: QueueId, letter: &Letter, delivery: Delivery| {
        let permit = window.clone().acquire_owned().await;
        let permit = permit.expect("the window stays open");
        if progress.lock().error.is_some() {
            return Step::Fails(delivery);
        }
        let progress = progress.clone();
        let done = Completion::new(move |outcome| {
            match outcome {
                Ok(()) => {
                    progress.lock().confirmed += 1;
                    delivery.ack();
                }
                // Dropped, the letter goes back.
                Err(error) => drop(progress.lock().error.get_or_insert(error)),
            }
            drop(permit);
        });
        let outgoing = Outgoing {
            queue: Some(input),
            ..letter.replayed().into()
        };
        letters.transport.publish(vec![outgoing], done);
        Step::Done
    };
    let each = async |letter: &Letter, delivery: Delivery| match letters.input_of(service, letter) {
        None => Step::Stays(delivery),
        Some(_) if removal.dry_run => Step::Stays(delivery),
        Some(input) => send(input, letter, delivery).await,
    };
    let settled = async || {
        // Every publication reports, if only that it was not confirmed in time.
        let _all = window.acquire_many(WINDOW).await;
    };
    let mut outcome = walk(letters, service, removal, stop, each, settled).await?;
    let progress = progress.lock();
    if !removal.dry_run {
        outcome.removed = progress.confirmed;
    }
    outcome.error = progress.error.as_ref().map(ToString::to_string);
    Ok(outcome)
}

pub(super) async fn discard(
    letters: &DeadLetters,
    service: &str,
    removal: &Removal,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let each = async |_: &Letter, delivery: Delivery| {
        if removal.dry_run {
            return Step::Stays(delivery);
        }
        delivery.ack();
        Step::Done
    };
    let mut outcome = walk(letters, service, removal, stop, each, async || {}).await?;
    // Whatever input gave it up.
    outcome.without_input = 0;
    outcome.removed = outcome.selected;
    Ok(outcome)
}

/// Sees every letter once, does `each` to the selected ones, and gives back the others.
async fn walk(
    letters: &DeadLetters,
    service: &str,
    removal: &Removal,
    stop: impl Future<Output = ()>,
    each: impl AsyncFn(&Letter, Delivery) -> Step,
    settled: impl AsyncFn(),
) -> Result<Outcome, TransportError> {
    let mut stop = pin!(stop);
    let mut walk = Walk::open(&*letters.transport, service, removal.bounds).await?;
    let mut outcome = Outcome {
        letters: walk.depth(),
        ..Outcome::default()
    };
    let mut turns = Turns::new(removal.pace);
    let ended = loop {
        if outcome.selected >= removal.limit {
            break Ok(());
        }
        let next = tokio::select! {
            biased;
            () = &mut stop => {
                outcome.stopped = true;
                break Ok(());
            }
            next = walk.next() => next,
        };
        let delivery = match next {
            Ok(Some(delivery)) => delivery,
            Ok(None) => break Ok(()),
            Err(error) => break Err(error),
        };
        let letter = Letter::new(delivery.message().clone());
        if !removal.selection.covers(&letter) {
            walk.hold(delivery);
            continue;
        }
        let has_input = letters.input_of(service, &letter).is_some();
        if removal.dry_run {
            outcome.ids.push(letter.message.id.to_string());
        } else {
            tokio::select! {
                biased;
                () = &mut stop => {
                    outcome.stopped = true;
                    walk.hold(delivery);
                    break Ok(());
                }
                () = turns.next() => {}
            }
        }
        match each(&letter, delivery).await {
            Step::Done => {}
            Step::Stays(delivery) => walk.hold(delivery),
            Step::Fails(delivery) => {
                walk.hold(delivery);
                break Ok(());
            }
        }
        outcome.selected += 1;
        if has_input {
            outcome.removed += 1;
        } else {
            outcome.without_input += 1;
        }
    };
    // Also when the walk failed: what was confirmed has been removed.
    settled().await;
    outcome.more = !walk.end().await?;
    ended.map(|()| outcome)
}
