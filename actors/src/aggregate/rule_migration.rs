//! Migration of open groups to changed rules.
//!
//! There may be millions of groups, and a transaction must be short. So the migration runs in
//! steps, and each records its progress: after a crash it continues there. No message is added
//! and no group closed before it is done.

use brickwork::prelude::*;

use super::groups::{Groups, STUCK_MS, is_any_timed};

/// `adopted` is the number of the last migrated group; `NULL` after the last step. The default
/// 0 makes stores of older versions migrate once.
pub(super) const IN_STEPS: Migration = Migration::new(
    "rules are adopted in steps",
    "ALTER TABLE aggregate_total ADD COLUMN adopted INTEGER DEFAULT 0;",
);

/// Groups per step. Even if the new due times are scattered over the index, a step takes some
/// tenths of a second at worst.
pub(super) const STEP: usize = 2_000;

/// The progress of the migration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RulesMigrated {
    /// More groups may be left.
    Some,
    /// All groups follow the rules. `is_waiting`: a time rule will close some of them.
    All { is_waiting: bool },
}

impl Groups {
    /// Runs one step of at most `step` groups: gives groups that were opened under other rules
    /// their new due time, or makes groups that could not be emitted due again.
    pub(super) fn migrate_rules(&self, tx: &Tx<'_>, step: usize) -> Result<RulesMigrated, Failure> {
        tx.execute(
            "UPDATE aggregate_total SET within_ms = ?1, idle_ms = ?2, adopted = 0
             WHERE within_ms IS NOT ?1 OR idle_ms IS NOT ?2",
            (self.within_ms, self.idle_ms),
        )?;
        let adopted: Option<i64> =
            tx.query_row("SELECT adopted FROM aggregate_total", [], |row| row.get(0))?;
        let is_done = match adopted {
            Some(adopted) => self.migrate_after(tx, adopted, step)?,
            None => self.retry_stuck(tx, step)?,
        };
        Ok(match is_done {
            true => RulesMigrated::All {
                is_waiting: is_any_timed(tx)?,
            },
            false => RulesMigrated::Some,
        })
    }

    /// Migrates the next groups. Returns whether none was left.
    fn migrate_after(&self, tx: &Tx<'_>, adopted: i64, step: usize) -> Result<bool, Failure> {
        let last: Option<i64> = tx.query_row(
            "SELECT max(n) FROM
             (SELECT n FROM aggregate_group WHERE n > ?1 ORDER BY n LIMIT ?2)",
            (adopted, step as i64),
            |row| row.get(0),
        )?;
        if let Some(last) = last {
            self.set_due(tx, "n > ?3 AND n <= ?4", (adopted, last))?;
        }
        tx.execute("UPDATE aggregate_total SET adopted = ?1", [last])?;
        Ok(last.is_none())
    }

    /// Makes stuck groups due again. Returns whether there were none.
    fn retry_stuck(&self, tx: &Tx<'_>, step: usize) -> Result<bool, Failure> {
        let stuck = "n IN (SELECT n FROM aggregate_group WHERE due_ms = ?3 LIMIT ?4)";
        let tried = self.set_due(tx, stuck, (STUCK_MS, step as i64))?;
        Ok(tried == 0)
    }

    /// Sets the due time of some groups by the rules. Returns their number.
    fn set_due(&self, tx: &Tx<'_>, which: &str, span: (i64, i64)) -> Result<usize, Failure> {
        let set = format!(
            "UPDATE aggregate_group SET due_ms = CASE
                WHEN ?1 IS NULL THEN came_ms + ?2
                WHEN ?2 IS NULL THEN opened_ms + ?1
                ELSE min(opened_ms + ?1, came_ms + ?2) END
             WHERE {which}"
        );
        Ok(tx.execute(&set, (self.within_ms, self.idle_ms, span.0, span.1))?)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use brickwork::testing::{Setup, TestApp};
    use serde_json::{Value, json};

    use super::super::{Aggregate, AggregateConfig};
    use super::*;

    const GROUPS: i64 = 10;
    /// Groups per step of the interrupted migration.
    const SMALL_STEP: usize = 3;
    const STEPS: i64 = 2;

    const IN: Input<Value> = Input::new("in");
    const OUT: Output<Value> = Output::new("out");

    /// Ends after some committed steps, like a process that dies there.
    struct Step;

    impl Service for Step {
        const NAME: &'static str = Aggregate::NAME;
        const SUMMARY: &'static str = "migrates some of the groups";
        const EXAMPLE: &'static str = Aggregate::EXAMPLE;
        const STORE: &'static [Migration] = Aggregate::STORE;
        type Config = AggregateConfig;

        fn ports(_: &AggregateConfig, ports: &mut Ports<Self>) {
            ports.input(&IN);
        }

        async fn start(config: &AggregateConfig, cx: &mut Context) -> Result<Self, Failure> {
            for _ in 0..STEPS {
                let groups = Groups::new(config, cx.payload_bytes_max());
                let step = move |tx: &mut Tx<'_>| groups.migrate_rules(tx, SMALL_STEP);
                assert_eq!(cx.store()?.transact(step).await?, RulesMigrated::Some);
            }
            Ok(Self)
        }
    }

    impl Handle<Value> for Step {
        async fn handle(&mut self, _: Value, _: &mut Context) -> Result<(), Failure> {
            Ok(())
        }
    }

    fn config(rules: Value) -> AggregateConfig {
        serde_json::from_value(rules).expect("a config")
    }

    fn setup<S: Service<Config = AggregateConfig>>(rules: Value, data: &Path) -> Setup {
        Setup::of::<S>(config(rules)).data(data)
    }

    /// The time to each group's due time, in milliseconds, and the progress of the migration.
    fn dues(data: &Path) -> (Vec<Option<i64>>, Option<i64>) {
        let file = data.join("stores").join("aggregate.sqlite");
        let store = brickwork::sqlite::rusqlite::Connection::open(file).expect("a store");
        let mut dues = store
            .prepare("SELECT due_ms - opened_ms FROM aggregate_group ORDER BY n")
            .expect("a table");
        let dues = dues.query_map([], |row| row.get(0)).expect("groups");
        let dues = dues.collect::<Result<_, _>>().expect("numbers");
        let adopted = store.query_row("SELECT adopted FROM aggregate_total", [], |row| row.get(0));
        (dues, adopted.expect("a row"))
    }

    fn fill(app: &TestApp) {
        for key in 0..GROUPS {
            app.send(&IN, json!(key));
        }
        app.advance(Duration::from_secs(1));
    }

    #[test]
    fn a_migration_that_was_interrupted_by_a_crash_is_continued_by_the_next_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path();
        let before = json!({"key": "msg", "within": "1h"});
        let now = json!({"key": "msg", "within": "2h"});
        let app = setup::<Aggregate>(before.clone(), data).start();
        fill(&app);
        let at = app.now();
        app.stop();
        let (old, new) = (Some(3_600_000), Some(7_200_000));
        assert_eq!(dues(data), (vec![old; GROUPS as usize], None));
        setup::<Step>(now.clone(), data).at(at).start().stop();
        let done = SMALL_STEP as i64 * STEPS;
        let expected = |n| if n < done { new } else { old };
        assert_eq!(
            dues(data),
            ((0..GROUPS).map(expected).collect(), Some(done))
        );
        // A change back to the old rules is a migration as well.
        let run = |rules: &Value| setup::<Aggregate>(rules.clone(), data).at(at).start();
        run(&before).stop();
        assert_eq!(dues(data), (vec![old; GROUPS as usize], None));
        setup::<Step>(now.clone(), data).at(at).start().stop();
        let app = run(&now);
        assert_eq!(dues(data), (vec![new; GROUPS as usize], None));
        // No group is emitted early, and each is emitted once.
        app.advance(Duration::from_secs(5_000));
        for _ in 0..GROUPS {
            assert_eq!(app.expect(&OUT)["closed"], "within");
            let took = app.now().duration_since(at).expect("time goes on");
            assert!(took > Duration::from_secs(7_190), "{took:?}");
        }
        app.expect_nothing(&OUT);
        app.stop();
    }
}
