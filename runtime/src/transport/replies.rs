//! Askers who wait for a reply within this process: for transports that it doesn't share.

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

/// Who waits for which reply.
pub struct Replies {
    /// Where its askers are: what a former process asked is nobody's any more.
    address: Arc<str>,
    waiting: Mutex<HashMap<MessageId, oneshot::Sender<Result<Message, String>>>>,
    late: AtomicU64,
}

impl Replies {
    /// Nobody waits yet. The address is put on requests; it is another one in each process
    /// if requests outlive it.
    pub fn new(address: impl Into<Arc<str>>) -> Self {
        Self {
            address: address.into(),
            waiting: Mutex::default(),
            late: AtomicU64::default(),
        }
    }

    /// The request as it is to be published, and the wait for its reply.
    ///
    /// # Errors
    /// A request with this id, which its asker chose, waits already.
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

    /// Answers whoever asked this, if anybody did and still waits.
    pub fn answer(&self, request: &Message, reply: Reply) {
        let Some(reply_to) = &request.reply_to else {
            return;
        };
        let ours = reply_to.address == self.address;
        let waiting = ours.then(|| self.waiting.lock().remove(&request.id));
        let waiting = waiting.flatten();
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
    pub fn close(&self) {
        // They learn by the drop.
        self.waiting.lock().clear();
    }

    /// How many replies came for askers that had stopped waiting.
    pub fn late(&self) -> u64 {
        self.late.load(Relaxed)
    }
}

/// An asker's wait; dropping it ends it.
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
