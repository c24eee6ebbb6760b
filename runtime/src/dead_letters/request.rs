//! Requests for work on dead letters. The command line builds a request, the control socket
//! carries it to a running app, and [`DeadLetters::perform`] does it in either process.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Bounds, DeadLetters, Destination, DlqStats, Groups, LetterView, Outcome, RemoveOptions,
    Selection,
};
use crate::transport::TransportError;

/// Work on the dead letters of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct DlqRequest {
    pub(crate) service: String,
    pub(crate) action: DlqAction,
}

/// The kind of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DlqAction {
    /// [`DeadLetters::stats`]
    Stats(Bounds),
    /// [`DeadLetters::groups`]
    Groups(Bounds),
    /// [`DeadLetters::find`]
    Find {
        selection: Selection,
        limit: usize,
        payload_bytes_max: usize,
        bounds: Bounds,
    },
    /// [`DeadLetters::replay`]
    Replay {
        to: Destination,
        options: RemoveOptions,
    },
    /// [`DeadLetters::discard`]
    Discard(RemoveOptions),
}

/// The result of a request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DlqReport {
    Stats(DlqStats),
    Groups(Groups),
    Found(FoundViews),
    Removed(Outcome),
}

/// The result of [`DlqAction::Find`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct FoundViews {
    /// In the queue's order. The control socket sends them one by one, since they may be many.
    #[serde(skip)]
    pub(crate) letters: VecDeque<LetterView>,
    /// Whether there may be more letters.
    pub(crate) more: bool,
}

impl DlqRequest {
    pub(crate) fn new(service: &str, action: DlqAction) -> Self {
        Self {
            service: service.to_owned(),
            action,
        }
    }

    /// Whether it removes letters. Such a request is stopped in order; others can be dropped.
    pub(crate) fn removes(&self) -> bool {
        use DlqAction::{Discard, Replay};
        matches!(self.action, Replay { .. } | Discard(_))
    }
}

impl DeadLetters {
    /// Does the work of a request. When `stop` resolves, a request that removes letters ends
    /// early, in order.
    pub(crate) async fn perform(
        &self,
        request: &DlqRequest,
        stop: impl Future<Output = ()>,
    ) -> Result<DlqReport, TransportError> {
        let service = &request.service;
        Ok(match &request.action {
            DlqAction::Stats(bounds) => DlqReport::Stats(self.stats(service, *bounds).await?),
            DlqAction::Groups(bounds) => DlqReport::Groups(self.groups(service, *bounds).await?),
            DlqAction::Find {
                selection,
                limit,
                payload_bytes_max,
                bounds,
            } => {
                let found = self.find(service, selection, *limit, *bounds).await?;
                let mut letters = VecDeque::with_capacity(found.letters.len());
                for letter in found.letters {
                    // Large letters take time, and other tasks need the thread, too.
                    tokio::task::consume_budget().await;
                    letters.push_back(self.view(service, &letter, *payload_bytes_max));
                }
                let more = found.more;
                DlqReport::Found(FoundViews { letters, more })
            }
            DlqAction::Replay { to, options } => {
                DlqReport::Removed(self.replay(service, to, options, stop).await?)
            }
            DlqAction::Discard(options) => {
                DlqReport::Removed(self.discard(service, options, stop).await?)
            }
        })
    }
}
