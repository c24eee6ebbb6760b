//! The files of stores: whose they are, and what is wrong with them.

use std::time::Duration;

use brickwork::sqlite::rusqlite::Connection;
use brickwork::testing::TestApp;

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

#[test]
fn the_inbox_forgets_what_is_too_old_to_come_again() {
    let till = TestApp::of::<Till>(NoConfig {});
    till.send(&PAYMENTS, Draft::new(pay(5)).id(id("order-1")));
    till.expect(&PAID);
    let entries = || {
        let store = Connection::open(file(&till)).expect("a database");
        let count = "SELECT count(*) FROM brickwork_inbox";
        store
            .query_row(count, [], |row| row.get::<_, i64>(0))
            .expect("it counts")
    };
    till.advance(Duration::from_secs(6 * 24 * 3600));
    assert_eq!(entries(), 1);
    till.advance(Duration::from_secs(2 * 24 * 3600));
    assert_eq!(entries(), 0);
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
