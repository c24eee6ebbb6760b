//! Publishes to delay steps, and declares the steps when they are first used.

use std::sync::Arc;
use std::time::Duration;

use brickwork::Message;
use brickwork::transport::TransportError;
use lapin::types::ShortString;
use tokio::time::Instant;

use super::codec;
use super::delay_flow::DelayFlow;
use super::health::Degraded;
use super::publisher::Publication;
use super::router::Router;
use super::routing::{Queue, RoutingTable};
use super::topology::{Step, due_name};

impl Router {
    pub(super) fn delay_flow(&self) -> &DelayFlow {
        &self.declared.delay_flow
    }

    /// Delivers a message to one queue after a delay, as the given attempt. The maximum delay
    /// is a day.
    pub(super) async fn retry(
        &self,
        queue: &Arc<Queue>,
        message: &Message,
        attempt: u32,
        after: Duration,
    ) -> Result<(), TransportError> {
        if after.is_zero() {
            return self
                .send_to_queue(queue.input_name(), message, attempt)
                .await;
        }
        let step = Step::at_least(after).unwrap_or_else(Step::longest);
        self.ensure_delay_step(step).await?;
        let (routing, target) = (self.routing_table(), queue.input_name());
        let waiting = self.to_delay_queue(&routing, step, target, message, attempt)?;
        let sent = self.publisher.send(waiting).await;
        self.delayed(queue, step, &sent);
        sent
    }

    /// Notes that a message was published to a delay step.
    pub(super) fn delayed(&self, queue: &Queue, step: Step, outcome: &Result<(), TransportError>) {
        match outcome {
            Ok(()) => {
                queue.delayed.add(step);
                self.declared.delay_flow.used(step, Instant::now());
            }
            // Its queue may be gone.
            Err(_) => self.delay_steps.forget(step),
        }
    }

    /// Delays a message of the queue `APP.due` again.
    pub(super) async fn delay_again(
        &self,
        step: Step,
        delivered: &lapin::message::Delivery,
        target: &ShortString,
    ) -> Result<(), TransportError> {
        self.ensure_delay_step(step).await?;
        let name = step.name(&self.routing_table().app)?;
        let sent = self.move_on(
            name,
            codec::with_target(&delivered.properties, target),
            delivered,
        );
        let sent = sent.await;
        if sent.is_err() {
            self.delay_steps.forget(step);
        }
        sent
    }

    /// Publishes the payload of a delivery to a queue.
    pub(super) async fn move_on(
        &self,
        queue: ShortString,
        properties: lapin::BasicProperties,
        delivered: &lapin::message::Delivery,
    ) -> Result<(), TransportError> {
        let publication = Publication {
            exchange: "".into(),
            key: queue,
            properties,
            payload: delivered.data.clone().into(),
            mandatory: true,
        };
        self.publisher.send(publication).await
    }

    /// Returns the publication of a request that passes a delay step and is then answered by
    /// `delay_relay`.
    pub(super) fn to_delay_step(
        &self,
        step: Step,
        message: &Message,
    ) -> Result<Publication, TransportError> {
        let routing = self.routing_table();
        let due = due_name(&routing.app)?;
        self.to_delay_queue(&routing, step, &due, message, 1)
    }

    /// Returns the publication of a message that goes to `target` after a delay.
    pub(super) fn to_delay_queue(
        &self,
        routing: &RoutingTable,
        step: Step,
        target: &ShortString,
        message: &Message,
        attempt: u32,
    ) -> Result<Publication, TransportError> {
        Ok(Publication {
            exchange: "".into(),
            key: step.name(&routing.app)?,
            properties: self.encode(message, attempt, true, Some(target.as_str()))?,
            payload: message.payload.clone(),
            mandatory: true,
        })
    }

    /// Declares a delay step, unless this session has done so. The status reports a failure.
    pub(super) async fn ensure_delay_step(&self, step: Step) -> Result<(), TransportError> {
        if !self.delay_steps.is_declared(step) {
            let declaration = step.declaration(&self.routing_table().app)?;
            let declared = self.declarer.declare(vec![declaration]).await;
            let failed = declared
                .as_ref()
                .err()
                .map(|error| format!("a message can't be delayed for {:?}: {error}", step.wait));
            *self.delay_steps.failed.lock() = failed.as_ref().map(|_| Instant::now());
            self.session_state.degraded(Degraded::DelayStep, failed);
            declared?;
            self.delay_steps.add(step);
        }
        Ok(())
    }

    /// Stops reporting a delay step that could not be declared, after some time without another
    /// failure: perhaps no message needs it any more.
    pub(super) fn expire_step_failure(&self, after: Duration) {
        let mut failed = self.delay_steps.failed.lock();
        if failed.is_some_and(|at| at.elapsed() >= after) {
            *failed = None;
            self.session_state.degraded(Degraded::DelayStep, None);
        }
    }
}
