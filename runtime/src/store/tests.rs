//! Who may open which store.

use tempfile::TempDir;

use super::Stores;
use crate::failure::Failure;
use crate::sqlite::Migration;

const STEPS: &[Migration] = &[Migration::new("t", "CREATE TABLE t (a INTEGER) STRICT")];

fn stores(folder: &TempDir, app: &str) -> std::sync::Arc<Stores> {
    Stores::new(app.into(), folder.path())
}

fn refused(opened: Result<super::Opened, Failure>) -> String {
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
