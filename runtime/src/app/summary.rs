//! The summary: totals per service, in which each delivery is counted once.

use std::fmt::Write;

use serde::Serialize;

use super::run::App;
use crate::metrics::Outcome;

/// Totals of an app since its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// One row per service, in the order of the manifest.
    pub services: Vec<ServiceSummary>,
}

/// Totals of one service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServiceSummary {
    /// Label of the service.
    pub service: String,
    /// Attempts to handle a message.
    pub attempts: u64,
    /// Attempts that succeeded.
    pub ok: u64,
    /// Attempts that failed, including the last one before a dead letter.
    pub retry: u64,
    /// Attempts that panicked.
    pub panic: u64,
    /// Attempts that were cancelled at the deadline.
    pub timeout: u64,
    /// Attempts that ended in a rejection.
    pub reject: u64,
    /// Attempts that deferred the message. They do not count against it.
    pub defer: u64,
    /// Requests that were dropped because their deadline had passed.
    pub expired: u64,
    /// Messages published.
    pub emitted: u64,
    /// Messages that became dead letters.
    pub dead_letters: u64,
    /// Restarts of instances, sources and bridges.
    pub restarts: u64,
}

impl App {
    /// Returns the totals since the start.
    pub fn summary(&self) -> Summary {
        let services = self.services.iter().map(|service| {
            let meters = &service.hosted.meters;
            let of = |outcome| meters.outcome_total(outcome);
            let row = ServiceSummary {
                service: service.hosted.label.to_string(),
                attempts: 0,
                ok: of(Outcome::Ok),
                retry: of(Outcome::Retry),
                panic: of(Outcome::Panic),
                timeout: of(Outcome::Timeout),
                reject: of(Outcome::Reject),
                defer: of(Outcome::Defer),
                expired: of(Outcome::Expired),
                emitted: meters.outputs().sum(),
                dead_letters: service.hosted.dead_letters().map(|(_, count)| count).sum(),
                restarts: meters.restarts().map(|(_, count)| count).sum(),
            };
            let attempts =
                row.ok + row.retry + row.panic + row.timeout + row.reject + row.defer + row.expired;
            ServiceSummary { attempts, ..row }
        });
        Summary {
            services: services.collect(),
        }
    }
}

impl Summary {
    /// Returns the dead letters of all services.
    pub fn dead_letters(&self) -> u64 {
        self.services.iter().map(|row| row.dead_letters).sum()
    }

    /// Formats the summary as a table for people.
    pub fn table(&self) -> String {
        let header = [
            "service", "attempts", "ok", "retry", "panic", "timeout", "reject", "defer", "expired",
            "emitted", "dead", "restarts",
        ];
        let mut rows = vec![header.map(str::to_owned)];
        rows.extend(self.services.iter().map(|row| {
            let counts = [
                row.attempts,
                row.ok,
                row.retry,
                row.panic,
                row.timeout,
                row.reject,
                row.defer,
                row.expired,
                row.emitted,
                row.dead_letters,
                row.restarts,
            ];
            let mut cells = std::array::from_fn(|_| row.service.clone());
            for (cell, count) in cells[1..].iter_mut().zip(counts) {
                *cell = count.to_string();
            }
            cells
        }));
        let widths: [usize; 12] = std::array::from_fn(|column| {
            rows.iter().map(|row| row[column].len()).max().unwrap_or(0)
        });
        let mut table = String::new();
        for row in &rows {
            let mut line = format!("{:<width$}", row[0], width = widths[0]);
            for (cell, width) in row.iter().zip(widths).skip(1) {
                write!(line, "  {cell:>width$}").expect("writing to a string succeeds");
            }
            table.push_str(line.trim_end());
            table.push('\n');
        }
        table
    }
}
