//! `filter`: passes on the messages that satisfy a condition.

use brickwork::prelude::*;
use serde::Deserialize;

use crate::expression::{Condition, Scope};
use crate::ports::current_message;

/// Passes on the messages that satisfy its condition, unchanged; acks the others.
#[derive(Debug)]
pub struct Filter {
    when: Condition,
}

/// Config of `filter`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FilterConfig {
    /// Which messages pass: an expression over `msg` and `meta` whose value is true or
    /// false. A missing field makes the condition false.
    pub when: Condition,
}

#[service(
    summary = "passes on the messages that satisfy a condition",
    example = r#"[services.opened]
use = "filter"
in = "github.deliveries"
out = "issues.opened"
config.when = "meta.type == 'issues' && msg.action == 'opened'"
"#,
    failures = [
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if the condition uses msg",
        "dead-letters a message if the value of the condition is neither true nor false, or if it compares values of types that can't be compared",
    ]
)]
impl Filter {
    fn start(config: &FilterConfig) -> Result<Self> {
        Ok(Self {
            when: config.when.clone(),
        })
    }

    #[input("in")]
    fn pass(&mut self, raw: Raw, cx: &Context, out: Out<Raw>) -> Result {
        let (message, attempt) = current_message(cx);
        if self.when.holds(&mut Scope::new(message, attempt))? {
            out.emit(raw)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_needs_its_condition() {
        let error = serde_json::from_value::<FilterConfig>(json!({})).unwrap_err();
        assert_eq!(error.to_string(), "missing field `when`");
        let config: FilterConfig = serde_json::from_value(json!({"when": "msg.a > 1"})).unwrap();
        assert_eq!(config.when.source(), "msg.a > 1");
    }
}
