//! Logs the lines of a child's stderr, and leaves lines out when the child writes too many.

use std::sync::Arc;
use std::time::Duration;

use brickwork::process::{BoundedLine, BoundedLines};
use tokio::net::unix::pipe;
use tokio::time::Instant;
use tracing::{info, warn};

use super::command::SpawnOptions;
use crate::log::shown;

/// Maximum bytes of a stderr line per log event. A longer line becomes several events.
const LINE_BYTES_MAX: usize = 4096;
/// Bytes that a line of the log has besides the child's.
const LINE_OVERHEAD_BYTES: u64 = 100;
/// Bytes that a quiet child may write at once.
const BURST_BYTES: u64 = 1 << 20;
/// Bytes per second that a child may write for long.
const BYTES_PER_SECOND: u64 = 64 << 10;
/// Bytes that must be free again before lines are logged after a flood.
const FREE_BYTES: u64 = BURST_BYTES / 4;

/// Logs every line of the child's stderr within its budget.
pub(super) async fn log_stderr(options: Arc<SpawnOptions>, pid: u32, stderr: pipe::Receiver) {
    let service = &options.service;
    let report = |lines: u64| warn!(%service, pid, lines, "stderr lines left out");
    let mut budget = LogBudget::new(Instant::now());
    let mut lines = BoundedLines::new(stderr, LINE_BYTES_MAX);
    while let Ok(BoundedLine::Line(line) | BoundedLine::Part(line)) = lines.next().await {
        match budget.take(line.len(), Instant::now()) {
            Verdict::Log => info!(%service, pid, "{}", shown(line, LINE_BYTES_MAX + 1)),
            Verdict::LogAfter(left_out) => {
                report(left_out);
                info!(%service, pid, "{}", shown(line, LINE_BYTES_MAX + 1));
            }
            Verdict::FirstLeftOut => {
                warn!(%service, pid, "child writes too much to stderr: leaving lines out");
            }
            Verdict::LeaveOut => {}
        }
        // Lines of a busy child must not hold up other tasks of this thread.
        tokio::task::yield_now().await;
    }
    if budget.left_out > 0 {
        report(budget.left_out);
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Log,
    /// Log the line, and before it the number of lines left out.
    LogAfter(u64),
    FirstLeftOut,
    LeaveOut,
}

/// The bytes that a child may still write to the log.
struct LogBudget {
    free: u64,
    refilled: Instant,
    left_out: u64,
}

impl LogBudget {
    fn new(now: Instant) -> Self {
        Self {
            free: BURST_BYTES,
            refilled: now,
            left_out: 0,
        }
    }

    fn take(&mut self, line_bytes: usize, now: Instant) -> Verdict {
        let elapsed_ms = now.saturating_duration_since(self.refilled).as_millis() as u64;
        let bytes = elapsed_ms.saturating_mul(BYTES_PER_SECOND) / 1000;
        if bytes > 0 {
            self.free = self.free.saturating_add(bytes).min(BURST_BYTES);
            self.refilled += Duration::from_millis(elapsed_ms);
        }
        let wanted = line_bytes as u64 + LINE_OVERHEAD_BYTES;
        let needed = if self.left_out > 0 {
            FREE_BYTES
        } else {
            wanted
        };
        if self.free < needed {
            self.left_out += 1;
            return match self.left_out {
                1 => Verdict::FirstLeftOut,
                _ => Verdict::LeaveOut,
            };
        }
        self.free -= wanted;
        match std::mem::take(&mut self.left_out) {
            0 => Verdict::Log,
            left_out => Verdict::LogAfter(left_out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_logged_at_the_rate_of_the_budget_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut budget = LogBudget::new(start);
        let (mut logged, mut left_out, mut reports) = (0, 0, 0);
        // 100,000 lines a second for 14 seconds.
        for line in 0..1_400_000_u64 {
            match budget.take(80, start + Duration::from_micros(line * 10)) {
                Verdict::Log => logged += 1,
                Verdict::LogAfter(lines) => {
                    logged += 1;
                    left_out += lines;
                    reports += 1;
                }
                Verdict::FirstLeftOut | Verdict::LeaveOut => {}
            }
        }
        assert_eq!(logged + left_out + budget.left_out, 1_400_000);
        let bytes = logged * (80 + LINE_OVERHEAD_BYTES);
        assert!(bytes <= BURST_BYTES + 14 * BYTES_PER_SECOND, "{bytes}");
        assert!(bytes > BURST_BYTES, "{bytes}");
        assert!((1..10).contains(&reports), "{reports}");
    }

    #[test]
    fn a_child_that_writes_little_loses_no_line() {
        let start = Instant::now();
        let mut budget = LogBudget::new(start);
        for line in 0..100_000_u64 {
            let verdict = budget.take(LINE_BYTES_MAX, start + Duration::from_millis(line * 70));
            assert_eq!(verdict, Verdict::Log, "{line}");
        }
    }
}
