//! Callers that wait until all earlier operations have ended. Operations have numbers.

use tokio::sync::oneshot;

/// The waiting callers of one task.
#[derive(Default)]
pub(super) struct Flushes(Vec<(u64, oneshot::Sender<()>)>);

impl Flushes {
    /// Adds a caller that waits for all operations with a number below `before`.
    pub(super) fn add(&mut self, before: u64, caller: oneshot::Sender<()>) {
        self.0.push((before, caller));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the callers whose operations have ended. `first_open` is the number of the oldest
    /// operation in progress.
    pub(super) fn take_done(&mut self, first_open: Option<u64>) -> Vec<oneshot::Sender<()>> {
        let done = |before: u64| first_open.is_none_or(|first| first >= before);
        let taken = self.0.extract_if(.., |(before, _)| done(*before));
        taken.map(|(_, caller)| caller).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_waits_for_earlier_operations_only() {
        let mut flushes = Flushes::default();
        for before in [1, 3, 5] {
            let (caller, _) = oneshot::channel();
            flushes.add(before, caller);
        }
        assert_eq!(flushes.take_done(Some(0)).len(), 0);
        assert_eq!(flushes.take_done(Some(3)).len(), 2);
        assert_eq!(flushes.take_done(None).len(), 1);
        assert!(flushes.is_empty());
    }
}
