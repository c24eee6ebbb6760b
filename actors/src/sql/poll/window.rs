//! The boundary of a table that grows: which rows were emitted, and up to where no row is missing.
//!
//! Transactions commit in another order than their rows have numbers: after the row 7 was read,
//! the row 6 may appear. So rows are read again for a while:
//!
//! - `low` is a row up to which every row was emitted and no further row can appear.
//! - The **window** holds the identity of each emitted row above `low`, with its **stamp**: the
//!   time and the next transaction's number when it was read.
//! - A **pass** reads the rows above `low` in order and emits those that are not in the window.
//! - A row is **settled** in a pass if, before the pass began, all transactions before its stamp
//!   had ended and the lag had passed. Lower rows belong to such transactions, so this pass has
//!   seen all of them, and `low` moves to the last settled row.
//!
//! A row is identified by its value and its key, so a row whose value grows is a new row.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::sql::table::{Horizon, Mark};

/// Identity of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RowId(u128);

impl RowId {
    pub(super) fn of(mark: &Mark) -> Self {
        let mut digest = Sha256::new();
        digest.update((mark.value.len() as u64).to_be_bytes());
        digest.update(&mark.value);
        digest.update(&mark.key);
        let digest = digest.finalize();
        let mut half = [0; 16];
        half.copy_from_slice(&digest[..16]);
        Self(u128::from_be_bytes(half))
    }
}

impl std::fmt::Display for RowId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The moment at which a row was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    next: i64,
    at: Duration,
}

/// The part of the window that a restart needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Saved {
    low: Option<Mark>,
    /// Identities of the emitted rows above `low`.
    emitted: Vec<String>,
}

/// The emitted rows above `low`.
#[derive(Debug)]
pub(super) struct Window {
    low: Option<Mark>,
    emitted: HashMap<RowId, Stamp>,
    lag: Duration,
}

/// A pass over the rows above `low`.
#[derive(Debug)]
pub(super) struct Pass {
    began: Duration,
    ended_below: i64,
    /// Rows read so far, in order.
    read: Vec<RowId>,
    /// The last settled row, and the number of rows up to it.
    settled: Option<(Mark, usize)>,
}

impl Window {
    /// The window at a start. Rows of the run before have the stamp of this moment.
    pub(super) fn new(saved: Saved, lag: Duration, now: Duration, horizon: Horizon) -> Self {
        let stamp = Stamp {
            next: horizon.next,
            at: now,
        };
        let ids = saved.emitted.iter();
        let ids = ids.filter_map(|id| u128::from_str_radix(id, 16).ok());
        Self {
            low: saved.low,
            emitted: ids.map(|id| (RowId(id), stamp)).collect(),
            lag,
        }
    }

    /// A window that begins above a row.
    pub(super) fn above(low: Option<Mark>) -> Saved {
        Saved {
            low,
            emitted: Vec::new(),
        }
    }

    pub(super) fn low(&self) -> Option<&Mark> {
        self.low.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.emitted.len()
    }

    pub(super) fn pass(&self, now: Duration, horizon: Horizon) -> Pass {
        Pass {
            began: now,
            ended_below: horizon.ended_below,
            read: Vec::new(),
            settled: None,
        }
    }

    /// Notes a row of a pass. Returns whether it is to be emitted.
    pub(super) fn read(&self, pass: &mut Pass, row: &Mark) -> bool {
        let id = RowId::of(row);
        pass.read.push(id);
        let Some(stamp) = self.emitted.get(&id) else {
            return true;
        };
        let is_old = pass.began >= stamp.at.saturating_add(self.lag);
        if is_old && stamp.next <= pass.ended_below {
            pass.settled = Some((row.clone(), pass.read.len()));
        }
        false
    }

    /// Notes rows that were emitted, with the horizon after they were read.
    pub(super) fn emitted(
        &mut self,
        rows: impl IntoIterator<Item = RowId>,
        now: Duration,
        horizon: Horizon,
    ) {
        let stamp = Stamp {
            next: horizon.next,
            at: now,
        };
        self.emitted
            .extend(rows.into_iter().map(|row| (row, stamp)));
    }

    /// Ends a pass: moves `low` to the last settled row. A pass is complete if it came to the end
    /// of the table. Returns whether something changed.
    pub(super) fn end(&mut self, pass: Pass, is_complete: bool) -> bool {
        let before = self.emitted.len();
        let mut above = &pass.read[..];
        let mut moved = false;
        if let Some((low, count)) = pass.settled {
            for row in &pass.read[..count] {
                self.emitted.remove(row);
            }
            above = &pass.read[count..];
            moved = self.low.as_ref() != Some(&low);
            self.low = Some(low);
        }
        if is_complete {
            // Rows that were deleted or have grown are forgotten.
            let above: std::collections::HashSet<&RowId> = above.iter().collect();
            self.emitted.retain(|row, _| above.contains(row));
        }
        moved || self.emitted.len() != before
    }

    pub(super) fn saved(&self) -> Saved {
        Saved {
            low: self.low.clone(),
            emitted: self.emitted.keys().map(ToString::to_string).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn mark_of(value: u32) -> Mark {
        Mark {
            value: format!("{value:06}"),
            key: String::new(),
        }
    }

    /// A table whose transactions take numbers in order and commit in any order.
    #[derive(Default)]
    struct Table {
        next_value: u32,
        next_transaction: i64,
        open: BTreeMap<i64, Vec<u32>>,
        visible: std::collections::BTreeSet<u32>,
        committed: Vec<u32>,
    }

    impl Table {
        fn begin(&mut self, rows: u32) {
            let values = (self.next_value..self.next_value + rows).collect();
            self.next_value += rows;
            self.open.insert(self.next_transaction, values);
            self.next_transaction += 1;
        }

        fn commit(&mut self, nth: usize) {
            let Some(number) = self.open.keys().nth(nth % self.open.len().max(1)).copied() else {
                return;
            };
            let values = self.open.remove(&number).unwrap_or_default();
            self.committed.extend(&values);
            self.visible.extend(values);
        }

        fn horizon(&self) -> Horizon {
            Horizon {
                ended_below: self
                    .open
                    .keys()
                    .next()
                    .copied()
                    .unwrap_or(self.next_transaction),
                next: self.next_transaction,
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Begin(u32),
        Commit(usize),
        Pass { rows_max: usize },
        Restart,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (1u32..4).prop_map(Step::Begin),
            3 => (0usize..5).prop_map(Step::Commit),
            3 => prop_oneof![Just(usize::MAX), 1usize..6].prop_map(|rows_max| Step::Pass { rows_max }),
            1 => Just(Step::Restart),
        ];
        prop::collection::vec(step, 0..80)
    }

    fn pass(window: &mut Window, table: &Table, rows_max: usize, emitted: &mut Vec<u32>) {
        let mut pass = window.pass(Duration::ZERO, table.horizon());
        let low = window.low().map(|low| low.value.parse::<u32>().unwrap());
        let rows = table
            .visible
            .iter()
            .filter(|value| low.is_none_or(|low| **value > low));
        let mut new = Vec::new();
        let mut is_complete = true;
        for (nth, value) in rows.enumerate() {
            if nth == rows_max {
                is_complete = false;
                break;
            }
            if window.read(&mut pass, &mark_of(*value)) {
                emitted.push(*value);
                new.push(RowId::of(&mark_of(*value)));
            }
        }
        window.emitted(new, Duration::ZERO, table.horizon());
        window.end(pass, is_complete);
    }

    proptest! {
        #[test]
        fn every_row_is_emitted_once_in_whatever_order_transactions_commit(steps in steps()) {
            let mut table = Table::default();
            let mut window = Window::new(Saved::default(), Duration::ZERO, Duration::ZERO, table.horizon());
            let mut emitted = Vec::new();
            for step in steps {
                match step {
                    Step::Begin(rows) => table.begin(rows),
                    Step::Commit(nth) => table.commit(nth),
                    Step::Pass { rows_max } => pass(&mut window, &table, rows_max, &mut emitted),
                    Step::Restart => {
                        let saved = serde_json::to_string(&window.saved()).unwrap();
                        let saved = serde_json::from_str(&saved).unwrap();
                        window = Window::new(saved, Duration::ZERO, Duration::ZERO, table.horizon());
                    }
                }
            }
            while !table.open.is_empty() {
                table.commit(0);
            }
            for _ in 0..3 {
                pass(&mut window, &table, usize::MAX, &mut emitted);
            }
            emitted.sort_unstable();
            table.committed.sort_unstable();
            prop_assert_eq!(emitted, table.committed);
            // Nothing is in flight: the window is empty.
            prop_assert_eq!(window.len(), 0);
        }
    }

    #[test]
    fn a_row_is_settled_after_the_lag() {
        let second = Duration::from_secs(1);
        let horizon = Horizon::default();
        let mut window = Window::new(Saved::default(), 5 * second, Duration::ZERO, horizon);
        let row = mark_of(1);
        let mut pass = window.pass(Duration::ZERO, horizon);
        assert!(window.read(&mut pass, &row));
        window.emitted([RowId::of(&row)], second, horizon);
        window.end(pass, true);
        for (now, low) in [(5 * second, None), (6 * second, Some(&row))] {
            let mut pass = window.pass(now, horizon);
            assert!(!window.read(&mut pass, &row));
            window.end(pass, true);
            assert_eq!(window.low(), low);
        }
    }
}
