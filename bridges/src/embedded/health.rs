//! Whether the queues can be written: what everybody may know of that. While they can't,
//! sources wait.

use std::sync::Arc;
use std::time::SystemTime;

use brickwork::transport::{Outage, Pressure, Status, TransportError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

pub(super) struct Health {
    status: watch::Sender<Status>,
    outage: Mutex<Outage>,
}

impl Health {
    pub(super) fn new(pressure: &Arc<Pressure>) -> Self {
        Self {
            status: watch::Sender::default(),
            outage: Mutex::new(pressure.outage()),
        }
    }

    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Nothing can be written, and why.
    pub(super) fn down(&self, why: &str) {
        let outage = self.outage.lock();
        // The first reason stays.
        let changed = self.status.send_if_modified(|status| {
            let changed = status.down.is_none();
            if changed {
                status.down = Some(why.to_owned());
                status.since = Some(SystemTime::now());
            }
            changed
        });
        if changed {
            outage.set(true);
            warn!(
                error = why,
                "messages can't be taken over, trying again until they can"
            );
        }
    }

    /// It works again.
    pub(super) fn up(&self) {
        let outage = self.outage.lock();
        let was_down = self.status.send_if_modified(|status| {
            let was_down = status.down.is_some();
            if was_down {
                *status = Status {
                    reconnects: status.reconnects + 1,
                    ..Status::default()
                };
            }
            was_down
        });
        if was_down {
            outage.set(false);
            info!("messages are taken over again");
        }
    }

    /// By this side, for good.
    pub(super) fn ended(&self) {
        self.status.send_modify(|status| status.ended = true);
    }

    /// Why nothing can be written, while that is so.
    pub(super) fn error(&self) -> Option<TransportError> {
        self.status
            .borrow()
            .down
            .as_ref()
            .map(|why| TransportError::Lost(why.clone()))
    }
}
