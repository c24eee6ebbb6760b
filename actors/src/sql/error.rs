//! Errors of a database, and their consequences for messages.
//!
//! The SQLSTATE decides: see [`classify`].

use std::time::Duration;

use brickwork::Failure;

/// Delay of messages after a deadlock or a failed serialization.
const BUSY_DELAY: Duration = Duration::from_millis(100);

/// An error of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SqlError {
    pub(super) class: Class,
    pub(super) text: String,
    /// Index of the row that the database refused, if it is known.
    pub(super) row: Option<usize>,
}

/// The part that is at fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// The database can't be reached or can't work: no message is at fault.
    Away,
    /// Another transaction was in the way: no message is at fault.
    Busy,
    /// The values of a message.
    Data,
    /// A statement took too long.
    Slow,
    /// The statement, the rights, or an error that is not known.
    Other,
}

/// Finds the part that is at fault by the SQLSTATE (PostgreSQL's manual, appendix A).
pub(super) fn classify(state: &str) -> Class {
    let class = state.get(..2).unwrap_or_default();
    match (class, state) {
        (_, "40001" | "40P01" | "55P03") => Class::Busy,
        (_, "57014") => Class::Slow,
        // The server is a standby, for example after a failover.
        (_, "25006") => Class::Away,
        // A value for a column of another type, and a function of the schema that refuses a row.
        (_, "42804" | "P0001") => Class::Data,
        // Cardinality, data, constraints, and WITH CHECK OPTION.
        ("21" | "22" | "23" | "44", _) => Class::Data,
        // Connection, password, database, resources, operator, system.
        ("08" | "28" | "3D" | "53" | "57" | "58" | "F0" | "XX", _) => Class::Away,
        _ => Class::Other,
    }
}

impl SqlError {
    pub(super) fn new(class: Class, text: impl Into<String>) -> Self {
        Self {
            class,
            text: text.into(),
            row: None,
        }
    }

    pub(super) fn away(text: impl Into<String>) -> Self {
        Self::new(Class::Away, text)
    }

    /// Names the row that the database refused.
    pub(super) fn of_row(self, row: usize) -> Self {
        Self {
            row: Some(row),
            ..self
        }
    }

    /// Whether one row of a batch may be at fault, so that the others are tried without it.
    pub(super) fn may_be_of_one_row(&self) -> bool {
        matches!(self.class, Class::Data | Class::Other)
    }

    /// The consequence for a message. `delay` is the time until the database is tried again.
    pub(super) fn failure(&self, delay: Duration) -> Failure {
        match self.class {
            Class::Away => Failure::defer(delay, &self.text),
            Class::Busy => Failure::defer(BUSY_DELAY, &self.text),
            Class::Data => Failure::reject(&self.text),
            Class::Slow | Class::Other => Failure::retry(&self.text),
        }
    }
}

#[cfg(test)]
mod tests {
    use brickwork::FailureKind;

    use super::*;

    #[test]
    fn an_outage_costs_no_attempt_and_wrong_data_is_a_dead_letter() {
        let second = Duration::from_secs(1);
        let kind = |state| SqlError::new(classify(state), "x").failure(second).kind();
        for state in [
            "08006", "57P01", "57P03", "53300", "53100", "28P01", "25006", "3D000",
        ] {
            assert_eq!(kind(state), FailureKind::Defer(second), "{state}");
        }
        for state in ["40001", "40P01"] {
            assert_eq!(kind(state), FailureKind::Defer(BUSY_DELAY), "{state}");
        }
        for state in [
            "23505", "23503", "23502", "22P02", "22001", "22021", "P0001",
        ] {
            assert_eq!(kind(state), FailureKind::Reject, "{state}");
        }
        for state in ["57014", "42P01", "42501", "0A000", "", "é"] {
            assert_eq!(kind(state), FailureKind::Retry, "{state}");
        }
    }
}
