//! A piece of work at the workbench, and what comes of it, as plain data: so that another
//! process can ask the one that has the letters, and both do the same.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::{
    Bounds, DeadLetters, Destination, DlqStats, Groups, LetterView, Outcome, RemoveOptions,
    Selection,
};
use crate::transport::TransportError;

/// A piece of work, on the letters of one service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Task {
    DlqStats {
        service: String,
        bounds: Bounds,
    },
    Groups {
        service: String,
        bounds: Bounds,
    },
    Find {
        service: String,
        selection: Selection,
        limit: usize,
        payload_bytes_max: usize,
        bounds: Bounds,
    },
    Replay {
        service: String,
        to: Destination,
        removal: RemoveOptions,
    },
    Discard {
        service: String,
        removal: RemoveOptions,
    },
}

/// What came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Report {
    DlqStats(DlqStats),
    Groups(Groups),
    Found(Views),
    Removed(Outcome),
}

/// Letters that were looked at.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Views {
    /// In the queue's order. They may be many: what sends a report sends them apart.
    #[serde(skip)]
    pub(crate) letters: VecDeque<LetterView>,
    /// Whether there may be more of them.
    pub(crate) more: bool,
}

impl Task {
    /// Whether it changes something, and so is to be stopped in order.
    pub(crate) fn removes(&self) -> bool {
        matches!(self, Self::Replay { .. } | Self::Discard { .. })
    }
}

impl DeadLetters {
    /// Does a piece of work. When `stop` resolves, one that removes letters ends early, in
    /// order; the others need no order, and can be dropped.
    pub(crate) async fn perform(
        &self,
        task: &Task,
        stop: impl Future<Output = ()>,
    ) -> Result<Report, TransportError> {
        Ok(match task {
            Task::DlqStats { service, bounds } => {
                Report::DlqStats(self.census(service, *bounds).await?)
            }
            Task::Groups { service, bounds } => {
                Report::Groups(self.groups(service, *bounds).await?)
            }
            Task::Find {
                service,
                selection,
                limit,
                payload_bytes_max,
                bounds,
            } => {
                let found = self.find(service, selection, *limit, *bounds).await?;
                let mut letters = VecDeque::with_capacity(found.letters.len());
                for letter in found.letters {
                    // Large ones take their time, and others want the thread, too.
                    tokio::task::consume_budget().await;
                    letters.push_back(self.view(service, &letter, *payload_bytes_max));
                }
                Report::Found(Views {
                    letters,
                    more: found.more,
                })
            }
            Task::Replay {
                service,
                to,
                removal,
            } => Report::Removed(self.replay(service, to, removal, stop).await?),
            Task::Discard { service, removal } => {
                Report::Removed(self.discard(service, removal, stop).await?)
            }
        })
    }
}
