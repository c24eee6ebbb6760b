//! Liveness of one run of a service: started instances and active consumers.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use tokio::sync::watch;

/// Written by the parts of the service, read from any thread.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// Number of instances that the service should have now.
    pub(crate) wanted: AtomicUsize,
    /// Started instances, which can take messages.
    pub(crate) ready: AtomicUsize,
    /// Instances whose first start has ended, with or without success.
    started: watch::Sender<usize>,
    /// Instances that may have messages in flight.
    busy: watch::Sender<usize>,
    /// Bridges with an active consumer.
    pub(crate) consuming: watch::Sender<usize>,
    /// The source has ended by itself.
    pub(crate) ended: watch::Sender<bool>,
    /// Another process runs the source.
    pub(crate) standing_by: AtomicBool,
}

impl Liveness {
    pub(crate) fn new(wanted: usize) -> Self {
        Self {
            wanted: AtomicUsize::new(wanted),
            ready: AtomicUsize::new(0),
            started: watch::Sender::new(0),
            busy: watch::Sender::new(0),
            consuming: watch::Sender::new(0),
            ended: watch::Sender::new(false),
            standing_by: AtomicBool::new(false),
        }
    }

    pub(crate) fn first_start_ended(&self) {
        self.started.send_modify(|started| *started += 1);
    }

    /// Resolves when the first start of this many instances has ended.
    pub(crate) async fn first_starts_ended(&self, instances: usize) {
        let mut started = self.started.subscribe();
        // Never an error: `self` owns the sender.
        let _open = started.wait_for(|started| *started >= instances).await;
    }

    /// Marks an instance as busy until the returned guard is dropped.
    pub(crate) fn work(&self) -> BusyGuard<'_> {
        self.busy.send_modify(|busy| *busy += 1);
        BusyGuard(self)
    }

    /// Resolves when no instance is busy.
    pub(crate) async fn drained(&self) {
        let mut busy = self.busy.subscribe();
        // Never an error: `self` owns the sender.
        let _open = busy.wait_for(|busy| *busy == 0).await;
    }

    /// Resolves when an instance has begun its start, or the source has begun to run.
    pub(crate) async fn begun(&self) {
        let mut busy = self.busy.subscribe();
        // Never an error: `self` owns the sender.
        let _open = busy.wait_for(|busy| *busy > 0).await;
    }

    /// Resolves when the source has ended by itself.
    pub(crate) async fn ended(&self) {
        let mut ended = self.ended.subscribe();
        // Never an error: `self` owns the sender.
        let _open = ended.wait_for(|ended| *ended).await;
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Relaxed) > 0
    }
}

/// Marks an instance as busy.
pub(crate) struct BusyGuard<'a>(&'a Liveness);

impl Drop for BusyGuard<'_> {
    fn drop(&mut self) {
        self.0.busy.send_modify(|busy| *busy -= 1);
    }
}
