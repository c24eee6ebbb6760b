//! Selects letters of a service.

use serde::{Deserialize, Serialize};

use super::Letter;
use crate::dead_letter::Reason;
use crate::id::MessageId;

/// Some of the letters of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Selection {
    /// All letters.
    All,
    /// The letters of these messages. A message that two inputs gave up has two letters.
    #[serde(with = "ids")]
    Ids(Vec<MessageId>),
    /// The letters with this reason.
    Reason(Reason),
    /// The letters of the group with this [fingerprint](Letter::fingerprint).
    Group(String),
}

impl Selection {
    /// Whether a letter of this service is selected.
    pub fn covers(&self, service: &str, letter: &Letter) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => ids.contains(&letter.message.id),
            Self::Reason(reason) => {
                let record = letter.dead_letter.as_ref();
                record.is_some_and(|record| record.reason == *reason)
            }
            Self::Group(group) => letter.fingerprint(service) == *group,
        }
    }
}

/// Message ids as strings.
mod ids {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::id::MessageId;

    pub(super) fn serialize<S: Serializer>(ids: &[MessageId], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(ids.iter().map(ToString::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<MessageId>, D::Error> {
        let texts = Vec::<String>::deserialize(from)?;
        let ids = texts.iter().map(|text| text.parse().map_err(Error::custom));
        ids.collect()
    }
}
