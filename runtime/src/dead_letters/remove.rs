//! Taking letters out: replayed, or for good.

use std::pin::pin;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::rate_limit::{LetterPacer, RateLimit};
use super::scan::Scan;
use super::{Bounds, DeadLetters, Letter, Selection};
use crate::delivery::Delivery;
use crate::names::QueueId;
use crate::transport::{Completion, Outgoing, TransportError};

/// Replays under way, unconfirmed.
const WINDOW: u32 = 64;
/// So many ids a dry run names.
const IDS_MAX: usize = 10_000;

/// Which letters go, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoveOptions {
    /// Which.
    pub selection: Selection,
    /// At most so many.
    pub limit: u64,
    /// Only finds out what would be done.
    pub dry_run: bool,
    /// How fast.
    pub pace: RateLimit,
    /// What the walk may hold of letters that stay.
    pub bounds: Bounds,
}

/// Where messages of letters go when they are replayed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// To the input that gave it up; of a letter that doesn't say which, to the only one
    /// that there is.
    #[default]
    Original,
    /// All to this input of the app.
    Input(QueueId),
}

/// What became of the letters of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// With `dry_run`: the ids that were selected, 10,000 at most.
    pub ids: Vec<String>,
}

impl Outcome {
    /// Adds what became of the letters of another service.
    pub fn add(&mut self, other: Self) {
        self.letters += other.letters;
        self.selected += other.selected;
        self.removed += other.removed;
        self.without_input += other.without_input;
        self.more |= other.more;
        self.stopped |= other.stopped;
        self.error = self.error.take().or(other.error);
        let room = IDS_MAX.saturating_sub(self.ids.len());
        self.ids.extend(other.ids.into_iter().take(room));
    }
}

/// What publications under way report.
#[derive(Default)]
struct Progress {
    confirmed: u64,
    error: Option<TransportError>,
}

/// What is done with letters that go.
enum Action<'a> {
    Replay(Replay<'a>),
    Discard,
}

/// Publishes messages of letters, some at a time.
struct Replay<'a> {
    to: &'a Destination,
    progress: Arc<Mutex<Progress>>,
    window: Arc<Semaphore>,
}

/// What became of one selected letter.
enum StepResult {
    Done,
    /// It stays, since there is nowhere to go.
    WithoutInput(Delivery),
    /// It stays, and nothing further is to be tried.
    Fails(Delivery),
}

pub(super) async fn replay(
    letters: &DeadLetters,
    service: &str,
    to: &Destination,
    removal: &RemoveOptions,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let replay = Replay {
        to,
        progress: Arc::default(),
        window: Arc::new(Semaphore::new(WINDOW as usize)),
    };
    let progress = replay.progress.clone();
    let deed = Action::Replay(replay);
    let mut outcome = walk(letters, service, removal, stop, &deed).await?;
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
    removal: &RemoveOptions,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    walk(letters, service, removal, stop, &Action::Discard).await
}

impl Replay<'_> {
    /// Where a letter's message goes.
    fn input_of(&self, letters: &DeadLetters, service: &str, letter: &Letter) -> Option<QueueId> {
        match self.to {
            Destination::Original => letters.input_of(service, letter),
            Destination::Input(input) => Some(input.clone()),
        }
    }

    /// Publishes it, and removes the letter when that is confirmed.
    async fn publish(
        &self,
        letters: &DeadLetters,
        input: QueueId,
        letter: &Letter,
        delivery: Delivery,
    ) -> StepResult {
        let permit = self.window.clone().acquire_owned().await;
        let permit = permit.expect("the window stays open");
        if self.progress.lock().error.is_some() {
            return StepResult::Fails(delivery);
        }
        let progress = self.progress.clone();
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
        StepResult::Done
    }
}

impl Action<'_> {
    async fn with(
        &self,
        letters: &DeadLetters,
        service: &str,
        letter: &Letter,
        delivery: Delivery,
    ) -> StepResult {
        match self {
            Self::Replay(replay) => match replay.input_of(letters, service, letter) {
                None => StepResult::WithoutInput(delivery),
                Some(input) => replay.publish(letters, input, letter, delivery).await,
            },
            Self::Discard => {
                delivery.ack();
                StepResult::Done
            }
        }
    }

    /// Whether it could be done.
    fn could(&self, letters: &DeadLetters, service: &str, letter: &Letter) -> bool {
        match self {
            Self::Replay(replay) => replay.input_of(letters, service, letter).is_some(),
            Self::Discard => true,
        }
    }

    /// Waits until all that was begun has ended.
    async fn settled(&self) {
        if let Self::Replay(replay) = self {
            // Every publication reports, if only that it was not confirmed in time.
            let _all = replay.window.acquire_many(WINDOW).await;
        }
    }
}

/// Sees every letter once, does the deed to the selected ones, and gives back the others.
async fn walk(
    letters: &DeadLetters,
    service: &str,
    removal: &RemoveOptions,
    stop: impl Future<Output = ()>,
    deed: &Action<'_>,
) -> Result<Outcome, TransportError> {
    let mut stop = pin!(stop);
    let mut walk = Scan::open(&*letters.transport, service, removal.bounds).await?;
    let mut outcome = Outcome {
        letters: walk.depth(),
        ..Outcome::default()
    };
    let mut turns = LetterPacer::new(removal.pace);
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
        if !removal.selection.covers(service, &letter) {
            walk.hold(delivery);
            continue;
        }
        if removal.dry_run {
            match deed.could(letters, service, &letter) {
                true => outcome.removed += 1,
                false => outcome.without_input += 1,
            }
            if outcome.ids.len() < IDS_MAX {
                outcome.ids.push(letter.message.id.to_string());
            }
            outcome.selected += 1;
            walk.hold(delivery);
            continue;
        }
        tokio::select! {
            biased;
            () = &mut stop => {
                outcome.stopped = true;
                walk.hold(delivery);
                break Ok(());
            }
            () = turns.next() => {}
        }
        match deed.with(letters, service, &letter, delivery).await {
            StepResult::Done => outcome.removed += 1,
            StepResult::WithoutInput(delivery) => {
                outcome.without_input += 1;
                walk.hold(delivery);
            }
            StepResult::Fails(delivery) => {
                walk.hold(delivery);
                break Ok(());
            }
        }
        outcome.selected += 1;
    };
    // Also when the walk failed: what was confirmed has been removed.
    deed.settled().await;
    outcome.more = !walk.end().await?;
    ended.map(|()| outcome)
}
