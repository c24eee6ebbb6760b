//! `route`: sends each message to the outputs that rules name.
//!
//! The config names the outputs; several rules may name the same one.

use std::sync::Arc;

use brickwork::prelude::*;
use brickwork::{Message, check_name};
use serde::Deserialize;

use crate::expression::{Condition, Expression, Reads, Scope};
use crate::ports::{IN, current_message};

/// Sends each message, unchanged, to the outputs of the rules that match it.
#[derive(Debug)]
pub struct Route {
    table: Table,
    /// Indexed by the output numbers in the table.
    outputs: Vec<Output<Raw>>,
}

/// Config of `route`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteConfig {
    /// The rules, tried in order.
    pub rules: Vec<Rule>,
    /// Whether only the first matching rule counts, or all matching rules.
    #[serde(default)]
    pub mode: Mode,
    /// Output of messages that match no rule; by default they are acked and dropped.
    #[serde(default)]
    pub otherwise: Option<String>,
}

/// A rule: messages that satisfy `when` go `to` an output.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// An expression over `msg` and `meta` whose value is true or false. A missing field
    /// makes it false.
    pub when: Condition,
    /// Name of the output.
    pub to: String,
}

/// Which of the matching rules count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// The first one.
    #[default]
    First,
    /// All; an output that several of them name gets the message once.
    All,
}

/// The rules, with their outputs as numbers.
#[derive(Debug)]
struct Table {
    rules: Vec<(Condition, usize)>,
    reads: Arc<Reads>,
    mode: Mode,
    otherwise: Option<usize>,
}

impl Table {
    fn new(config: &RouteConfig) -> Self {
        let names = output_names(config);
        let number = |name: &str| {
            let found = names.iter().position(|known| *known == name);
            found.expect("every output of a rule is in the list of outputs")
        };
        Self {
            rules: config
                .rules
                .iter()
                .map(|rule| (rule.when.clone(), number(&rule.to)))
                .collect(),
            reads: Expression::reads(config.rules.iter().map(|rule| rule.when.expression())),
            mode: config.mode,
            otherwise: config.otherwise.as_deref().map(number),
        }
    }

    /// The outputs for a message, without duplicates.
    fn decide(&self, message: &Message, attempt: u32) -> Result<Vec<usize>, Failure> {
        let scope = &mut Scope::new(message, attempt).planned(&self.reads);
        let mut chosen = Vec::new();
        for (when, to) in &self.rules {
            if chosen.contains(to) || !when.holds(scope)? {
                continue;
            }
            chosen.push(*to);
            if self.mode == Mode::First {
                break;
            }
        }
        if chosen.is_empty() {
            chosen.extend(self.otherwise);
        }
        Ok(chosen)
    }
}

/// The outputs that a config names, without duplicates, in order.
fn output_names(config: &RouteConfig) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    let rules = config.rules.iter().map(|rule| rule.to.as_str());
    for name in rules.chain(config.otherwise.as_deref()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

impl Service for Route {
    const NAME: &'static str = "route";
    const SUMMARY: &'static str = "sends each message to the outputs that rules name";
    const EXAMPLE: &'static str = r#"[services.sort]
use = "route"
in = "orders"
out.large = "orders.large"
out.rest = "orders.rest"
[services.sort.config]
rules = [{ when = "msg.total > 1000", to = "large" }]
otherwise = "rest"
"#;
    const FAILURES: &'static [&'static str] = &[
        "dead-letters a message on which an expression takes too many steps or too much memory",
        "dead-letters a message whose payload is not JSON, if a rule uses msg",
        "dead-letters a message if the value of a rule is neither true nor false, or if it compares values of types that can't be compared",
    ];
    type Config = RouteConfig;

    fn ports(config: &RouteConfig, ports: &mut Ports<Self>) {
        ports.input(&IN);
        for name in output_names(config) {
            ports.output(&Output::<Raw>::named(name));
        }
    }

    fn check(config: &RouteConfig) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        if config.rules.is_empty() {
            errors.push(ConfigError::new(
                "rules",
                "it has no rule: add at least one",
            ));
        }
        let mut check = |path: String, name: &str| {
            if let Err(error) = check_name(name) {
                let text = format!("{name:?} can't be the name of an output: {error}");
                errors.push(ConfigError::new(path, text));
            }
        };
        for (number, rule) in config.rules.iter().enumerate() {
            check(format!("rules.{number}.to"), &rule.to);
        }
        if let Some(name) = &config.otherwise {
            check("otherwise".to_owned(), name);
        }
        crate::config_errors::result(errors)
    }

    async fn start(config: &RouteConfig, _: &mut Context) -> Result<Self, Failure> {
        Ok(Self {
            table: Table::new(config),
            outputs: output_names(config)
                .into_iter()
                .map(Output::named)
                .collect(),
        })
    }
}

impl Handle<Raw> for Route {
    async fn handle(&mut self, raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = current_message(cx);
        let chosen = self.table.decide(message, attempt)?;
        for number in chosen {
            cx.emit(&self.outputs[number], raw.clone())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use brickwork::{Envelope, FailureKind};
    use serde_json::{Value, json};

    use super::*;

    fn config(config: Value) -> RouteConfig {
        serde_json::from_value(config).unwrap()
    }

    fn decide(config: &RouteConfig, payload: &'static str) -> Result<Vec<String>, Failure> {
        let message: Message = Envelope::new("order", payload).into();
        let chosen = Table::new(config).decide(&message, 1)?;
        let names = output_names(config);
        Ok(chosen.into_iter().map(|n| names[n].to_owned()).collect())
    }

    fn sizes(mode: &str) -> RouteConfig {
        config(json!({
            "rules": [
                {"when": "msg.n > 100", "to": "large"},
                {"when": "msg.n > 10", "to": "medium"},
                {"when": "msg.urgent", "to": "large"},
            ],
            "mode": mode,
            "otherwise": "rest",
        }))
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let config = sizes("first");
        assert_eq!(decide(&config, r#"{"n":200}"#).unwrap(), ["large"]);
        assert_eq!(
            decide(&config, r#"{"n":20,"urgent":true}"#).unwrap(),
            ["medium"]
        );
        assert_eq!(
            decide(&config, r#"{"n":2,"urgent":true}"#).unwrap(),
            ["large"]
        );
    }

    #[test]
    fn all_matching_rules_count_and_an_output_gets_a_message_once() {
        let config = sizes("all");
        let all = decide(&config, r#"{"n":200,"urgent":true}"#).unwrap();
        assert_eq!(all, ["large", "medium"]);
    }

    #[test]
    fn a_message_without_a_matching_rule_goes_to_otherwise_or_nowhere() {
        let mut config = sizes("first");
        assert_eq!(
            decide(&config, r#"{"n":1,"urgent":false}"#).unwrap(),
            ["rest"]
        );
        assert_eq!(decide(&config, "{}").unwrap(), ["rest"]);
        config.otherwise = None;
        assert!(decide(&config, "{}").unwrap().is_empty());
    }

    #[test]
    fn a_payload_that_is_not_json_is_rejected_even_with_otherwise() {
        let failure = decide(&sizes("all"), "nonsense").unwrap_err();
        assert_eq!(failure.kind(), FailureKind::Reject);
    }

    #[test]
    fn wrong_names_of_outputs_are_all_reported_with_their_place() {
        let errors = Route::check(&config(json!({
            "rules": [{"when": "true", "to": "Large"}, {"when": "true", "to": "dlq"}],
            "otherwise": "",
        })))
        .unwrap_err();
        let paths: Vec<&str> = errors.iter().map(|error| error.path.as_str()).collect();
        assert_eq!(paths, ["rules.0.to", "rules.1.to", "otherwise"]);
        assert!(Route::check(&config(json!({"rules": []}))).is_err());
        assert!(Route::check(&sizes("all")).is_ok());
    }

    #[test]
    fn outputs_are_named_once_and_in_order() {
        assert_eq!(output_names(&sizes("all")), ["large", "medium", "rest"]);
    }
}
