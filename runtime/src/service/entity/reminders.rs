//! Reminders: messages that an entity sends to itself, after a delay.
//!
//! A reminder has a row in the store until its message is handled. A message without a row was
//! cancelled: it is dropped.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Entity;
use crate::failure::Failure;
use crate::message::Message;
use crate::service::context::Context;
use crate::service::message_builder::MessageBuilder;
use crate::service::payload::Payload;
use crate::service::port::Input;
use crate::store::entities::Reminder;

/// Header of a message that is a reminder.
const HEADER: &str = "brickwork-reminder";

/// The id of a reminder, for [`Context::cancel`]. An entity may keep it in its state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub struct ReminderId(String);

impl fmt::Display for ReminderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns whether a message is a reminder.
pub(super) fn is_reminder(message: &Message) -> bool {
    message.headers.contains_key(HEADER)
}

impl Context {
    /// Sends a message to an input of this entity after a delay. It is set when the handler
    /// succeeds, in the same transaction, and survives restarts. The message has the key of this
    /// entity.
    ///
    /// ```
    /// use std::time::Duration;
    /// use brickwork::prelude::*;
    ///
    /// #[message]
    /// struct Opened { cart: String }
    /// #[message]
    /// struct Expired { cart: String }
    ///
    /// #[message]
    /// #[derive(Default)]
    /// struct Cart { expiry: Option<ReminderId> }
    ///
    /// #[entity(key = "cart")]
    /// impl Cart {
    ///     #[input]
    ///     fn opened(&mut self, opened: Opened, cx: &Context) -> Result {
    ///         if let Some(earlier) = self.expiry.take() {
    ///             cx.cancel(&earlier)?;
    ///         }
    ///         let expired = Expired { cart: opened.cart };
    ///         self.expiry = Some(cx.remind(&Self::EXPIRED, expired, Duration::from_secs(3600))?);
    ///         Ok(())
    ///     }
    ///
    ///     #[reminder]
    ///     fn expired(&mut self, _: Expired, carts: Out<String>) -> Result {
    ///         carts.emit("a cart was left".to_owned())
    ///     }
    /// }
    /// ```
    ///
    /// # Errors
    /// A [`Failure::reject`]: this is no entity, it has no such input, the message can't be encoded
    /// or is too large, or it has another key.
    pub fn remind<M: Payload, R: Payload>(
        &self,
        input: &Input<M, R>,
        message: impl Into<MessageBuilder<M>>,
        after: Duration,
    ) -> Result<ReminderId, Failure> {
        let (Some(entity), Some(parent)) = (&self.entity, self.message()) else {
            return Err(not_an_entity());
        };
        let name = input.name();
        if !self.publisher.inputs.iter().any(|it| **it == *name) {
            let text = format!("the service names no input {name:?} in its ports");
            return Err(Failure::reject(text));
        }
        let mut changes = entity.changes.borrow_mut();
        let output = format!("@{name}");
        let id = parent.id.child(
            &self.publisher.label,
            &output,
            changes.reminders.len() as u32,
        );
        let now_ms = self.now_ms();
        let kind = M::kind().unwrap_or_else(|| name.into());
        let topic: Arc<str> = format!("{}.{name}", self.publisher.label).into();
        let envelope = self
            .publisher
            .envelope_of(
                (kind, topic, name),
                message.into(),
                id,
                Some(parent),
                now_ms,
            )
            .map_err(Failure::reject)?;
        let mut envelope = envelope;
        envelope.headers.insert(HEADER.into(), "1".into());
        let message = Message::from(envelope);
        if let Some(rule) = &self.publisher.key {
            let key = rule.key(&message).map_err(|why| {
                Failure::reject(format!("a reminder has the key of its entity: {why}"))
            })?;
            if key != entity.key {
                let own = &entity.key;
                let text = format!("a reminder has the key of its entity: {key} is not {own}");
                return Err(Failure::reject(text));
            }
        }
        let id = ReminderId(message.id.to_string());
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        changes.reminders.push(Reminder {
            input: name.to_owned(),
            message,
            due_ms: now_ms.saturating_add(after_ms).min(i64::MAX as u64),
        });
        Ok(id)
    }

    /// Cancels a reminder of this entity, when the handler succeeds. A reminder that was handled
    /// already is no error.
    ///
    /// An example stands at [`remind`](Self::remind).
    ///
    /// # Errors
    /// A [`Failure::reject`]: this is no entity.
    pub fn cancel(&self, reminder: &ReminderId) -> Result<(), Failure> {
        let Some(entity) = &self.entity else {
            return Err(not_an_entity());
        };
        let mut changes = entity.changes.borrow_mut();
        changes.cancelled.push(reminder.0.clone());
        // A reminder that this handler has set stays in the list: its place there numbers the ids.
        Ok(())
    }

    /// Returns the config of the entity type.
    ///
    /// # Errors
    /// A [`Failure::reject`]: this is no entity of that type.
    pub fn entity_config<E: Entity>(&self) -> Result<Arc<E::Config>, Failure> {
        let entity = self.entity.as_ref().ok_or_else(not_an_entity)?;
        let config = entity.config.clone();
        config.downcast().map_err(|_| not_an_entity())
    }
}

fn not_an_entity() -> Failure {
    Failure::reject("only a handler of an entity may do this: write the service as an `Entity`")
}
