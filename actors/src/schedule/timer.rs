//! The loop of the service: one timer for all schedules.
//!
//! A heap holds the next due time of each schedule, so idle schedules cost nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use brickwork::prelude::*;
use brickwork::{FailureKind, SendHandle};
use tokio::time::{Instant, sleep};
use tracing::error;

use super::config::Schedule;
use super::decision::{BATCH_MAX, Firing, Overlap, Progress};
use super::saved::Saved;
use super::timing::UnixMs;
use crate::ports::OUT;

/// Maximum sleep: the wall clock may be set, or the machine suspended, meanwhile.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Schedules whose position is saved at once; that of more is saved once in [`SAVE_EVERY`].
const SMALL: usize = 100;
/// Time between saves of a large position.
const SAVE_EVERY: Duration = Duration::from_secs(1);
/// Schedules that are handled before other tasks of the thread get a turn.
const SCHEDULES_PER_TURN: usize = 64;

/// The schedules of a service.
pub(super) struct Timer<'a> {
    out: &'a SourceContext,
    schedules: Vec<(Schedule, Progress)>,
    /// Due times, the earliest first, each with the index of its schedule.
    heap: BinaryHeap<Reverse<(UnixMs, usize)>>,
    /// Set when the position is to be saved.
    save_at: Option<Instant>,
}

/// The submitted firings of a schedule.
struct Sent {
    index: usize,
    /// The progress when they are confirmed.
    next: Progress,
    handles: Vec<SendHandle>,
}

impl<'a> Timer<'a> {
    /// Computes the next time of each schedule. Other tasks of the thread get turns meanwhile.
    pub(super) async fn new(
        schedules: Vec<Schedule>,
        out: &'a SourceContext,
    ) -> Result<Self, Failure> {
        let saved: Saved = out.position()?.unwrap_or_default();
        let now = unix_ms(out.now());
        let schedules: Vec<(Schedule, Progress)> = schedules
            .into_iter()
            .map(|schedule| {
                let progress = match out.standby_since() {
                    None => saved.progress(&schedule, now),
                    Some(since) => saved.taken_over(&schedule, unix_ms(since), now),
                };
                (schedule, progress)
            })
            .collect();
        let mut timer = Self {
            out,
            heap: BinaryHeap::with_capacity(schedules.len()),
            schedules,
            save_at: None,
        };
        for index in 0..timer.schedules.len() {
            if index.is_multiple_of(SCHEDULES_PER_TURN) {
                tokio::task::yield_now().await;
            }
            timer.push(index);
        }
        Ok(timer)
    }

    /// Fires until the source stops.
    pub(super) async fn run(mut self) -> Result<(), Failure> {
        // A schedule that has never fired knows after a restart when it was new.
        self.save().await?;
        while !self.out.is_stopping() {
            let fired = self.fire_due().await;
            if self.save_at.is_some_and(|at| at <= Instant::now()) || fired.is_err() {
                self.save().await?;
            }
            fired?;
            let wait = self.wait();
            tokio::select! {
                () = self.out.stopping() => {}
                () = sleep(wait) => {}
            }
        }
        match self.save_at {
            Some(_) => self.save().await,
            None => Ok(()),
        }
    }

    /// Adds the next due time of a schedule to the heap.
    fn push(&mut self, index: usize) {
        let (schedule, progress) = &self.schedules[index];
        if let Some(due) = schedule.rules.next_due(progress) {
            self.heap.push(Reverse((due, index)));
        }
    }

    /// Returns the time until the next firing or save.
    fn wait(&self) -> Duration {
        let now = unix_ms(self.out.now());
        let due = self.heap.peek().map_or(SLEEP_MAX, |Reverse((due, _))| {
            Duration::from_millis(due.saturating_sub(now).max(0).unsigned_abs())
        });
        let save = self
            .save_at
            .map_or(SLEEP_MAX, |at| at.saturating_duration_since(Instant::now()));
        due.min(save).min(SLEEP_MAX)
    }

    /// Fires all schedules that are due. The progress of a schedule counts when its messages
    /// are confirmed.
    async fn fire_due(&mut self) -> Result<(), Failure> {
        let now = unix_ms(self.out.now());
        let mut sent: Vec<Sent> = Vec::new();
        let mut ended = Ok(());
        while ended.is_ok()
            && sent.len() < BATCH_MAX
            && let Some(&Reverse((due, index))) = self.heap.peek()
            && due <= now
        {
            self.heap.pop();
            match self.fire(index, now).await {
                Ok(fired) => sent.push(fired),
                Err(failure) => ended = Err(failure),
            }
            if sent.len().is_multiple_of(SCHEDULES_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        for Sent {
            index,
            next,
            handles,
        } in sent
        {
            let mut confirmed = Ok(());
            for handle in handles {
                confirmed = confirmed.and(handle.await);
            }
            match confirmed {
                Ok(()) => self.schedules[index].1 = next,
                Err(error) => ended = Err(error.into()),
            }
            self.push(index);
            let delay = match self.schedules.len() {
                ..=SMALL => Duration::ZERO,
                _ => SAVE_EVERY,
            };
            self.save_at.get_or_insert(Instant::now() + delay);
        }
        ended
    }

    /// Submits the firings of a schedule that are due.
    async fn fire(&self, index: usize, now: UnixMs) -> Result<Sent, Failure> {
        let (schedule, progress) = &self.schedules[index];
        let mut next = *progress;
        let firings = schedule.rules.decide(&mut next, now);
        let mut handles = Vec::with_capacity(firings.len());
        for firing in &firings {
            let handle = self.submit(schedule, firing).await?;
            match (handle, schedule.rules.overlap) {
                (Some(handle), Overlap::BufferAll) => handle.await?,
                (Some(handle), _) => handles.push(handle),
                (None, _) => {}
            }
        }
        Ok(Sent {
            index,
            next,
            handles,
        })
    }

    /// Submits the message of a firing; `None` if it can't be made.
    async fn submit(&self, of: &Schedule, firing: &Firing) -> Result<Option<SendHandle>, Failure> {
        let name = of.name.as_deref();
        let made = of.payload.message(name, &of.rules.timing, firing);
        let id = of.id(self.out.service(), firing);
        let sent = match made {
            Ok(raw) => {
                let message = MessageBuilder::new(raw).id(id.parse()?);
                self.out.submit(&OUT, message).await
            }
            Err(failure) => Err(failure),
        };
        match sent {
            Ok(handle) => Ok(Some(handle)),
            Err(failure) if failure.kind() == FailureKind::Reject => {
                error!(
                    service = self.out.service(),
                    firing = id,
                    error = failure.text(),
                    "firing skipped: its message can't be made"
                );
                Ok(None)
            }
            Err(failure) => Err(failure),
        }
    }

    async fn save(&mut self) -> Result<(), Failure> {
        let schedules = self.schedules.iter();
        let saved = Saved::of(schedules.map(|(schedule, progress)| (schedule, *progress)));
        self.out.save_position(&saved).await?;
        self.save_at = None;
        Ok(())
    }
}

fn unix_ms(time: SystemTime) -> UnixMs {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}
