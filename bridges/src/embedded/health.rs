//! Whether the queues can be written: what everybody may know of that. While they can't,
//! sources wait; and also, when they can again, for as long as there is little room.

use std::sync::Arc;
use std::time::SystemTime;

use brickwork::transport::{Backpressure, OutageGauge, Status, TransportError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::disk_space::SpaceLevel;

pub(super) struct Health {
    status: watch::Sender<Status>,
    outage: Mutex<OutageGauge>,
}

impl Health {
    pub(super) fn new(pressure: &Arc<Backpressure>) -> Self {
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
        let mut was_plenty = false;
        // The first reason stays.
        let changed = self.status.send_if_modified(|status| {
            let changed = status.down.is_none();
            if changed {
                was_plenty = status.scarce.take().is_none();
                status.down = Some(why.to_owned());
                status.since.get_or_insert_with(SystemTime::now);
            }
            changed
        });
        if changed && was_plenty {
            outage.set(true);
            warn!(
                error = why,
                "messages can't be taken over, trying again until they can"
            );
        }
    }

    /// It works again, with so much room.
    pub(super) fn up(&self, room: SpaceLevel) {
        let outage = self.outage.lock();
        let changed = self.status.send_if_modified(|status| {
            let before = status.clone();
            let why = status.down.take();
            status.reconnects += u64::from(why.is_some());
            let why = why.or(status.scarce.take());
            match room {
                SpaceLevel::Scarce => status.scarce = why,
                SpaceLevel::Plenty => status.since = None,
            }
            *status != before
        });
        match room {
            SpaceLevel::Plenty if changed => {
                outage.set(false);
                info!("messages are taken over again");
            }
            SpaceLevel::Scarce if changed => debug!("what services publish is taken over again"),
            SpaceLevel::Plenty | SpaceLevel::Scarce => {}
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
