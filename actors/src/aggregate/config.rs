//! Config of `aggregate`: which messages form a group, and when a group is closed.

use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{ByteSize, HumanDuration};
use brickwork::prelude::JsonSchema;
use serde::Deserialize;

use crate::expression::{Condition, Expression};

/// Config of `aggregate`. The first of the rules `count`, `size`, `within`, `idle` and `until`
/// that applies closes a group, which emits it. At least one rule is needed. The next message
/// with the same key opens a new group.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AggregateConfig {
    /// An expression over `msg` and `meta`: messages with equal values form a group. A missing
    /// field dead-letters the message. By default all messages form one group.
    pub key: Option<Expression>,
    /// Number of messages at which a group is closed.
    pub count: Option<u64>,
    /// Total size of the messages at which a group is closed.
    pub size: Option<ByteSize>,
    /// Time after its first message at which a group is closed.
    pub within: Option<HumanDuration>,
    /// Time without a message after which a group is closed.
    pub idle: Option<HumanDuration>,
    /// A condition over `msg` and `meta`. The message that satisfies it is the last one of its
    /// group, and closes it.
    pub until: Option<Condition>,
    /// An expression over `msg` and `meta` for the part of each message that is kept; by
    /// default its payload.
    pub each: Option<Expression>,
    /// Form of the emitted payload: an object with details of the group, or only its messages
    /// as a list or as lines.
    #[serde(rename = "as")]
    pub form: Form,
    /// Message type of the emitted messages.
    #[serde(rename = "type")]
    pub kind: String,
    /// Maximum number of open groups. Beyond it, the oldest is closed early.
    pub groups: u64,
}

/// The form of an emitted group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// An object: `key`, `count`, the times of the earliest (`first`) and latest (`last`)
    /// message, the rule that `closed` the group (`count`, `size`, `within`, `idle`, `until`,
    /// `full` or `room`), and the `messages` in order of arrival.
    #[default]
    Object,
    /// The list of the messages, in order of arrival.
    List,
    /// The messages in order of arrival, one a line; each line ends with a line feed.
    Lines,
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

/// Maximum of `groups`.
const GROUPS_MAX: u64 = 10_000_000;

impl AggregateConfig {
    /// The shorter of the time rules, if there are any.
    pub(super) fn shortest(&self) -> Option<Duration> {
        let times = [self.within, self.idle].into_iter().flatten();
        times.map(|time| time.0).min()
    }

    pub(crate) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let rules = [
            self.count.is_some(),
            self.size.is_some(),
            self.within.is_some(),
            self.idle.is_some(),
            self.until.is_some(),
        ];
        if !rules.contains(&true) {
            let text = "no rule closes a group: set count, size, within, idle, until, or several";
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
            let text = format!("it is from 1 to {GROUPS_MAX}");
            errors.push(ConfigError::new("groups", text));
        }
        if self.kind.is_empty() {
            errors.push(ConfigError::new("type", "it is empty: set a message type"));
        }
        crate::config_errors::result(errors)
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
    fn a_group_needs_a_rule_that_closes_it() {
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
    fn every_zero_limit_is_reported() {
        let config = json!({
            "count": 0, "size": "0B", "within": "0s", "idle": "0s", "groups": 0, "type": "",
        });
        let expected = ["count", "size", "within", "idle", "groups", "type"];
        assert_eq!(wrong(config), expected);
    }
}
