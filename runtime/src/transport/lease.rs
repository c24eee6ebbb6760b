//! Leases: the right to be the only process that runs a source.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

/// The right to run a source that only one process runs at a time. Dropping it releases the
/// lease, or ends the wait for it.
#[derive(Debug)]
pub struct Lease {
    keeper: Option<oneshot::Receiver<()>>,
    lost: bool,
    released: Arc<watch::Sender<bool>>,
}

/// The transport's side of a [`Lease`]. Dropping it tells the holder that the lease is lost.
#[derive(Debug)]
pub struct LeaseKeeper {
    holder: oneshot::Sender<()>,
    released: watch::Receiver<bool>,
}

impl Lease {
    /// Creates a lease to wait for, and the transport's side of it.
    pub fn new() -> (Self, LeaseKeeper) {
        let (holder, keeper) = oneshot::channel();
        let lease = Self {
            keeper: Some(keeper),
            lost: false,
            released: Arc::default(),
        };
        let released = lease.released.subscribe();
        (lease, LeaseKeeper { holder, released })
    }

    /// Waits until the lease is lost. May be dropped and called again.
    pub async fn lost(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            self.lost = keeper.await.is_err();
            self.keeper = None;
        }
        if !self.lost {
            std::future::pending().await
        }
    }

    /// Returns a function that releases the lease for a holder that no longer can.
    pub fn release_handle(&self) -> impl FnOnce() + Send + 'static {
        let released = self.released.clone();
        move || {
            released.send_replace(true);
        }
    }
}

impl LeaseKeeper {
    /// Grants the lease for good: it is never lost.
    pub fn grant_for_good(self) {
        // The holder may be gone.
        let _gone = self.holder.send(());
    }

    /// Waits until the holder has released the lease.
    pub async fn released(&mut self) {
        tokio::select! {
            () = self.holder.closed() => {}
            // The sender is dropped with the lease: then the holder is gone, too.
            _ = self.released.wait_for(|released| *released) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn each_side_learns_that_the_other_side_is_gone() {
        let (mut lease, keeper) = Lease::new();
        assert_eq!(lease.lost().now_or_never(), None);
        drop(keeper);
        assert_eq!(lease.lost().now_or_never(), Some(()));
        assert_eq!(lease.lost().now_or_never(), Some(()));
        let (lease, mut keeper) = Lease::new();
        assert_eq!(keeper.released().now_or_never(), None);
        drop(lease);
        assert_eq!(keeper.released().now_or_never(), Some(()));
        let (lease, mut keeper) = Lease::new();
        lease.release_handle()();
        assert_eq!(keeper.released().now_or_never(), Some(()));
        let (mut lease, keeper) = Lease::new();
        keeper.grant_for_good();
        assert_eq!(lease.lost().now_or_never(), None);
        assert_eq!(lease.lost().now_or_never(), None);
    }
}
