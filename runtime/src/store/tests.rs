//! Who may open which store, and what is counted in it.

use tempfile::TempDir;

use super::{Row, Stores};
use crate::failure::Failure;
use crate::message::{Envelope, Message};
use crate::sqlite::{Migration, SqliteError};
use crate::transport::Backpressure;

const STEPS: &[Migration] = &[Migration::new("t", "CREATE TABLE t (a INTEGER) STRICT")];

fn stores(folder: &TempDir, app: &str) -> std::sync::Arc<Stores> {
    Stores::new(app.into(), folder.path())
}

fn refused(opened: Result<super::OpenStore, Failure>) -> String {
    match opened {
        Ok(_) => panic!("it is opened"),
        Err(failure) => failure.text().to_owned(),
    }
}

#[tokio::test]
async fn a_store_is_open_once() {
    let folder = TempDir::new().unwrap();
    let first = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    let again = refused(stores(&folder, "shop").open("till", STEPS).await);
    let us = format!("process {}", std::process::id());
    assert!(
        again.contains(&us) && again.contains("till.sqlite"),
        "{again}"
    );
    drop(first);
    stores(&folder, "shop").open("till", STEPS).await.unwrap();
}

/// Neither by another service, whose label got its file, nor by another app that was given
/// the same data folder.
#[tokio::test]
async fn a_store_is_opened_for_its_own_service_alone() {
    let folder = TempDir::new().unwrap();
    let first = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    first.database.close().await;
    drop(first);
    let other = refused(stores(&folder, "bank").open("till", STEPS).await);
    for part in [
        "till.sqlite",
        "the service till of the app shop",
        "of the app bank",
    ] {
        assert!(other.contains(part), "{part}: {other}");
    }
    let files = folder.path().join("stores");
    std::fs::copy(files.join("till.sqlite"), files.join("stock.sqlite")).unwrap();
    let other = refused(stores(&folder, "shop").open("stock", STEPS).await);
    assert!(
        other.contains("the service till of the app shop"),
        "{other}"
    );
}

/// A service can't come to another one's tables by SQL, either.
#[tokio::test]
async fn no_statement_opens_another_file() {
    let folder = TempDir::new().unwrap();
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    let stock = stores(&folder, "shop").open("stock", STEPS).await.unwrap();
    let path = stock.database.path().display().to_string();
    let attach = till
        .database
        .read("till", move |db| {
            db.execute("ATTACH ?1 AS other", [path])?;
            Ok::<_, Failure>(())
        })
        .await;
    let text = attach.expect_err("it is refused").text().to_owned();
    assert!(text.contains("attached"), "{text}");
}

/// Puts so many messages into the outbox; says their places.
async fn emit(opened: &super::OpenStore, count: usize) -> Vec<i64> {
    let emits = opened.database.write("till", move |tx| {
        let message = Message::from(Envelope::new("paid", "1"));
        let rows = (0..count).map(|_| Row::insert(tx, "out", &message, None));
        rows.collect::<Result<Vec<Row>, SqliteError>>()
    });
    let rows = emits.await.unwrap();
    let places = rows.iter().map(|row| row.n).collect();
    opened.outbox.committed(rows);
    places
}

/// The relay may have failed meanwhile, and begun anew.
#[tokio::test]
async fn what_leaves_an_outbox_is_no_longer_counted_although_nobody_waits_for_it() {
    let folder = TempDir::new().unwrap();
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    let places = emit(&till, 3).await;
    assert_eq!(till.outbox.waiting(), 3);
    drop(till.remove("till", places[..1].to_vec()));
    drop(till.refuse("till", places[1], "it can't be".to_owned()));
    // Jobs are done in their order; those that are gone aren't counted a second time.
    till.remove("till", places[..1].to_vec()).await.unwrap();
    let again = till.refuse("till", places[1], "it can't be".to_owned());
    again.await.unwrap();
    assert_eq!(till.outbox.waiting(), 1);
}

#[tokio::test]
async fn sources_wait_for_an_outbox_that_holds_much_and_a_full_one_takes_no_more() {
    let folder = TempDir::new().unwrap();
    let pressure = std::sync::Arc::new(Backpressure::default());
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    till.outbox.press(&pressure);
    let state = || (pressure.is_high(), till.outbox.is_full());
    let mut places = emit(&till, 10_000).await;
    assert_eq!(state(), (false, false));
    places.extend(emit(&till, 1).await);
    assert_eq!(state(), (true, false));
    places.extend(emit(&till, 10_000).await);
    assert_eq!(state(), (true, true));
    for (left, state_then) in [
        (10_001, (true, true)),
        (10_000, (true, false)),
        (5_001, (true, false)),
        (5_000, (false, false)),
    ] {
        let leaving = places.split_off(left);
        till.remove("till", leaving).await.unwrap();
        assert_eq!(state(), state_then, "{left} are left");
    }
    // What is in it when it is opened counts as well.
    emit(&till, 5_001).await;
    till.database.close().await;
    drop(till);
    assert!(!pressure.is_high(), "one that is closed presses nobody");
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    till.outbox.press(&pressure);
    assert!(pressure.is_high());
}
