//! A lease: the right to be the only one, for as long as the transport says so.

use tokio::sync::oneshot;

/// The right to run what one process at a time runs. Dropping it lets it go.
#[derive(Debug)]
pub struct Lease {
    /// `None` if it is for good, or was lost.
    keeper: Option<oneshot::Receiver<()>>,
    lost: bool,
}

/// The transport's side of a [`Lease`]. Dropping it says that the lease is lost.
#[derive(Debug)]
pub struct LeaseKeeper(oneshot::Sender<()>);

impl Lease {
    /// One that is never lost.
    pub fn for_good() -> Self {
        Self {
            keeper: None,
            lost: false,
        }
    }

    /// One that is lost when the other half is dropped.
    pub fn new() -> (Self, LeaseKeeper) {
        let (keeper, lost) = oneshot::channel();
        let lease = Self {
            keeper: Some(lost),
            lost: false,
        };
        (lease, LeaseKeeper(keeper))
    }

    /// Resolves when it is lost. May be dropped and called again.
    pub async fn lost(&mut self) {
        match &mut self.keeper {
            Some(keeper) => {
                // Nothing is ever sent.
                let _gone = keeper.await;
                self.keeper = None;
                self.lost = true;
            }
            None if self.lost => {}
            None => std::future::pending().await,
        }
    }
}

impl LeaseKeeper {
    /// Resolves when the holder has let it go.
    pub async fn let_go(&mut self) {
        self.0.closed().await;
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
        assert_eq!(Lease::for_good().lost().now_or_never(), None);
    }
}
