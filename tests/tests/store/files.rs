//! The files of stores: whose they are, and what is wrong with them.

use std::path::Path;
use std::time::{Duration, SystemTime};

use brickwork::sqlite::rusqlite::Connection;
use brickwork::testing::{Setup, TestApp};

use super::*;
use crate::till::*;

const APP: &str = r#"
    [app]
    name = "shop"
    [services.till]
    store = true
    in.payments = "payments"
    in.questions = "questions"
    in.many = "many"
    out.paid = "paid"
    out.notes = "notes"
    [topics]
    payments.external = "in"
    questions.external = "in"
    many.external = "in"
    paid.external = "out"
    notes.external = "out"
"#;

fn app() -> TestApp {
    TestApp::of_manifest(APP, Catalog::new().with::<Till>())
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// The till, so many days after a first one, with the data of a folder.
fn on_day(days: u32, data: &Path) -> TestApp {
    let first = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let setup = Setup::of::<Till>(NoConfig {});
    setup.data(data).at(first + days * DAY).start()
}

fn entries(file: &Path) -> i64 {
    let store = Connection::open(file).expect("a database");
    let count = "SELECT count(*) FROM brickwork_inbox";
    store
        .query_row(count, [], |row| row.get(0))
        .expect("it counts")
}

#[test]
fn the_inbox_forgets_what_is_too_old_to_come_again() {
    let till = TestApp::of::<Till>(NoConfig {});
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    till.advance(6 * DAY);
    assert_eq!(entries(&file(&till)), 1);
    till.advance(2 * DAY);
    assert_eq!(entries(&file(&till)), 0);
    till.stop();
}

/// What was in hand when an app was killed comes again when it is back, however late.
#[test]
fn the_inbox_forgets_nothing_for_the_time_in_which_nobody_ran_it() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let at = |days| on_day(days, folder.path());
    let till = at(0);
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    till.advance(6 * DAY);
    till.stop();

    let till = at(30);
    till.advance(DAY);
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.idle();
    assert_eq!(in_the_till(&till), 5, "it was done before");
    till.advance(7 * DAY);
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    assert_eq!(in_the_till(&till), 10, "it is forgotten in the end");
    till.stop();
}

/// More than are looked at in one go.
#[test]
fn entries_of_a_clock_that_was_ahead_do_not_stay_until_then() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let at = |days| on_day(days, folder.path());
    let till = at(10_000);
    for number in 0..600 {
        let payment = MessageBuilder::new(pay(1)).id(id(&format!("order-{number}")));
        till.send(&PAYMENTS, payment);
        till.expect(&PAID);
    }
    till.stop();
    let till = at(0);
    till.advance(6 * DAY);
    assert_eq!(in_the_till(&till), 600);
    till.advance(8 * DAY);
    let store = folder.path().join("stores/till.sqlite");
    assert_eq!(entries(&store), 0);
    till.stop();
}

#[test]
fn a_store_is_for_this_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let till = app();
    let mode = std::fs::metadata(file(&till))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    till.stop();
}
