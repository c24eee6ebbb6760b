//! Config of `aggregate`: what belongs together, and when it is complete.

use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration};
use brickwork::prelude::JsonSchema;
use serde::Deserialize;

use crate::expression::{Condition, Expression};

/// Config of `aggregate`. A group is closed, and emitted, as soon as one of `count`, `size`,
/// `within`, `idle` and `until` says so; at least one of them is needed. A message that comes
/// for a key whose group is closed opens another one.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AggregateConfig {
    /// An expression over `msg` and `meta`: messages for which it gives the same belong
    /// together. A field that isn't there rejects the message. All belong together, if left
    /// out.
    pub key: Option<Expression>,
    /// A group is closed when it has so many messages.
    pub count: Option<u64>,
    /// A group is closed when its messages have so many bytes together.
    pub size: Option<ByteSize>,
    /// A group is closed so long after its first message came.
    pub within: Option<HumanDuration>,
    /// A group is closed when no message came to it for so long.
    pub idle: Option<HumanDuration>,
    /// A group is closed by a message for which this condition over `msg` and `meta` holds:
    /// that is its last one.
    pub until: Option<Condition>,
    /// An expression over `msg` and `meta` that gives what is kept of each message; its
    /// payload, if left out.
    pub each: Option<Expression>,
    /// What is emitted of a group: an object that also tells of it, or the bare list of its
    /// messages.
    #[serde(rename = "as")]
    pub form: Form,
    /// The message type of what is emitted.
    #[serde(rename = "type")]
    pub kind: String,
    /// How many groups are open at most; of more, the oldest is closed before its time.
    pub groups: u64,
}

/// The form in which a group is emitted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// An object with `key`, `count`, the times of the earliest (`first`) and the latest
    /// message (`last`), which rule it was `closed` by (`count`, `size`, `within`, `idle`,
    /// `until`, `full` or `room`), and `messages` in the order in which they came.
    #[default]
    Object,
    /// A list of the messages in the order in which they came.
    List,
}

impl Default for AggregateConfig {
    fn default() -> Self {
        Self {
            key: None,
            count: None,
            size: None,
            within: None,
            idle: None,
            until: None,
            each: None,
            form: Form::default(),
            kind: "group".to_owned(),
            groups: 10_000,
        }
    }
}

/// What the store has room for, whatever their messages.
const GROUPS_MAX: u64 = 10_000_000;

impl AggregateConfig {
    /// The shortest time after which a group is closed, if any is by time.
    pub(super) fn shortest(&self) -> Option<Duration> {
        let times = [self.within, self.idle].into_iter().flatten();
        times.map(|time| time.0).min()
    }

    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let rules = [
            self.count.is_some(),
            self.size.is_some(),
            self.within.is_some(),
            self.idle.is_some(),
            self.until.is_some(),
        ];
        if !rules.contains(&true) {
            let text =
                "say when a group is complete: by count, size, within, idle, until, or several";
            errors.push(ConfigError::new("", text));
        }
        let mut positive = |path: &str, zero: bool| {
            if zero {
                errors.push(ConfigError::new(path, "must be more than 0"));
            }
        };
        positive("count", self.count == Some(0));
        positive("size", self.size.is_some_and(|size| size.0 == 0));
        positive("within", self.within.is_some_and(|time| time.0.is_zero()));
        positive("idle", self.idle.is_some_and(|time| time.0.is_zero()));
        if !(1..=GROUPS_MAX).contains(&self.groups) {
            let text = format!("1 to {GROUPS_MAX} groups can be open");
            errors.push(ConfigError::new("groups", text));
        }
        if self.kind.is_empty() {
            errors.push(ConfigError::new("type", "a message type has a name"));
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn wrong(config: Value) -> Vec<String> {
        let config: AggregateConfig = serde_json::from_value(config).unwrap();
        let errors = config.check().err().unwrap_or_default();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn a_group_must_come_to_an_end() {
        assert_eq!(wrong(json!({"key": "msg.a"})), [""]);
        for rule in [
            json!({"count": 1}),
            json!({"size": "1KiB"}),
            json!({"within": "1s"}),
            json!({"idle": "1s"}),
            json!({"until": "msg.last"}),
        ] {
            assert!(wrong(rule).is_empty());
        }
    }

    #[test]
    fn limits_of_nothing_are_all_reported() {
        let config = json!({
            "count": 0, "size": "0B", "within": "0s", "idle": "0s", "groups": 0, "type": "",
        });
        let expected = ["count", "size", "within", "idle", "groups", "type"];
        assert_eq!(wrong(config), expected);
    }
}
