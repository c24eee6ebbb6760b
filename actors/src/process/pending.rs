//! A message that a child handles: waits for the outcome, and serves the child's requests
//! meanwhile.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::child::{Outcome, Sent};
use super::protocol::Ask;

/// A message that was sent to a child. Dropping it before the outcome means that the
/// handler's time is over: the child hangs, and is killed.
pub(super) struct PendingMessage(Sent);

impl From<Sent> for PendingMessage {
    fn from(sent: Sent) -> Self {
        Self(sent)
    }
}

impl PendingMessage {
    /// Waits for the outcome, and passes the replies of `serve` on to the child.
    ///
    /// After `patience`, a child with several messages in flight is killed: it hangs, and it
    /// is unknown on which message. A message that is alone in flight may use all the time of
    /// its handler.
    pub(super) async fn outcome(
        mut self,
        patience: Duration,
        serve: impl AsyncFn(Ask) -> Result<Vec<u8>, String>,
    ) -> Outcome {
        let outcome = match self.0.asks.take() {
            Some(asks) => self.outcome_with_asks(patience, asks, serve).await,
            None => match timeout(patience, &mut self.0.outcome).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    self.0.child.kill_if_several_in_flight();
                    (&mut self.0.outcome).await
                }
            },
        };
        outcome.expect("a sender is dropped only after it has sent")
    }

    async fn outcome_with_asks(
        &mut self,
        patience: Duration,
        mut asks: mpsc::Receiver<Ask>,
        serve: impl AsyncFn(Ask) -> Result<Vec<u8>, String>,
    ) -> Result<Outcome, oneshot::error::RecvError> {
        let Sent {
            child, id, outcome, ..
        } = &mut self.0;
        let served = async |ask: Ask| {
            let name = ask.id.clone();
            let reply = serve(ask).await;
            child.reply(id, &name, &reply).await;
        };
        let mut serving = FuturesUnordered::new();
        let mut patience = std::pin::pin!(sleep(patience));
        let mut patient = true;
        loop {
            tokio::select! {
                biased;
                outcome = &mut *outcome => return outcome,
                () = &mut patience, if patient => {
                    patient = false;
                    child.kill_if_several_in_flight();
                }
                Some(ask) = asks.recv() => serving.push(served(ask)),
                Some(()) = serving.next(), if !serving.is_empty() => {}
            }
        }
    }
}

impl Drop for PendingMessage {
    fn drop(&mut self) {
        self.0.child.give_up(&self.0.id);
    }
}
