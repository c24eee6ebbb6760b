//! Ownership of stores, and the limits of the outbox.

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

fn open_error(opened: Result<super::OpenStore, Failure>) -> String {
    match opened {
        Ok(_) => panic!("the store is opened"),
        Err(failure) => failure.text().to_owned(),
    }
}

#[tokio::test]
async fn a_store_is_opened_once_at_a_time() {
    let folder = TempDir::new().unwrap();
    let first = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    let again = open_error(stores(&folder, "shop").open("till", STEPS).await);
    let us = format!("process {}", std::process::id());
    assert!(
        again.contains(&us) && again.contains("till.sqlite"),
        "{again}"
    );
    drop(first);
    stores(&folder, "shop").open("till", STEPS).await.unwrap();
}

/// Another app may get the same data folder, and another service the same file.
#[tokio::test]
async fn a_store_is_opened_only_for_its_own_service_and_app() {
    let folder = TempDir::new().unwrap();
    let first = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    first.database.close().await;
    drop(first);
    let other = open_error(stores(&folder, "bank").open("till", STEPS).await);
    for part in [
        "till.sqlite",
        "the service till of the app shop",
        "of the app bank",
    ] {
        assert!(other.contains(part), "{part}: {other}");
    }
    let files = folder.path().join("stores");
    std::fs::copy(files.join("till.sqlite"), files.join("stock.sqlite")).unwrap();
    let other = open_error(stores(&folder, "shop").open("stock", STEPS).await);
    assert!(
        other.contains("the service till of the app shop"),
        "{other}"
    );
}

#[tokio::test]
async fn sql_can_not_open_the_store_of_another_service() {
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
    let text = attach.expect_err("ATTACH is refused").text().to_owned();
    assert!(text.contains("attached"), "{text}");
}

/// Adds messages to the outbox and returns their numbers.
async fn emit(opened: &super::OpenStore, count: usize) -> Vec<i64> {
    let emits = opened.database.write("till", move |tx| {
        let message = Message::from(Envelope::new("paid", "1"));
        let rows = (0..count).map(|_| Row::insert(tx, "out", &message, None));
        rows.collect::<Result<Vec<Row>, SqliteError>>()
    });
    let rows = emits.await.unwrap();
    let numbers = rows.iter().map(|row| row.n).collect();
    opened.outbox.add_committed(rows);
    numbers
}

#[tokio::test]
async fn a_removal_is_counted_once_even_if_its_future_is_dropped() {
    let folder = TempDir::new().unwrap();
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    let numbers = emit(&till, 3).await;
    assert_eq!(till.outbox.waiting(), 3);
    drop(till.remove("till", numbers[..1].to_vec()));
    drop(till.refuse("till", numbers[1], "too large".to_owned()));
    // Jobs run in order. A second removal of the same message does not count.
    till.remove("till", numbers[..1].to_vec()).await.unwrap();
    let again = till.refuse("till", numbers[1], "too large".to_owned());
    again.await.unwrap();
    assert_eq!(till.outbox.waiting(), 1);
}

#[tokio::test]
async fn sources_pause_above_the_high_water_mark_and_a_full_outbox_defers_messages() {
    let folder = TempDir::new().unwrap();
    let pressure = std::sync::Arc::new(Backpressure::default());
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    till.outbox.connect("till", &pressure);
    let state = || (pressure.is_high(), till.outbox.is_full());
    let mut numbers = emit(&till, 10_000).await;
    assert_eq!(state(), (false, false));
    numbers.extend(emit(&till, 1).await);
    assert_eq!(state(), (true, false));
    numbers.extend(emit(&till, 10_000).await);
    assert_eq!(state(), (true, true));
    for (left, state_then) in [
        (10_001, (true, true)),
        (10_000, (true, false)),
        (5_001, (true, false)),
        (5_000, (false, false)),
    ] {
        let confirmed = numbers.split_off(left);
        till.remove("till", confirmed).await.unwrap();
        assert_eq!(state(), state_then, "{left} are left");
    }
    // Messages from before the opening count as well.
    emit(&till, 5_001).await;
    till.database.close().await;
    drop(till);
    assert!(
        !pressure.is_high(),
        "a closed outbox causes no backpressure"
    );
    let till = stores(&folder, "shop").open("till", STEPS).await.unwrap();
    till.outbox.connect("till", &pressure);
    assert!(pressure.is_high());
}
