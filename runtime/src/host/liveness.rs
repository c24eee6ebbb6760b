//! What can be seen of one life of a service: what has started, what consumes.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

/// Written by the service's parts and read by anyone.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// How many instances it is to have now.
    pub(crate) wanted: AtomicUsize,
    /// Instances that have started and can take messages.
    pub(crate) ready: AtomicUsize,
    /// Instances whose first start has ended, well or not.
    tried: watch::Sender<usize>,
    /// Instances that may still have something in hand.
    working: watch::Sender<usize>,
    /// Bridges that consume now.
    pub(crate) consuming: watch::Sender<usize>,
    /// A source that has come to its end.
    pub(crate) ended: watch::Sender<bool>,
    /// A source that another process runs.
    pub(crate) standing_by: AtomicBool,
}

impl Liveness {
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted: AtomicUsize::new(wanted),
            ready: AtomicUsize::new(0),
            tried: watch::Sender::new(0),
            working: watch::Sender::new(0),
            consuming: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            standing_by: AtomicBool::new(false),
        }
    }

    pub(crate) fn first_start_ended(&self) {
        self.tried.send_modify(|tried| *tried += 1);
    }

    /// Waits until so many instances have been started once, well or not.
    pub(crate) async fn started(&self, instances: usize) {
        let mut tried = self.tried.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = tried.wait_for(|tried| *tried >= instances).await;
    }

    /// An instance begins to work; it works until what is returned is dropped.
    pub(crate) fn work(&self) -> BusyGuard<'_> {
        self.working.send_modify(|working| *working += 1);
        BusyGuard(self)
    }

    /// Waits until no instance has anything in hand any more.
    pub(crate) async fn drained(&self) {
        let mut working = self.working.subscribe();
        // The sender is `self`: it can't be gone.
        let _open = working.wait_for(|working| *working == 0).await;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) > 0
    }
}

/// An instance works as long as this lives.
pub(crate) struct BusyGuard<'a>(&'a Liveness);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.working.send_modify(|working| *working -= 1);
    }
}
