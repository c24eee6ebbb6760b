//! The files of stores: their age limits and permissions.

use std::path::Path;
use std::time::{Duration, SystemTime};

use brickwork::sqlite::rusqlite::Connection;
use brickwork::testing::{Setup, TestApp};

use super::till::*;
use super::*;

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

/// Starts the till `days` after the first day, with the data of a folder.
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
fn the_inbox_forgets_messages_too_old_to_be_redelivered() {
    let till = TestApp::of::<Till>(NoConfig {});
    till.send(&PAYMENTS, MessageBuilder::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    till.advance(6 * DAY);
    assert_eq!(entries(&file(&till)), 1);
    till.advance(2 * DAY);
    assert_eq!(entries(&file(&till)), 0);
    till.stop();
}

/// A message that was in flight when the app was killed is redelivered when the app is back,
/// however late.
#[test]
fn down_time_does_not_age_the_inbox() {
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

/// More entries than are deleted in one step.
#[test]
fn entries_from_a_clock_that_was_ahead_do_not_stay_longer() {
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
fn only_the_owner_can_read_a_store() {
    use std::os::unix::fs::PermissionsExt;
    let till = app();
    let mode = std::fs::metadata(file(&till))
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    till.stop();
}
