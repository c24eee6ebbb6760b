//! The relay in a build without the feature `store`: no service has an outbox.

use std::sync::Arc;

use actix::{Actor, Addr, Context};
use tokio::time::Instant;

use super::service_run::ServiceRun;
use crate::sqlite::Migration;

/// A relay that does nothing. It never starts: no service has a store.
pub(crate) struct Relay;

impl Relay {
    pub(crate) fn new(_: Arc<ServiceRun>, _: &'static [Migration]) -> Self {
        Self
    }
}

impl Actor for Relay {
    type Context = Context<Self>;
}

pub(super) async fn finish(_: &Addr<Relay>, _: Instant) {}
