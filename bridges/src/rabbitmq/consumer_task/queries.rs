//! Answers queries to a consumer task: its counts, and waiting for its settlements.

use brickwork::transport::TransportError;
use lapin::options::BasicQosOptions;
use tokio::sync::oneshot;
use tokio::time::sleep;

use super::super::consumer_query::{ConsumerQuery, Count};
use super::super::declarer::count_ready;
use super::{ConsumerTask, Event};

/// Maximum counts of a queue until two agree.
const COUNT_ATTEMPTS_MAX: u32 = 6;

impl ConsumerTask {
    pub(super) fn answer(&mut self, query: ConsumerQuery) {
        match query {
            ConsumerQuery::Flush(done) => {
                self.flushes.add(self.settling.next(), done);
                self.report_flushes();
            }
            ConsumerQuery::Count(answer) => self.count(None, COUNT_ATTEMPTS_MAX, answer),
        }
    }

    /// Counts on the channel of the deliveries. Between the broker's count and the reply a
    /// delivery may be neither ready nor buffered, so the count is repeated until two agree.
    fn count(
        &mut self,
        before: Option<Count>,
        attempts: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        let (channel, name) = (self.channel.clone(), self.settler.source.name.clone());
        self.work.push(Box::pin(async move {
            Event::Counted {
                ready: count_ready(&channel, name).await,
                before,
                attempts,
                answer,
            }
        }));
    }

    pub(super) fn counted(
        &mut self,
        ready: lapin::Result<u64>,
        before: Option<Count>,
        attempts: u32,
        answer: oneshot::Sender<Result<Count, TransportError>>,
    ) {
        self.buffer_ready();
        let (fetched, in_flight) = self.buffer.counts();
        let count = ready.map(|ready| Count {
            ready,
            fetched: (fetched + self.not_handed_out()) as u64,
            in_flight: in_flight as u64,
        });
        let _gone = match count {
            Ok(count) if before != Some(count) && attempts > 1 => {
                return self.count(Some(count), attempts - 1, answer);
            }
            Ok(count) => answer.send(Ok(count)),
            Err(error) => answer.send(Err(TransportError::Lost(error.to_string()))),
        };
    }

    /// Returns the number of deliveries that are neither buffered nor in flight.
    fn not_handed_out(&self) -> usize {
        self.moving_to_suspects + self.held.len() + self.to_requeue.len()
    }

    pub(super) fn report_flushes(&mut self) {
        if self.flushes.is_empty() || !self.to_requeue.is_empty() {
            return;
        }
        let done = self.flushes.take_done(self.settling.first());
        if done.is_empty() {
            return;
        }
        self.acks.send();
        // The reply shows that the broker has seen all earlier commands on the channel, though
        // its queue may not have applied them.
        let (channel, bound) = (self.channel.clone(), self.bound);
        let wait = self.acks.close_delay();
        self.work.push(Box::pin(async move {
            sleep(wait).await;
            let _gone = channel.basic_qos(bound, BasicQosOptions::default()).await;
            Event::Flushed(done)
        }));
    }
}
