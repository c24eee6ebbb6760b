//! A batch of rows: one transaction, and a row that the database refuses fails alone.

use std::collections::VecDeque;
use std::ops::Range;

use brickwork::Failure;

use super::database::Database;
use super::error::SqlError;
use super::work::Row;

/// Writes rows, all in one transaction if the database takes them all. Otherwise the rows before
/// and after the refused one have transactions of their own. Returns one outcome for each row.
/// `failure` is the consequence of an error.
pub(super) async fn write_all<D: Database>(
    database: &mut D,
    rows: &[Row<D::Value>],
    mut failure: impl FnMut(&SqlError) -> Failure,
) -> Vec<Result<(), Failure>> {
    let mut outcomes: Vec<Result<(), Failure>> = rows.iter().map(|_| Ok(())).collect();
    let mut parts = VecDeque::new();
    parts.push_back(0..rows.len());
    while let Some(part) = parts.pop_front() {
        let Err(error) = database.write(&rows[part.clone()]).await else {
            continue;
        };
        if part.len() <= 1 || !error.may_be_of_one_row() {
            let failure = failure(&error);
            outcomes[part].fill(Err(failure.clone()));
            if error.may_be_of_one_row() {
                continue;
            }
            for part in parts {
                outcomes[part].fill(Err(failure.clone()));
            }
            return outcomes;
        }
        for part in split(part, error.row).into_iter().rev() {
            parts.push_front(part);
        }
    }
    outcomes
}

/// Splits at the refused row, whose index counts from the start of the range, or in the middle.
fn split(range: Range<usize>, refused: Option<usize>) -> Vec<Range<usize>> {
    let parts = match refused.filter(|row| *row < range.len()) {
        Some(row) => {
            let row = range.start + row;
            vec![range.start..row, row..row + 1, row + 1..range.end]
        }
        None => {
            let middle = range.start + range.len() / 2;
            vec![range.start..middle, middle..range.end]
        }
    };
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use brickwork::FailureKind;
    use proptest::prelude::*;

    use super::*;
    use crate::sql::error::Class;
    use crate::sql::work::Limits;

    /// A database that refuses some rows, and is away after a number of transactions.
    struct Fake {
        refused: Vec<usize>,
        tells_row: bool,
        transactions: usize,
        away_after: usize,
        written: Vec<usize>,
    }

    impl Database for Fake {
        type Value = usize;

        fn place(&self) -> String {
            String::new()
        }

        async fn open(&mut self) -> Result<(), SqlError> {
            Ok(())
        }

        fn encode(&self, _: usize, _: &str) -> Result<usize, String> {
            Ok(0)
        }

        async fn write(&mut self, rows: &[Row<usize>]) -> Result<(), SqlError> {
            self.transactions += 1;
            if self.transactions > self.away_after {
                return Err(SqlError::away("away"));
            }
            let numbers: Vec<usize> = rows.iter().map(|row| row.values[0]).collect();
            let refused = numbers.iter().position(|it| self.refused.contains(it));
            if let Some(index) = refused {
                let error = SqlError::new(Class::Data, "refused");
                return Err(if self.tells_row {
                    error.of_row(index)
                } else {
                    error
                });
            }
            self.written.extend(numbers);
            Ok(())
        }

        async fn query(&mut self, _: &[usize], _: Limits) -> Result<Vec<String>, SqlError> {
            Ok(Vec::new())
        }
    }

    fn run(count: usize, mut fake: Fake) -> (Vec<Option<FailureKind>>, Fake) {
        let rows: Vec<Row<usize>> = (0..count)
            .map(|number| Row {
                id: "id".into(),
                values: vec![number],
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let failure = |error: &SqlError| error.failure(Duration::ZERO);
        let outcomes = runtime.block_on(write_all(&mut fake, &rows, failure));
        let kind = |outcome: Result<(), Failure>| outcome.err().map(|failure| failure.kind());
        (outcomes.into_iter().map(kind).collect(), fake)
    }

    proptest! {
        #[test]
        fn exactly_the_refused_rows_fail_and_the_others_are_written_in_order(
            count in 1usize..80,
            refused in prop::collection::btree_set(0usize..80, 0..10),
            tells_row in any::<bool>(),
            away_after in prop_oneof![Just(usize::MAX), 0usize..20],
        ) {
            let refused: Vec<usize> = refused.into_iter().filter(|row| *row < count).collect();
            let fake = Fake { refused: refused.clone(), tells_row, transactions: 0, away_after, written: vec![] };
            let (outcomes, fake) = run(count, fake);
            prop_assert!(fake.written.is_sorted());
            for (row, outcome) in outcomes.iter().enumerate() {
                prop_assert_eq!(outcome.is_none(), fake.written.contains(&row));
                match outcome {
                    Some(FailureKind::Reject) => prop_assert!(refused.contains(&row)),
                    Some(kind) => prop_assert_eq!(*kind, FailureKind::Defer(Duration::ZERO)),
                    None => prop_assert!(!refused.contains(&row)),
                }
            }
            if away_after == usize::MAX {
                prop_assert_eq!(outcomes.iter().filter(|it| it.is_some()).count(), refused.len());
                // One refused row costs two further transactions if the database tells it.
                let per_row = if tells_row { 3 } else { 16 };
                prop_assert!(fake.transactions <= 1 + per_row * refused.len());
            }
        }
    }
}
