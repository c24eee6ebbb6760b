//! Pending requests of one process.

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
use crate::message::{Envelope, Message, ReplyTo};
use crate::transport::{AskError, TransportError};

/// The requests that wait for a reply.
pub struct Replies {
    /// The reply address of this process. Requests of an earlier process have another one.
    address: Arc<str>,
    waiting: Mutex<HashMap<MessageId, oneshot::Sender<Result<Message, String>>>>,
    late: AtomicU64,
}

impl Replies {
    /// Creates an empty set. Requests get this reply address. If requests outlive the process, the
    /// address must differ in each process.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self {
            address: address.into(),
            waiting: Mutex::default(),
            late: AtomicU64::default(),
        }
    }

    /// Returns the request with its reply address, and the wait for the reply.
    ///
    /// # Errors
    /// Another request with the same id waits already.
    pub fn expect(self: &Arc<Self>, request: Message) -> Result<(Message, Waiting), AskError> {
        let mut request = request.edit();
        request.reply_to = Some(ReplyTo {
            address: self.address.clone(),
            correlation: None,
        });
        let request = Message::from(request);
        let (sender, receiver) = oneshot::channel();
        match self.waiting.lock().entry(request.id.clone()) {
            Entry::Vacant(free) => free.insert(sender),
            Entry::Occupied(_) => {
                let text = format!("another request {} waits for its reply", request.id);
                return Err(AskError::Failed(text));
            }
        };
        let waiting = Waiting {
            id: request.id.clone(),
            receiver,
            replies: self.clone(),
        };
        Ok((request, waiting))
    }

    /// Sends a reply to the asker of this request, if the asker still waits.
    pub fn answer(&self, request: &Message, reply: Reply) {
        let Some(reply_to) = &request.reply_to else {
            return;
        };
        let ours = reply_to.address == self.address;
        let reply = reply.map(|payload| {
            let mut envelope = Envelope::new("reply", payload);
            envelope.parent = Some(request.id.clone());
            envelope.into()
        });
        self.deliver(ours.then_some(&request.id), reply);
    }

    /// Delivers a reply to the asker of the request with this id, if the asker still waits.
    pub fn deliver(&self, request: Option<&MessageId>, reply: Result<Message, String>) {
        let asker = request.and_then(|id| self.waiting.lock().remove(id));
        match asker.map(|asker| asker.send(reply)) {
            Some(Ok(())) => {}
            None | Some(Err(_)) => {
                self.late.fetch_add(1, Relaxed);
            }
        }
    }

    /// Ends every wait without a reply.
    pub fn close(&self) {
        // Each wait ends when its sender is dropped.
        self.waiting.lock().clear();
    }

    /// Returns the number of replies whose askers had stopped waiting.
    pub fn late(&self) -> u64 {
        self.late.load(Relaxed)
    }
}

/// A wait for a reply. Dropping it ends the wait.
pub struct Waiting {
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
