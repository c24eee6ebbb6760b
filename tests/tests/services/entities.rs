//! Entities: one actor for each key, whose state is saved with each message.

use std::time::Duration;

use brickwork::prelude::*;
use brickwork::testing::{Setup, TestApp};
use brickwork::tokio::time::sleep;

#[message]
struct Deposit {
    account: String,
    cents: i64,
    /// Fail, panic or hang after the change.
    then: Option<String>,
}

#[message]
#[derive(PartialEq)]
struct Balance {
    account: String,
    cents: i64,
    /// Messages since the entity came into memory.
    warm: u32,
}

#[message]
struct Remind {
    account: String,
    text: String,
    after_ms: u64,
    then: Option<String>,
}

#[message]
struct Reminded {
    account: String,
    text: String,
}

#[message]
struct Rate {
    percent: i64,
}

#[config]
struct AccountConfig {
    /// First balance of each account.
    gift: i64,
}

#[derive(Serialize, Deserialize)]
struct Account {
    owner: String,
    cents: i64,
    reminder: Option<ReminderId>,
    #[serde(skip)]
    warm: u32,
}

/// Accounts of customers.
#[entity(key = "account", idle = "1m", active_max = 3)]
impl Account {
    fn start(key: &Key, config: &AccountConfig) -> Result<Self> {
        Ok(Self {
            owner: key.to_string(),
            cents: config.gift,
            reminder: None,
            warm: 0,
        })
    }

    #[input]
    async fn deposits(&mut self, deposit: Deposit, key: Key, balance: Out<Balance>) -> Result {
        assert_eq!(
            (&*self.owner, &*deposit.account),
            (key.as_str(), key.as_str())
        );
        self.change(deposit.cents)?;
        balance.emit(self.balance())?;
        match deposit.then.as_deref() {
            Some("fail") => Err(Failure::reject("told to fail")),
            Some("panic") => panic!("told to panic"),
            Some("hang") => {
                sleep(Duration::from_secs(1_000)).await;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A second input for messages of the same type, with a reply.
    #[input]
    fn withdrawals(&mut self, wanted: Deposit, meta: Meta) -> Result<Balance> {
        assert_eq!(meta.input(), "withdrawals");
        self.change(-wanted.cents)?;
        Ok(self.balance())
    }

    #[input]
    async fn interest(
        &mut self,
        of: Deposit,
        rate: Ask<Deposit, Rate>,
        balance: Out<Balance>,
    ) -> Result {
        let Rate { percent } = rate.ask(of).await?;
        self.change(self.cents * percent / 100)?;
        balance.emit(self.balance())
    }

    #[input]
    fn remind(&mut self, wanted: Remind, cx: &Context) -> Result {
        self.warm += 1;
        if let Some(reminder) = self.reminder.take() {
            cx.cancel(&reminder)?;
        }
        let Remind { account, text, .. } = wanted;
        let reminded = Reminded { account, text };
        let after = Duration::from_millis(wanted.after_ms);
        self.reminder = Some(cx.remind(&Self::REMINDED, reminded, after)?);
        match wanted.then {
            Some(text) => Err(Failure::reject(text)),
            None => Ok(()),
        }
    }

    #[reminder]
    fn reminded(&mut self, reminded: Reminded, notes: Out<String>) -> Result {
        notes.emit(format!("{} {}", self.owner, reminded.text))
    }

    #[input]
    async fn transactions(&mut self, _: Deposit, cx: &Context) -> Result {
        cx.store()?.transact(|_| Ok(())).await
    }

    fn change(&mut self, cents: i64) -> Result {
        self.warm += 1;
        self.cents += cents;
        match self.cents < 0 {
            true => Err(Failure::reject("not that much money")),
            false => Ok(()),
        }
    }

    fn balance(&self) -> Balance {
        Balance {
            account: self.owner.clone(),
            cents: self.cents,
            warm: self.warm,
        }
    }
}

fn deposit(account: &str, cents: i64) -> Deposit {
    Deposit {
        account: account.into(),
        cents,
        then: None,
    }
}

fn deposit_then(account: &str, cents: i64, then: &str) -> Deposit {
    let then = Some(then.into());
    Deposit {
        then,
        ..deposit(account, cents)
    }
}

fn remind(account: &str, text: &str, after: Duration) -> Remind {
    Remind {
        account: account.into(),
        text: text.into(),
        after_ms: after.as_millis() as u64,
        then: None,
    }
}

fn start() -> TestApp {
    TestApp::of_entity::<Account>(AccountConfig::default())
}

/// Sends a deposit, and returns the balance and the messages since the entity came into memory.
fn put(app: &TestApp, account: &str, cents: i64) -> (i64, u32) {
    app.send(&Account::DEPOSITS, deposit(account, cents));
    let balance = app.expect(&Account::BALANCE);
    assert_eq!(balance.account, account);
    (balance.cents, balance.warm)
}

#[test]
fn each_key_has_an_entity_of_its_own() {
    let app = TestApp::of_entity::<Account>(AccountConfig { gift: 1 });
    assert_eq!(put(&app, "ada", 5), (6, 1));
    assert_eq!(put(&app, "bob", 2), (3, 1));
    assert_eq!(put(&app, "ada", 1), (7, 2));
    let reply = app.ask(&Account::WITHDRAWALS, deposit("bob", 3));
    assert_eq!((reply.cents, reply.warm), (0, 2));
    app.expect_nothing(&Account::NOTES);
}

#[test]
fn an_entity_asks_other_services() {
    let app = Setup::of_entity::<Account>(AccountConfig { gift: 200 })
        .answer(&Account::RATE, |of| Rate { percent: of.cents })
        .start();
    app.send(&Account::INTEREST, deposit("ada", 10));
    assert_eq!(app.expect(&Account::BALANCE).cents, 220);
}

#[test]
fn a_handler_that_fails_panics_or_hangs_changes_nothing_and_harms_no_other_entity() {
    let app = Setup::of_entity::<Account>(AccountConfig::default())
        .with("services.account.retry.attempts = 1\nservices.account.handler_timeout = \"10s\"")
        .start();
    assert_eq!(put(&app, "ada", 5), (5, 1));
    assert_eq!(put(&app, "bob", 1), (1, 1));
    for (n, then) in ["fail", "panic", "hang"].into_iter().enumerate() {
        app.send(&Account::DEPOSITS, deposit_then("ada", 100, then));
        let letter = app.expect_dead_letter();
        assert!(!letter.dead_letter.error.is_empty());
        // Read again from the store.
        assert_eq!(put(&app, "ada", 1), (6 + n as i64, 1), "{then}");
        assert_eq!(put(&app, "bob", 1), (2 + n as i64, 2 + n as u32), "{then}");
    }
    app.expect_nothing(&Account::BALANCE);
}

#[test]
fn a_message_that_comes_again_has_no_second_effect_and_the_same_reply() {
    let app = start();
    assert_eq!(put(&app, "ada", 5), (5, 1));
    let id: brickwork::MessageId = "withdrawal-1".parse().unwrap();
    let all = || MessageBuilder::new(deposit("ada", 5)).id(id.clone());
    assert_eq!(app.ask(&Account::WITHDRAWALS, all()).cents, 0);
    // On the new balance the handler would refuse it.
    assert_eq!(app.ask(&Account::WITHDRAWALS, all()).cents, 0);
    assert_eq!(put(&app, "ada", 1), (1, 3));
    assert_eq!(app.dead_letters("account").len(), 0);
}

#[test]
fn a_state_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let started = || {
        Setup::of_entity::<Account>(AccountConfig::default())
            .data(folder.path())
            .start()
    };
    let app = started();
    assert_eq!(put(&app, "ada", 5), (5, 1));
    app.stop();
    let app = started();
    assert_eq!(put(&app, "ada", 1), (6, 1));
    app.stop();
}

#[test]
fn an_idle_entity_leaves_memory_and_then_the_least_recently_used() {
    let app = start();
    assert_eq!(put(&app, "ada", 1), (1, 1));
    app.advance(Duration::from_secs(50));
    assert_eq!(put(&app, "bob", 1), (1, 1));
    app.advance(Duration::from_secs(30));
    assert_eq!(put(&app, "ada", 1), (2, 1), "ada was idle");
    assert_eq!(put(&app, "bob", 1), (2, 2), "bob was not");
    // Three stay in memory.
    for account in ["eve", "joe"] {
        assert_eq!(put(&app, account, 1), (1, 1));
    }
    assert_eq!(put(&app, "bob", 1), (3, 3));
    assert_eq!(put(&app, "ada", 1), (3, 1));
}

#[test]
fn a_reminder_arrives_once_unless_it_is_cancelled() {
    let app = start();
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    app.send(&Account::REMIND, remind("ada", "one", minutes(5)));
    app.send(&Account::REMIND, remind("bob", "other", minutes(7)));
    app.advance(minutes(1));
    // Cancels the first one.
    app.send(&Account::REMIND, remind("ada", "two", minutes(10)));
    // A handler that fails sets no reminder, and cancels none.
    let failing = Remind {
        then: Some("told to fail".into()),
        ..remind("ada", "never", minutes(1))
    };
    app.send(&Account::REMIND, failing);
    assert_eq!(app.expect_dead_letter().dead_letter.error, "told to fail");
    assert_eq!(app.expect(&Account::NOTES), "bob other");
    assert_eq!(app.expect(&Account::NOTES), "ada two");
    app.expect_nothing(&Account::NOTES);
}

#[test]
fn a_reminder_outlives_the_process() {
    let folder = tempfile::tempdir().unwrap();
    let started = || {
        Setup::of_entity::<Account>(AccountConfig::default())
            .data(folder.path())
            .start()
    };
    let app = started();
    app.send(
        &Account::REMIND,
        remind("ada", "later", Duration::from_secs(600)),
    );
    app.advance(Duration::from_secs(1));
    app.stop();
    // `memory:` has lost the message.
    let app = started();
    assert_eq!(app.expect(&Account::NOTES), "ada later");
    app.expect_nothing(&Account::NOTES);
    app.stop();
}

/// A reminder belongs to the entity that has set it.
#[derive(Default, Serialize, Deserialize)]
struct Confused;

#[entity(key = "account")]
impl Confused {
    #[input]
    fn deposits(&mut self, _: Deposit, cx: &Context) -> Result {
        let (account, text) = ("another".to_owned(), String::new());
        let reminded = Reminded { account, text };
        cx.remind(&Self::REMINDED, reminded, Duration::from_secs(1))?;
        Ok(())
    }

    #[reminder]
    fn reminded(&mut self, _: Reminded) {}
}

#[test]
fn a_mistake_in_an_entity_is_a_dead_letter_that_says_so() {
    let app = start();
    app.send(&Account::TRANSACTIONS, deposit("ada", 1));
    let error = app.expect_dead_letter().dead_letter.error;
    assert!(
        error.contains("an entity has no transactions of its own"),
        "{error}"
    );
    app.stop();
    let app = TestApp::of_entity::<Confused>(NoConfig {});
    app.send(&Confused::DEPOSITS, deposit("ada", 1));
    let error = app.expect_dead_letter().dead_letter.error;
    assert_eq!(
        error,
        "a reminder has the key of its entity: another is not ada"
    );
}

/// Another version of the account, whose state has a further field.
#[derive(Default, Serialize, Deserialize)]
struct Later {
    currency: String,
}

#[entity(name = "account", key = "account")]
impl Later {
    #[input]
    fn deposits(&mut self, _: Deposit) {}
}

#[test]
fn a_state_that_can_not_be_read_is_a_dead_letter_that_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let app = Setup::of_entity::<Account>(AccountConfig::default())
        .data(folder.path())
        .start();
    assert_eq!(put(&app, "ada", 5), (5, 1));
    app.stop();
    let app = Setup::of_entity::<Later>(NoConfig {})
        .data(folder.path())
        .start();
    app.send(&Later::DEPOSITS, deposit("ada", 1));
    let error = app.expect_dead_letter().dead_letter.error;
    assert!(error.contains("missing field `currency`"), "{error}");
    app.stop();
    let app = Setup::of_entity::<Account>(AccountConfig::default())
        .data(folder.path())
        .start();
    assert_eq!(put(&app, "ada", 1), (6, 1), "the state is as it was");
    app.stop();
}

#[test]
fn entities_are_described_as_a_service_type() {
    let catalog = Catalog::new().with_entity::<Account>();
    let described = catalog.get("account").unwrap().describe();
    assert_eq!(described.summary, "Accounts of customers");
    let inputs: Vec<_> = described.inputs.iter().map(|port| &*port.name).collect();
    let expected = [
        "deposits",
        "withdrawals",
        "interest",
        "remind",
        "reminded",
        "transactions",
    ];
    assert_eq!(inputs, expected);
}
