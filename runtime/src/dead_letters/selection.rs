//! Which letters are meant.

use super::Letter;
use crate::dead_letter::Reason;
use crate::id::MessageId;

/// A choice among the letters of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those of these messages. A message that two inputs gave up has two letters.
    Ids(Vec<MessageId>),
    /// Those that were given up for this reason.
    Reason(Reason),
}

impl Selection {
    /// Whether it is one of them.
    pub fn covers(&self, letter: &Letter) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(&letter.message.id),
            Self::Reason(reason) => letter.why.as_ref().is_some_and(|why| why.reason == *reason),
        }
    }
}
