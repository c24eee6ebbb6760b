//! Timer of the delayed messages in the file.
//!
//! Due times are wall-clock times. The clock may be set, so the timer reads it again from
//! time to time.

use std::time::Duration;

use brickwork::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

/// Longest sleep between two looks at the wall clock.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// A clock that goes back by more than this was set.
pub(super) const CLOCK_STEP_MS: u64 = 1000;

/// Due time of the next message.
#[derive(Default)]
pub(super) struct Delays {
    /// In milliseconds since 1970-01-01 UTC.
    next_ms: Mutex<Option<u64>>,
    earlier: Notify,
}

/// Returns the time `after` from now, in milliseconds since 1970-01-01 UTC, rounded up: no
/// message comes early. The result fits into a column.
pub(super) fn due_ms(after: Duration) -> u64 {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    let due = Clock::SYSTEM.unix_ms().saturating_add(after);
    due.saturating_add(1).min(i64::MAX as u64)
}

impl Delays {
    /// Adds the due time of a message.
    pub(super) fn add(&self, due_ms: u64) {
        let mut next = self.next_ms.lock();
        if next.is_none_or(|next| due_ms < next) {
            *next = Some(due_ms);
            self.earlier.notify_one();
        }
    }

    /// Waits until a message is due, or the clock was set back. The caller then adds the next due
    /// time.
    pub(super) async fn due(&self) {
        let mut seen_ms = 0;
        loop {
            let wait = {
                let mut next = self.next_ms.lock();
                let now = Clock::SYSTEM.unix_ms();
                if now + CLOCK_STEP_MS < seen_ms {
                    *next = None;
                    return;
                }
                seen_ms = now;
                match *next {
                    Some(due) if due <= now => {
                        *next = None;
                        return;
                    }
                    Some(due) => Duration::from_millis(due - now).min(SLEEP_MAX),
                    None => SLEEP_MAX,
                }
            };
            tokio::select! {
                () = self.earlier.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }
}
