//! Messages that wait for their time: one timer for all.
//!
//! Their times are those of the wall clock, which may be set: it is looked at from time to
//! time, whatever is due when.

use std::time::Duration;

use brickwork::Clock;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The wall clock is looked at this often at least.
const LOOK_MAX: Duration = Duration::from_secs(30);

/// When the next message is due.
#[derive(Default)]
pub(super) struct Delays {
    /// In milliseconds since 1970-01-01 UTC.
    next_ms: Mutex<Option<u64>>,
    earlier: Notify,
}

/// The time so long from now, in milliseconds since 1970-01-01 UTC.
pub(super) fn due_ms(after: Duration) -> u64 {
    let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
    // Rounded up: not before its time. Times end where a row's numbers do.
    let due = Clock::SYSTEM.unix_ms().saturating_add(after);
    due.saturating_add(1).min(i64::MAX as u64)
}

impl Delays {
    /// One more waits.
    pub(super) fn add(&self, due_ms: u64) {
        let mut next = self.next_ms.lock();
        if next.is_none_or(|next| due_ms < next) {
            *next = Some(due_ms);
            self.earlier.notify_one();
        }
    }

    /// Waits until one is due. Then somebody looks, and adds what waits on.
    pub(super) async fn due(&self) {
        loop {
            let wait = {
                let mut next = self.next_ms.lock();
                let now = Clock::SYSTEM.unix_ms();
                match *next {
                    Some(due) if due <= now => {
                        *next = None;
                        return;
                    }
                    Some(due) => Duration::from_millis(due - now).min(LOOK_MAX),
                    None => LOOK_MAX,
                }
            };
            tokio::select! {
                () = self.earlier.notified() => {}
                () = sleep(wait) => {}
            }
        }
    }
}
