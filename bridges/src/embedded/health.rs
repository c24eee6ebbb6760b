//! Status of the transport, and backpressure while the journal refuses messages of sources.
//!
//! Sources wait while nothing can be written, and afterwards as long as disk space is low.

use std::sync::Arc;
use std::time::SystemTime;

use brickwork::transport::{Backpressure, OutageGauge, Status, TransportError};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::disk_space::SpaceLevel;

/// Status of one transport.
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

    /// Records that nothing can be written. The first reason of an outage is kept.
    pub(super) fn down(&self, why: &str) {
        let outage = self.outage.lock();
        let mut had_space = false;
        let changed = self.status.send_if_modified(|status| {
            let changed = status.down.is_none();
            if changed {
                had_space = status.scarce.take().is_none();
                status.down = Some(why.to_owned());
                status.since.get_or_insert_with(SystemTime::now);
            }
            changed
        });
        if changed && had_space {
            outage.set(true);
            warn!(error = why, "refusing messages until they can be written");
        }
    }

    /// Records that messages can be written, with this much space.
    pub(super) fn up(&self, space: SpaceLevel) {
        let outage = self.outage.lock();
        let changed = self.status.send_if_modified(|status| {
            let before = status.clone();
            let why = status.down.take();
            status.reconnects += u64::from(why.is_some());
            let why = why.or(status.scarce.take());
            match space {
                SpaceLevel::Low => status.scarce = why,
                SpaceLevel::Normal => status.since = None,
            }
            *status != before
        });
        match space {
            SpaceLevel::Normal if changed => {
                outage.set(false);
                info!("accepting messages again");
            }
            SpaceLevel::Low if changed => debug!("accepting messages of services again"),
            SpaceLevel::Normal | SpaceLevel::Low => {}
        }
    }

    /// Records that this side closed the transport.
    pub(super) fn ended(&self) {
        self.status.send_modify(|status| status.ended = true);
    }

    /// Returns the reason why nothing can be written, during an outage.
    pub(super) fn error(&self) -> Option<TransportError> {
        self.status
            .borrow()
            .down
            .as_ref()
            .map(|why| TransportError::Lost(why.clone()))
    }
}
