//! What an app has done: a row for each service, in which every delivery is accounted
//! for.

use std::fmt::Write;

use serde::Serialize;

use super::run::App;
use crate::metrics::Outcome;

/// What an app has done so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// A row for each service, in the manifest's order.
    pub services: Vec<ServiceSummary>,
}

/// What one service has done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServiceSummary {
    /// Its label.
    pub service: String,
    /// Attempts to handle a message.
    pub attempts: u64,
    /// Of these, those that succeeded.
    pub ok: u64,
    /// Failed and tried again, or given up after the last attempt.
    pub retry: u64,
    /// Panicked.
    pub panic: u64,
    /// Cancelled at the deadline.
    pub timeout: u64,
    /// Rejected.
    pub reject: u64,
    /// Put off without counting.
    pub defer: u64,
    /// Dropped, since nobody waited for the answer any more.
    pub expired: u64,
    /// Messages published.
    pub emitted: u64,
    /// Messages given up.
    pub dead_letters: u64,
    /// Instances built anew.
    pub restarts: u64,
}

impl App {
    /// What the app has done so far.
    pub fn summary(&self) -> Summary {
        let services = self.services.iter().map(|service| {
            let meters = &service.hosted().meters;
            let of = |outcome| meters.outcome_total(outcome);
            let row = ServiceSummary {
                service: service.hosted().label.to_string(),
                attempts: 0,
                ok: of(Outcome::Ok),
                retry: of(Outcome::Retry),
                panic: of(Outcome::Panic),
                timeout: of(Outcome::Timeout),
                reject: of(Outcome::Reject),
                defer: of(Outcome::Defer),
                expired: of(Outcome::Expired),
                emitted: meters.outputs().sum(),
                dead_letters: service
                    .hosted()
                    .dead_letters()
                    .map(|(_, count)| count)
                    .sum(),
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
    /// Messages given up, over all services.
    pub fn dead_letters(&self) -> u64 {
        self.services.iter().map(|row| row.dead_letters).sum()
    }

    /// As a table for people.
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
