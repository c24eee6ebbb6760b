//! A lease: the right to be the only one, for as long as the transport says so.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};

/// The right to run what one process at a time runs. Dropping it lets it go, also while it
/// is not granted yet.
#[derive(Debug)]
pub struct Lease {
    keeper: Option<oneshot::Receiver<()>>,
    lost: bool,
    let_go: Arc<watch::Sender<bool>>,
}

/// The transport's side of a [`Lease`]. Dropping it says that the lease is lost.
#[derive(Debug)]
pub struct LeaseKeeper {
    holder: oneshot::Sender<()>,
    let_go: watch::Receiver<bool>,
}

impl Lease {
    /// One to be asked for, and what a transport keeps of it.
    pub fn new() -> (Self, LeaseKeeper) {
        let (holder, keeper) = oneshot::channel();
        let lease = Self {
            keeper: Some(keeper),
            lost: false,
            let_go: Arc::default(),
        };
        let let_go = lease.let_go.subscribe();
        (lease, LeaseKeeper { holder, let_go })
    }

    /// Resolves when it is lost. May be dropped and called again.
    pub async fn lost(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            self.lost = keeper.await.is_err();
            self.keeper = None;
        }
        if !self.lost {
            std::future::pending().await
        }
    }

    /// Lets it go from elsewhere, when its holder can't any more.
    pub fn let_go_from_elsewhere(&self) -> impl FnOnce() + Send + 'static {
        let let_go = self.let_go.clone();
        move || {
            let_go.send_replace(true);
        }
    }
}

impl LeaseKeeper {
    /// It is never lost.
    pub fn for_good(self) {
        // Whoever asked may have gone.
        let _gone = self.holder.send(());
    }

    /// Resolves when the holder has let it go.
    pub async fn let_go(&mut self) {
        tokio::select! {
            () = self.holder.closed() => {}
            // Dropped with the lease: then the holder is gone, too.
            _ = self.let_go.wait_for(|let_go| *let_go) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn both_halves_learn_that_the_other_one_is_gone() {
        let (mut lease, keeper) = Lease::new();
        assert_eq!(lease.lost().now_or_never(), None);
        drop(keeper);
        assert_eq!(lease.lost().now_or_never(), Some(()));
        assert_eq!(lease.lost().now_or_never(), Some(()));
        let (lease, mut keeper) = Lease::new();
        assert_eq!(keeper.let_go().now_or_never(), None);
        drop(lease);
        assert_eq!(keeper.let_go().now_or_never(), Some(()));
        let (lease, mut keeper) = Lease::new();
        lease.let_go_from_elsewhere()();
        assert_eq!(keeper.let_go().now_or_never(), Some(()));
        let (mut lease, keeper) = Lease::new();
        keeper.for_good();
        assert_eq!(lease.lost().now_or_never(), None);
        assert_eq!(lease.lost().now_or_never(), None);
    }
}
