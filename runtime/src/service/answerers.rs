//! The services that answer requests in this process, for asks that need not wait.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};

/// A service that may answer requests.
pub(crate) trait Answerer: Send + Sync {
    /// Returns the reason why it can't handle a message now: it was given up, or its circuit
    /// breaker is open.
    fn unavailable(&self) -> Option<String>;
}

/// The services that read each topic.
pub(crate) type Readers = HashMap<Arc<str>, Vec<Weak<dyn Answerer>>>;

/// The readers of each topic. Filled in when all services of an app exist, and only if no other
/// process may read the topics.
#[derive(Default)]
pub(crate) struct Answerers(OnceLock<Readers>);

impl Answerers {
    pub(crate) fn set(&self, readers: Readers) {
        // Called once for each app.
        let _set_before = self.0.set(readers);
    }

    /// Returns the reason why no reader of a topic can answer; `None` if one can, or if that is
    /// not known.
    pub(super) fn unavailable(&self, topic: &str) -> Option<String> {
        let readers = self.0.get()?.get(topic)?.iter().filter_map(Weak::upgrade);
        let reasons: Option<Vec<String>> = readers.map(|reader| reader.unavailable()).collect();
        reasons
            .filter(|all| !all.is_empty())
            .map(|all| all.join("; "))
    }
}
