//! Removes letters: replays or discards them.

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

/// Maximum unconfirmed replays.
const UNCONFIRMED_MAX: u32 = 64;
/// Maximum ids in the outcome of a dry run.
const IDS_MAX: usize = 10_000;

/// Which letters to remove, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RemoveOptions {
    /// The letters to remove.
    pub selection: Selection,
    /// Maximum letters to remove.
    pub limit: u64,
    /// Removes nothing; the outcome says what would be removed.
    pub dry_run: bool,
    /// Maximum letters per second.
    pub rate: RateLimit,
    /// Limits of the scan.
    pub bounds: Bounds,
}

/// The input that messages are replayed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Destination {
    /// The input that gave the message up. For a letter without a record, the service's only
    /// input, if it has one.
    #[default]
    Original,
    /// This input of the app, for every message.
    Input(QueueId),
}

/// The result for the letters of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The number of letters in the queue.
    pub letters: u64,
    /// The number of selected letters.
    pub selected: u64,
    /// The number of removed letters. In a dry run, of letters that would be removed.
    pub removed: u64,
    /// The number of selected letters that stay, since the input that gave them up is not in
    /// the manifest.
    pub without_input: u64,
    /// Whether there may be letters that were not read.
    pub more: bool,
    /// Whether the work was stopped early.
    pub stopped: bool,
    /// The first error of a publication. Its letter stays, and the work ended there.
    pub error: Option<String>,
    /// In a dry run, the ids of the selected letters, 10,000 at most.
    pub ids: Vec<String>,
}

impl Outcome {
    /// Adds the result for another service.
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

/// The confirms that have arrived.
#[derive(Default)]
struct Progress {
    confirmed: u64,
    error: Option<TransportError>,
}

/// Removes the selected letters of one service.
struct Remover<'a> {
    letters: &'a DeadLetters,
    service: &'a str,
    options: &'a RemoveOptions,
    /// Missing if the letters are discarded.
    replay: Option<Replay<'a>>,
}

/// Publishes messages of letters, a limited number unconfirmed at a time.
struct Replay<'a> {
    to: &'a Destination,
    progress: Arc<Mutex<Progress>>,
    permits: Arc<Semaphore>,
}

/// The result for one selected letter.
enum StepResult {
    /// The letter is removed, or will be after the confirm.
    Removed,
    /// The letter stays, since its input is not in the manifest.
    WithoutInput(Delivery),
    /// The letter stays, since an earlier publication failed.
    Failed(Delivery),
}

pub(super) async fn replay(
    letters: &DeadLetters,
    service: &str,
    to: &Destination,
    options: &RemoveOptions,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let progress = Arc::<Mutex<Progress>>::default();
    let remover = Remover {
        letters,
        service,
        options,
        replay: Some(Replay {
            to,
            progress: progress.clone(),
            permits: Arc::new(Semaphore::new(UNCONFIRMED_MAX as usize)),
        }),
    };
    let mut outcome = remover.run(stop).await?;
    let progress = progress.lock();
    if !options.dry_run {
        outcome.removed = progress.confirmed;
    }
    outcome.error = progress.error.as_ref().map(ToString::to_string);
    Ok(outcome)
}

pub(super) async fn discard(
    letters: &DeadLetters,
    service: &str,
    options: &RemoveOptions,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let remover = Remover {
        letters,
        service,
        options,
        replay: None,
    };
    remover.run(stop).await
}

impl Remover<'_> {
    /// Reads every letter once, removes the selected ones and requeues the others.
    async fn run(&self, stop: impl Future<Output = ()>) -> Result<Outcome, TransportError> {
        let transport = &*self.letters.transport;
        let mut scan = Scan::open(transport, self.service, self.options.bounds).await?;
        let mut outcome = Outcome {
            letters: scan.depth(),
            ..Outcome::default()
        };
        let ended = self.remove_all(&mut scan, &mut outcome, stop).await;
        if let Some(replay) = &self.replay {
            // After an error, too: every publication gets its confirm or its error.
            let _all = replay.permits.acquire_many(UNCONFIRMED_MAX).await;
        }
        outcome.more = !scan.finish().await?;
        ended.map(|()| outcome)
    }

    async fn remove_all(
        &self,
        scan: &mut Scan<'_>,
        outcome: &mut Outcome,
        stop: impl Future<Output = ()>,
    ) -> Result<(), TransportError> {
        let mut stop = pin!(stop);
        let mut pacer = LetterPacer::new(self.options.rate);
        while outcome.selected < self.options.limit {
            let next = tokio::select! {
                biased;
                () = &mut stop => {
                    outcome.stopped = true;
                    return Ok(());
                }
                next = scan.next() => next?,
            };
            let Some(delivery) = next else { return Ok(()) };
            let letter = Letter::new(delivery.message().clone());
            if !self.options.selection.covers(self.service, &letter) {
                scan.hold(delivery);
                continue;
            }
            if self.options.dry_run {
                self.count(&letter, outcome);
                scan.hold(delivery);
                continue;
            }
            tokio::select! {
                biased;
                () = &mut stop => {
                    outcome.stopped = true;
                    scan.hold(delivery);
                    return Ok(());
                }
                () = pacer.next() => {}
            }
            match self.remove(&letter, delivery).await {
                StepResult::Removed => outcome.removed += 1,
                StepResult::WithoutInput(delivery) => {
                    outcome.without_input += 1;
                    scan.hold(delivery);
                }
                StepResult::Failed(delivery) => {
                    scan.hold(delivery);
                    return Ok(());
                }
            }
            outcome.selected += 1;
        }
        Ok(())
    }

    /// Counts a letter in a dry run.
    fn count(&self, letter: &Letter, outcome: &mut Outcome) {
        let replay = self.replay.as_ref();
        match replay.is_none_or(|replay| self.input_of(replay, letter).is_some()) {
            true => outcome.removed += 1,
            false => outcome.without_input += 1,
        }
        if outcome.ids.len() < IDS_MAX {
            outcome.ids.push(letter.message.id.to_string());
        }
        outcome.selected += 1;
    }

    async fn remove(&self, letter: &Letter, delivery: Delivery) -> StepResult {
        let Some(replay) = &self.replay else {
            delivery.ack();
            return StepResult::Removed;
        };
        match self.input_of(replay, letter) {
            None => StepResult::WithoutInput(delivery),
            Some(input) => self.publish(replay, input, letter, delivery).await,
        }
    }

    fn input_of(&self, replay: &Replay<'_>, letter: &Letter) -> Option<QueueId> {
        match replay.to {
            Destination::Original => self.letters.input_of(self.service, letter),
            Destination::Input(input) => Some(input.clone()),
        }
    }

    /// Publishes the message. Its confirm acks the letter.
    async fn publish(
        &self,
        replay: &Replay<'_>,
        input: QueueId,
        letter: &Letter,
        delivery: Delivery,
    ) -> StepResult {
        let permit = replay.permits.clone().acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        if replay.progress.lock().error.is_some() {
            return StepResult::Failed(delivery);
        }
        let progress = replay.progress.clone();
        let done = Completion::new(move |outcome| {
            match outcome {
                Ok(()) => {
                    progress.lock().confirmed += 1;
                    delivery.ack();
                }
                // The dropped delivery is requeued.
                Err(error) => drop(progress.lock().error.get_or_insert(error)),
            }
            drop(permit);
        });
        let outgoing = Outgoing {
            queue: Some(input),
            ..letter.replayed().into()
        };
        self.letters.transport.publish(vec![outgoing], done);
        StepResult::Removed
    }
}
