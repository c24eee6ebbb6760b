//! The messages of firings.

use std::sync::Arc;

use brickwork::prelude::*;
use brickwork::{Envelope, JSON, Message};
use chrono::{DateTime, SecondsFormat};
use serde_json::json;

use super::decision::Firing;
use super::timing::{Timing, UnixMs};
use crate::expression::{Expression, Scope};

/// Message type without `type`.
const KIND: &str = "schedule";

/// The form of the messages of a schedule.
#[derive(Debug)]
pub(super) struct Payload {
    pub(super) expression: Option<Expression>,
    pub(super) kind: Option<String>,
}

impl Payload {
    /// Returns the message of a firing.
    ///
    /// # Errors
    /// The expression fails.
    pub(super) fn message(
        &self,
        name: Option<&str>,
        timing: &Timing,
        firing: &Firing,
    ) -> Result<Raw, Failure> {
        let facts = json!({
            "schedule": name,
            "scheduled": utc_text(firing.scheduled),
            "local": timing.local_text(firing.scheduled),
            "previous": firing.previous.map(utc_text),
            "missed": firing.missed,
        });
        let facts = facts.to_string();
        let payload = match &self.expression {
            None => facts,
            Some(expression) => evaluate(expression, facts)?,
        };
        let mut raw = Raw::bytes(self.kind.as_deref().unwrap_or(KIND), payload);
        raw.content_type = Some(JSON.into());
        raw.subject = name.map(Arc::from);
        Ok(raw)
    }
}

fn evaluate(expression: &Expression, facts: String) -> Result<String, Failure> {
    let message: Message = Envelope::new(KIND, facts).into();
    expression.json(&mut Scope::new(&message, 1))
}

/// Checks an expression with the values of the first firing and those of a later one.
///
/// # Errors
/// The text of the problem.
pub(super) fn check(expression: &Expression) -> Result<(), String> {
    for previous in [None, Some(0)] {
        let example = Firing {
            scheduled: 60_000,
            previous,
            missed: 0,
        };
        let payload = Payload {
            expression: Some(expression.clone()),
            kind: None,
        };
        let timing = Timing::Every(std::time::Duration::from_secs(60));
        let made = payload.message(Some("example"), &timing, &example);
        made.map_err(|failure| failure.text().to_owned())?;
    }
    Ok(())
}

/// Returns a time as text of RFC 3339 in UTC; milliseconds only if there are any.
pub(super) fn utc_text(at: UnixMs) -> String {
    let format = match at % 1_000 {
        0 => SecondsFormat::Secs,
        _ => SecondsFormat::Millis,
    };
    let at = DateTime::from_timestamp_millis(at).unwrap_or(DateTime::UNIX_EPOCH);
    at.to_rfc3339_opts(format, true)
}
