//! The ticks of one instance: at most one of each is pending.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::clock::later;
use crate::service::{Tick, TickSpec};

/// Due times of the ticks of one instance. Without ticks it allocates nothing.
#[derive(Default)]
pub(crate) struct Ticks(Option<Box<Due>>);

struct Due {
    ticks: Vec<(TickSpec, Instant)>,
    sleep: Pin<Box<Sleep>>,
}

impl Ticks {
    pub(crate) fn new(specs: &[TickSpec]) -> Self {
        if specs.is_empty() {
            return Self(None);
        }
        let ticks: Vec<_> = specs
            .iter()
            .map(|spec| (*spec, later(spec.interval)))
            .collect();
        let sleep = Box::pin(sleep_until(earliest(&ticks)));
        Self(Some(Box::new(Due { ticks, sleep })))
    }

    /// Returns the tick that is due. Due times that were missed are skipped.
    pub(crate) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<Tick> {
        let Some(due) = &mut self.0 else {
            return Poll::Pending;
        };
        if due.sleep.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        let now = Instant::now();
        let next = due
            .ticks
            .iter_mut()
            .filter(|(_, at)| *at <= now)
            .min_by_key(|(_, at)| *at);
        let Some((spec, at)) = next else {
            // The timer is coarser than the clock and fired early: wait again.
            let again = earliest(&due.ticks);
            due.sleep.as_mut().reset(again);
            return due.sleep.as_mut().poll(cx).map(|()| due.ticks[0].0.tick);
        };
        let missed = (now - *at).as_nanos() / spec.interval.as_nanos();
        let intervals = u32::try_from(missed).unwrap_or(u32::MAX - 1) + 1;
        // Added to the due time, not to now, so that the rhythm stays.
        let next = spec
            .interval
            .checked_mul(intervals)
            .and_then(|time| at.checked_add(time));
        *at = next.unwrap_or_else(|| later(spec.interval));
        let tick = spec.tick;
        let again = earliest(&due.ticks);
        due.sleep.as_mut().reset(again);
        Poll::Ready(tick)
    }
}

fn earliest(ticks: &[(TickSpec, Instant)]) -> Instant {
    ticks
        .iter()
        .map(|(_, at)| *at)
        .min()
        .expect("there is a tick")
}
