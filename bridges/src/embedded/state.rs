//! Parts of one transport.

use std::sync::Arc;

use brickwork::Lock;
use brickwork::transport::engine::Engine;
use parking_lot::Mutex;

use super::exclusive_trial::ExclusiveMode;
use super::in_flight_log::InFlightLog;
use super::journal::Journal;

/// Parts of one transport.
pub(super) struct TransportState {
    pub(super) engine: Arc<Engine>,
    pub(super) journal: Arc<Journal>,
    pub(super) in_flight_log: Arc<InFlightLog>,
    pub(super) exclusive: Arc<ExclusiveMode>,
    /// Lock on the folder, held while the file is open.
    pub(super) lock: Mutex<Option<Lock>>,
}
