//! The store in a build without the feature `store`: no store can be opened.

use std::path::Path;
use std::sync::Arc;

use crate::failure::Failure;
use crate::metrics::SharedCounter;
use crate::sqlite::Migration;
use crate::transport::Backpressure;

/// The stores of an app's services: none.
pub(crate) struct Stores;

impl Stores {
    pub(crate) fn new(_: Arc<str>, _: &Path) -> Arc<Self> {
        Arc::new(Self)
    }

    /// # Errors
    /// Always: this build has no stores.
    pub(crate) async fn open(
        &self,
        _: &str,
        _: &'static [Migration],
    ) -> Result<OpenStore, Failure> {
        Err(Failure::reject(
            "this program was built without the feature `store` of brickwork",
        ))
    }
}

/// An open store, which does not exist.
pub(crate) struct OpenStore {
    pub(crate) database: Database,
    pub(crate) outbox: Outbox,
    pub(crate) repeated: SharedCounter,
}

pub(crate) enum Database {}

impl Database {
    pub(crate) fn path(&self) -> &Path {
        match *self {}
    }

    pub(crate) async fn close(&self) {
        match *self {}
    }
}

pub(crate) enum Outbox {}

impl Outbox {
    pub(crate) fn connect(&self, _: &str, _: &Arc<Backpressure>) {
        match *self {}
    }

    pub(crate) fn waiting(&self) -> u64 {
        match *self {}
    }
}
