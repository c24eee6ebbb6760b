//! Removes letters: replays or discards them.
//!
//! Works page by page: publishes the messages of a page, waits for the confirms, and removes
//! those letters. A slow replay takes small pages, so that no letter is in flight for long: a
//! broker gives up on a consumer that keeps messages unacked.

use std::pin::Pin;
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::rate_limit::{LetterPacer, RateLimit};
use super::scan::{PAGE, Scan};
use super::{Bounds, DeadLetters, Letter, Selection};
use crate::names::QueueId;
use crate::transport::{Completion, Outgoing, TransportError};

/// Time that the letters of one page may take at the rate limit.
const PAGE_TIME: Duration = Duration::from_millis(250);
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
    /// The number of removed letters: the transport has confirmed that they are gone. In a dry
    /// run, of letters that would be removed.
    pub removed: u64,
    /// The number of selected letters that stay, since the input that gave them up is not in
    /// the manifest.
    pub without_input: u64,
    /// Whether there may be letters that were not read.
    pub more: bool,
    /// Whether the work was stopped early.
    pub stopped: bool,
    /// The first error of a publication, whose letter stays; or the error of the transport after
    /// letters were removed. The work ended there.
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

/// Removes the selected letters of one service.
struct Remover<'a> {
    letters: &'a DeadLetters,
    service: &'a str,
    options: &'a RemoveOptions,
    /// The destination of a replay. Missing if the letters are discarded.
    replay_to: Option<&'a Destination>,
}

/// The work on the letters of one page.
#[derive(Default)]
struct PageWork {
    /// Whether to remove each letter.
    remove: Vec<bool>,
    /// Unconfirmed publications: number of the letter, and the outcome.
    published: Vec<(usize, BoxFuture<'static, Result<(), TransportError>>)>,
}

pub(super) async fn replay(
    letters: &DeadLetters,
    service: &str,
    to: &Destination,
    options: &RemoveOptions,
    stop: impl Future<Output = ()>,
) -> Result<Outcome, TransportError> {
    let remover = Remover {
        letters,
        service,
        options,
        replay_to: Some(to),
    };
    remover.run(stop).await
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
        replay_to: None,
    };
    remover.run(stop).await
}

impl Remover<'_> {
    /// Reads every letter once, removes the selected ones and keeps the others.
    async fn run(&self, stop: impl Future<Output = ()>) -> Result<Outcome, TransportError> {
        let transport = &*self.letters.transport;
        let mut scan = Scan::open(transport, self.service, self.options.bounds).await?;
        let mut outcome = Outcome::default();
        let stop = std::pin::pin!(stop);
        let ended = self.remove_all(&mut scan, &mut outcome, stop).await;
        outcome.letters = scan.depth();
        let finished = match ended {
            Ok(()) => scan.finish().await.map(|complete| outcome.more = !complete),
            Err(error) => Err(error),
        };
        match finished {
            Err(error) if outcome.removed == 0 && outcome.error.is_none() => return Err(error),
            Err(error) => drop(outcome.error.get_or_insert(error.to_string())),
            Ok(()) => {}
        }
        Ok(outcome)
    }

    async fn remove_all(
        &self,
        scan: &mut Scan<'_>,
        outcome: &mut Outcome,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), TransportError> {
        let mut pacer = LetterPacer::new(self.options.rate);
        let page_max = match self.options.dry_run {
            true => PAGE,
            false => self.options.rate.letters_in(PAGE_TIME).clamp(1, PAGE),
        };
        while outcome.selected < self.options.limit && outcome.error.is_none() && !outcome.stopped {
            let Some(page) = scan.page(page_max).await? else {
                return Ok(());
            };
            let mut work = PageWork::default();
            for letter in &page {
                let is_selected = outcome.selected < self.options.limit
                    && self.options.selection.covers(self.service, letter);
                let remove = match is_selected && !outcome.stopped {
                    false => false,
                    true if self.options.dry_run => {
                        self.count(letter, outcome);
                        false
                    }
                    true => tokio::select! {
                        biased;
                        () = &mut stop => {
                            outcome.stopped = true;
                            false
                        }
                        () = pacer.next() => self.start(letter, &mut work, outcome),
                    },
                };
                work.remove.push(remove);
            }
            self.finish_page(scan, work, outcome).await?;
        }
        Ok(())
    }

    /// Waits for the confirms of a page, and removes its letters.
    async fn finish_page(
        &self,
        scan: &mut Scan<'_>,
        work: PageWork,
        outcome: &mut Outcome,
    ) -> Result<(), TransportError> {
        let PageWork {
            mut remove,
            published,
        } = work;
        for (number, confirm) in published {
            match confirm.await {
                Ok(()) => remove[number] = true,
                // The letter stays.
                Err(error) => {
                    outcome.selected -= 1;
                    outcome.error.get_or_insert(error.to_string());
                }
            }
        }
        let removed = remove.iter().filter(|remove| **remove).count() as u64;
        let settled = scan.settle(&remove).await;
        if let (Err(error), true) = (&settled, removed > 0) {
            // Reported also if no letter was removed before.
            outcome.error = Some(match self.replay_to {
                None => format!("{error}: {removed} more letters may be discarded"),
                Some(_) => format!(
                    "{error}: {removed} more letters were replayed and may still be there, too"
                ),
            });
            return Ok(());
        }
        settled?;
        if !self.options.dry_run {
            outcome.removed += removed;
        }
        Ok(())
    }

    /// Counts a letter in a dry run.
    fn count(&self, letter: &Letter, outcome: &mut Outcome) {
        let to = self.replay_to;
        match to.is_none_or(|to| self.input_of(to, letter).is_some()) {
            true => outcome.removed += 1,
            false => outcome.without_input += 1,
        }
        if outcome.ids.len() < IDS_MAX {
            outcome.ids.push(letter.message.id.to_string());
        }
        outcome.selected += 1;
    }

    /// Starts to remove a letter. Returns whether to remove it now: the letter of a replay is
    /// removed after the confirm.
    fn start(&self, letter: &Letter, work: &mut PageWork, outcome: &mut Outcome) -> bool {
        outcome.selected += 1;
        let Some(to) = self.replay_to else {
            return true;
        };
        let Some(input) = self.input_of(to, letter) else {
            outcome.without_input += 1;
            return false;
        };
        let (done, confirm) = Completion::channel();
        work.published.push((work.remove.len(), Box::pin(confirm)));
        let outgoing = Outgoing {
            queue: Some(input),
            ..letter.replayed().into()
        };
        self.letters.transport.publish(vec![outgoing], done);
        false
    }

    fn input_of(&self, to: &Destination, letter: &Letter) -> Option<QueueId> {
        match to {
            Destination::Original => self.letters.input_of(self.service, letter),
            Destination::Input(input) => Some(input.clone()),
        }
    }
}
