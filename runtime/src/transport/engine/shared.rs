//! Parts that all queues of an engine use.

use std::sync::Arc;

use super::delays::Delays;
use super::journal::Journal;
use crate::transport::Replies;

/// See the module.
pub(super) struct Shared {
    /// `None` for queues that live in memory only.
    pub(super) journal: Option<Arc<dyn Journal>>,
    pub(super) delays: Arc<Delays>,
    pub(super) replies: Arc<Replies>,
}
