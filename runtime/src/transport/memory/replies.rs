//! Askers who wait for a reply, in memory.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::{Context, Poll};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::delivery::Reply;
use crate::id::MessageId;
use crate::message::{Envelope, Message};
use crate::transport::{AskError, TransportError};

/// Who waits for which reply.
#[derive(Default)]
pub(super) struct Replies {
    waiting: Mutex<HashMap<MessageId, oneshot::Sender<Result<Message, String>>>>,
    late: AtomicU64,
}

impl Replies {
    /// # Errors
    /// A request with this id, which its asker chose, waits already.
    pub(super) fn expect(self: &Arc<Self>, request: &Message) -> Result<Waiting, AskError> {
        let (sender, receiver) = oneshot::channel();
        match self.waiting.lock().entry(request.id.clone()) {
            Entry::Vacant(free) => free.insert(sender),
            Entry::Occupied(_) => {
                let text = format!("another request {} waits for its reply", request.id);
                return Err(AskError::Failed(text));
            }
        };
        Ok(Waiting {
            id: request.id.clone(),
            receiver,
            replies: self.clone(),
        })
    }

    pub(super) fn answer(&self, request: &Message, reply: Reply) {
        let waiting = self.waiting.lock().remove(&request.id);
        let reply = reply.map(|payload| {
            let mut envelope = Envelope::new("reply", payload);
            envelope.parent = Some(request.id.clone());
            envelope.into()
        });
        match waiting.map(|asker| asker.send(reply)) {
            Some(Ok(())) => {}
            None | Some(Err(_)) => {
                self.late.fetch_add(1, Relaxed);
            }
        }
    }

    /// Tells everyone who waits that no reply will come.
    pub(super) fn close(&self) {
        // They learn by the drop.
        self.waiting.lock().clear();
    }

    pub(super) fn late(&self) -> u64 {
        self.late.load(Relaxed)
    }
}

/// An asker's wait; dropping it ends it.
pub(super) struct Waiting {
    id: MessageId,
    receiver: oneshot::Receiver<Result<Message, String>>,
    replies: Arc<Replies>,
}

impl Future for Waiting {
    type Output = Result<Message, AskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver)
            .poll(cx)
            .map(|reply| match reply {
                Ok(reply) => reply.map_err(AskError::Failed),
                Err(_) => Err(TransportError::Closed.into()),
            })
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.replies.waiting.lock().remove(&self.id);
    }
}
