//! Reads the letters of a dead-letter queue, page by page.
//!
//! A dead-letter queue is the end of the line: the broker drops a letter that was requeued more
//! often than the queue's delivery limit allows, and a policy can set a limit lower than ours. It
//! counts every way to give a letter back: a nack, a closed channel, a lost connection. So no
//! letter is given back. A letter that stays is published again, as a copy at the end of the queue
//! with a count of 0, and acked after the confirm.
//!
//! - A process that dies before the confirm leaves the letter with a count that is one higher, and
//!   perhaps its copy, which has the same id.
//! - Only the letters of a page are in flight, and never a copy.
//! - An ack is confirmed. A channel that the broker has closed, since letters were unacked for too
//!   long, confirms nothing.

use std::sync::Arc;

use brickwork::transport::{Completion, LetterReader, TransportError};
use brickwork::{Message, QueueId};
use futures_util::future::BoxFuture;
use lapin::Channel;
use lapin::message::Delivery;
use tokio::runtime::Handle;

use super::codec;
use super::declarer::refusal;
use super::page::{ack_page, take_page};
use super::publisher::Publication;
use super::routing::Queue;
use super::session::Session;
use super::source_queue::SourceQueue;

/// Letters of the first page. The next ones are larger, as far as the size of letters allows.
const FIRST_PAGE: usize = 8;

/// Reads one dead-letter queue over one session.
pub(super) struct QueueLetters {
    session: Arc<Session>,
    handle: Handle,
    queue: Arc<Queue>,
    /// Delivery tags are valid on this channel only. `None` after an error.
    channel: Option<Channel>,
    page: Vec<Delivery>,
    page_max: usize,
    /// Size of the largest letter so far, in bytes.
    largest: usize,
}

impl QueueLetters {
    /// Opens a channel for the reader.
    ///
    /// # Errors
    /// The queue isn't in the topology, or the session has ended.
    pub(super) async fn open(
        session: Arc<Session>,
        queue: &QueueId,
        handle: Handle,
    ) -> Result<Self, TransportError> {
        let queue = session.router.queue(queue)?;
        let opened = session.channel().await;
        let channel = opened.map_err(|error| TransportError::Lost(error.to_string()))?;
        Ok(Self {
            session,
            handle,
            queue,
            channel: Some(channel),
            page: Vec::new(),
            page_max: FIRST_PAGE,
            largest: 0,
        })
    }

    /// Takes the channel: an operation that succeeds puts it back.
    fn channel(&mut self) -> Result<Channel, TransportError> {
        let closed = || TransportError::Lost("the channel of the dead letters is closed".into());
        self.channel.take().ok_or_else(closed)
    }

    /// Runs a future on the transport's thread.
    async fn run<T: Send + 'static>(
        handle: &Handle,
        work: impl Future<Output = Result<T, TransportError>> + Send + 'static,
    ) -> Result<T, TransportError> {
        let done = handle.spawn(work).await;
        done.unwrap_or(Err(TransportError::Closed))
    }

    fn decode(&self, delivery: &Delivery) -> Message {
        let routing = self.session.router.routing_table();
        let service = &self.queue.id.service;
        let queues: Vec<SourceQueue> = routing
            .queues
            .values()
            .filter(|queue| queue.id.service == *service)
            .map(|queue| SourceQueue::app_queue(queue.clone()))
            .collect();
        let death = codec::last_death(&delivery.properties);
        let topic_source = death.as_ref().and_then(|death| {
            let mut queues = queues.iter();
            let source = queues.find(|source| source.name.as_str() == &*death.queue)?;
            Some(source.topic_source(&death.exchange, &death.key))
        });
        codec::decode_letter(
            self.queue.name.as_str(),
            service,
            &delivery.properties,
            delivery.data.clone(),
            (death.as_ref(), topic_source),
        )
    }

    /// Returns the publication that puts a letter at the end of its queue.
    fn copy_of(&self, delivery: Delivery) -> Publication {
        Publication {
            exchange: "".into(),
            key: self.queue.name.clone(),
            properties: codec::copy_of_letter(&delivery.properties),
            payload: delivery.data.into(),
            mandatory: true,
        }
    }
}

impl LetterReader for QueueLetters {
    fn take(
        &mut self,
        max: usize,
        max_bytes: usize,
    ) -> BoxFuture<'_, Result<Vec<Message>, TransportError>> {
        Box::pin(async move {
            let (channel, queue) = (self.channel()?, self.queue.clone());
            let fitting = max_bytes / self.largest.max(1);
            let count = max.min(self.page_max).min(fitting).max(1);
            let count = u16::try_from(count).unwrap_or(u16::MAX);
            let fetching = async move {
                match take_page(&channel, &queue.name, count).await {
                    Ok(page) => Ok((channel, page)),
                    Err(error) => Err(match refusal(&error) {
                        Some((404, _)) => TransportError::NoQueue(queue.id.clone()),
                        _ => TransportError::Lost(error.to_string()),
                    }),
                }
            };
            let (channel, page) = Self::run(&self.handle, fetching).await?;
            self.channel = Some(channel);
            let bytes = page.iter().map(|delivery| delivery.data.len());
            self.largest = bytes.fold(self.largest, usize::max);
            self.page_max = 2 * usize::from(count).max(FIRST_PAGE);
            self.page = page;
            Ok(self.page.iter().map(|it| self.decode(it)).collect())
        })
    }

    fn settle<'a>(&'a mut self, remove: &'a [bool]) -> BoxFuture<'a, Result<(), TransportError>> {
        Box::pin(async move {
            let page = std::mem::take(&mut self.page);
            let Some(last) = page.last().map(|delivery| delivery.delivery_tag) else {
                return Ok(());
            };
            let channel = self.channel()?;
            let kept: Vec<Publication> = page
                .into_iter()
                .zip(remove)
                .filter(|(_, remove)| !**remove)
                .map(|(delivery, _)| self.copy_of(delivery))
                .collect();
            if !kept.is_empty() {
                let (done, stored) = Completion::channel();
                self.session.router.publisher.publish(kept, done);
                stored.await?;
            }
            let acking = async move {
                let acked = ack_page(&channel, last).await;
                acked.map_err(|error| TransportError::Lost(error.to_string()))?;
                Ok(channel)
            };
            self.channel = Some(Self::run(&self.handle, acking).await?);
            Ok(())
        })
    }

    fn rotates(&self) -> bool {
        true
    }

    fn finish(&mut self) -> BoxFuture<'_, Result<(), TransportError>> {
        Box::pin(async move {
            let channel = self.channel()?;
            let closing = async move {
                let closed = channel.close(200, "done".into()).await;
                closed.map_err(|error| TransportError::Lost(error.to_string()))
            };
            Self::run(&self.handle, closing).await
        })
    }
}
