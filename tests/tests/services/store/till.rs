//! The service under test: a till that takes money, with every kind of failure.

use std::time::Duration;

use brickwork::MessageId;
use brickwork::prelude::*;
use brickwork::testing::TestApp;

#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub(crate) struct Pay {
    pub(crate) cents: i64,
    /// Panic, fail, wait or emit after the transaction.
    pub(crate) then: Option<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Paid {
    pub(crate) total: i64,
}

pub(crate) const PAYMENTS: Input<Pay> = Input::new("payments");
pub(crate) const QUESTIONS: Input<Pay, i64> = Input::new("questions");
pub(crate) const MANY: Input<i64> = Input::new("many");
pub(crate) const PAID: Output<Paid> = Output::new("paid");
pub(crate) const NOTES: Output<String> = Output::new("notes");
const BEAT: Tick = Tick::new("beat");

pub(crate) struct Till;

impl Service for Till {
    const NAME: &'static str = "till";
    const STORE: &'static [Migration] = &[
        Migration::new(
            "money",
            "CREATE TABLE money (cents INTEGER NOT NULL CHECK (cents >= 0)) STRICT",
        ),
        Migration::new("nothing yet", "INSERT INTO money VALUES (0)"),
    ];
    type Config = NoConfig;

    fn ports(_: &NoConfig, ports: &mut Ports<Self>) {
        let batch = Batch {
            max: 10,
            within: Duration::from_millis(10),
        };
        ports
            .input(&PAYMENTS)
            .input(&QUESTIONS)
            .batch(&MANY, batch)
            .output(&PAID)
            .output(&NOTES)
            .tick(BEAT, Duration::from_secs(600));
    }

    async fn start(_: &NoConfig, cx: &mut Context) -> Result<Self, Failure> {
        // The store is open before the service starts.
        cx.store()?.read(total).await?;
        Ok(Self)
    }

    async fn tick(&mut self, _: Tick, cx: &mut Context) -> Result<(), Failure> {
        let beat = |tx: &mut Tx<'_>| {
            let total = total(tx)?;
            tx.emit(&NOTES, format!("{total} in the till"))
        };
        cx.store()?.transact(beat).await
    }
}

fn total(db: &brickwork::sqlite::rusqlite::Connection) -> Result<i64, Failure> {
    Ok(db.query_row("SELECT cents FROM money", [], |row| row.get(0))?)
}

fn take(tx: &mut Tx<'_>, cents: i64) -> Result<i64, Failure> {
    tx.prepare_cached("UPDATE money SET cents = cents + ?1")?
        .execute([cents])?;
    total(tx)
}

impl Handle<Pay> for Till {
    async fn handle(&mut self, pay: Pay, cx: &mut Context) -> Result<(), Failure> {
        let then = pay.then.clone();
        cx.emit(&NOTES, format!("{} of {}", cx.attempt(), pay.cents))?;
        let work = move |tx: &mut Tx<'_>| {
            let total = take(tx, pay.cents)?;
            tx.emit(&PAID, Paid { total })?;
            match pay.then.as_deref() {
                Some("fail inside") => Err(Failure::reject("told to fail inside")),
                Some("panic inside") => panic!("told to panic inside"),
                _ => Ok(()),
            }
        };
        if then.as_deref() == Some("give up waiting") {
            let _given_up = futures_util::FutureExt::now_or_never(cx.store()?.transact(work));
            return Ok(());
        }
        cx.store()?.transact(work).await?;
        match then.as_deref() {
            Some("fail") => Err(Failure::retry("told to fail")),
            Some("panic") => panic!("told to panic"),
            Some("hang") => std::future::pending().await,
            Some("emit") => cx.emit(&NOTES, "too late".to_owned()),
            Some("again") => cx.store()?.transact(|tx| take(tx, 1).map(drop)).await,
            _ => Ok(()),
        }
    }
}

impl Handle<Pay, i64> for Till {
    async fn handle(&mut self, pay: Pay, cx: &mut Context) -> Result<i64, Failure> {
        let work = move |tx: &mut Tx<'_>| {
            let total = take(tx, pay.cents)?;
            if pay.then.as_deref() != Some("keep no reply") {
                tx.reply(&total)?;
            }
            Ok(total)
        };
        cx.store()?.transact(work).await
    }
}

impl HandleBatch<i64> for Till {
    async fn handle_batch(
        &mut self,
        batch: Vec<i64>,
        cx: &mut Context,
    ) -> Vec<Result<(), Failure>> {
        let mut results: Vec<Result<(), Failure>> = Vec::new();
        results.resize_with(batch.len(), || Ok(()));
        let works = batch.into_iter().map(|cents| {
            move |tx: &mut Tx<'_>| {
                let total = take(tx, cents)?;
                tx.emit(&PAID, Paid { total })
            }
        });
        let store = match cx.store() {
            Ok(store) => store,
            Err(failure) => return results.into_iter().map(|_| Err(failure.clone())).collect(),
        };
        for (index, result) in store.transact_each(works.enumerate()).await {
            results[index] = result;
        }
        results
    }
}

pub(crate) fn pay(cents: i64) -> Pay {
    Pay { cents, then: None }
}

pub(crate) fn pay_then(cents: i64, then: &str) -> Pay {
    Pay {
        cents,
        then: Some(then.into()),
    }
}

/// Asserts the amount that the till reports.
#[track_caller]
pub(crate) fn in_the_till(till: &TestApp) -> i64 {
    till.ask(&QUESTIONS, pay(0))
}

/// Returns the file of the till's store.
pub(crate) fn file(till: &TestApp) -> std::path::PathBuf {
    till.folder().join("data/stores/till.sqlite")
}

pub(crate) fn id(text: &str) -> MessageId {
    text.parse().expect("an id")
}
