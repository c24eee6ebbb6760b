//! A compiled JSON Schema with bounds, and the reasons for which a payload doesn't satisfy it.
//!
//! | danger | bound |
//! | --- | --- |
//! | a reference to another host or file | refused: every reference is inside of the schema |
//! | a pattern that backtracks for ever | an engine whose time is linear in the text |
//! | a pattern that compiles to a huge automaton | its size |
//! | references that nest deeper than a stack | a number of references, and a thread with a large stack |
//! | a report as large as the payload | a number of errors, and the length of each |

use std::fmt::Write as _;
use std::thread;

use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;

use crate::json::cut;

/// Maximum bytes of a schema.
pub(super) const SCHEMA_BYTES_MAX: usize = 1 << 20;
/// Maximum references in a schema.
const REFERENCES_MAX: usize = 5_000;
/// Maximum references times levels of a payload: the depth of the evaluation can't exceed it.
const NESTING_MAX: usize = 64_000;
/// Below this depth the stack of a worker thread is large enough.
const NESTING_INLINE_MAX: usize = 1_000;
/// Stack for deeper evaluations and for compiling. The memory is used only if it is needed.
const STACK_BYTES: usize = 256 << 20;
/// Maximum bytes of a compiled pattern.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// Maximum errors in a reason.
const ERRORS_MAX: usize = 5;
/// Maximum bytes of an error in a reason.
const ERROR_BYTES_MAX: usize = 300;

/// A compiled schema.
pub(super) struct CompiledSchema {
    validator: Validator,
    references: usize,
}

impl CompiledSchema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// The schema is not valid, beyond a bound, or refers to something outside of it.
    pub(super) fn new(schema: &Value) -> Result<Self, String> {
        let references = count_references(schema);
        if references > REFERENCES_MAX {
            return Err(format!(
                "the schema has {references} references, {REFERENCES_MAX} are allowed"
            ));
        }
        let compile = || {
            jsonschema::options()
                .offline()
                .should_validate_formats(true)
                .with_pattern_options(
                    PatternOptions::regex()
                        .size_limit(PATTERN_BYTES_MAX)
                        .dfa_size_limit(PATTERN_BYTES_MAX),
                )
                .build(schema)
                .map_err(|error| problem(&error))
        };
        Ok(Self {
            validator: on_large_stack(compile)??,
            references,
        })
    }

    /// Checks a value.
    ///
    /// # Errors
    /// The first errors, each with the place in the payload and the rule of the schema.
    pub(super) fn check(&self, value: &Value) -> Result<(), String> {
        let depth = depth(value);
        let nesting = (self.references + 1).saturating_mul(depth);
        if nesting > NESTING_MAX {
            return Err(format!(
                "the payload is nested {depth} levels deep: a schema with {} references allows {}",
                self.references,
                NESTING_MAX / (self.references + 1)
            ));
        }
        let check = || match self.validator.is_valid(value) {
            true => Ok(()),
            false => Err(reason(self.validator.iter_errors(value))),
        };
        match nesting <= NESTING_INLINE_MAX {
            true => check(),
            false => on_large_stack(check)?,
        }
    }
}

/// Runs a function on a thread with a large stack, and waits for it.
fn on_large_stack<T: Send>(run: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("schema".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, run)
            .map_err(|error| format!("can't start a thread for the schema: {error}"))?
            .join()
            .map_err(|_| "the schema can't be evaluated: the validator panicked".to_owned())
    })
}

/// Describes why a schema can't be used.
fn problem(error: &ValidationError<'_>) -> String {
    let place = match error.instance_path().as_str() {
        "" => "at its top".to_owned(),
        path => format!("at {path}"),
    };
    let mut text = format!("it is not a usable JSON Schema: {error} ({place})");
    if text.contains("://") {
        text.push_str("; references to other files and hosts are not followed: put them in $defs");
    }
    cut(&mut text, 2 * ERROR_BYTES_MAX);
    text
}

/// Describes the first errors, without the values of the payload.
fn reason<'e>(mut errors: impl Iterator<Item = ValidationError<'e>>) -> String {
    let mut text = String::new();
    for error in errors.by_ref().take(ERRORS_MAX) {
        if !text.is_empty() {
            text.push_str("; ");
        }
        let place = match error.instance_path().as_str() {
            "" => "the payload".to_owned(),
            path => path.to_owned(),
        };
        let mut one = format!("{place}: {}", error.masked());
        cut(&mut one, ERROR_BYTES_MAX);
        let mut rule = error.schema_path().as_str().to_owned();
        cut(&mut rule, ERROR_BYTES_MAX);
        write!(text, "{one} (rule {rule})").expect("a string takes text");
    }
    if errors.next().is_some() {
        text.push_str("; and more");
    }
    text
}

fn count_references(schema: &Value) -> usize {
    match schema {
        Value::Object(fields) => fields
            .iter()
            .map(|(name, value)| {
                let is_one = matches!(name.as_str(), "$ref" | "$dynamicRef" | "$recursiveRef");
                usize::from(is_one) + count_references(value)
            })
            .sum(),
        Value::Array(items) => items.iter().map(count_references).sum(),
        _ => 0,
    }
}

fn depth(value: &Value) -> usize {
    let deepest = match value {
        Value::Object(fields) => fields.values().map(depth).max(),
        Value::Array(items) => items.iter().map(depth).max(),
        _ => return 1,
    };
    1 + deepest.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn wrong(schema: &Value) -> String {
        match CompiledSchema::new(schema) {
            Ok(_) => panic!("{schema} compiles"),
            Err(text) => text,
        }
    }

    fn check(schema: &Value, value: &Value) -> Result<(), String> {
        CompiledSchema::new(schema).unwrap().check(value)
    }

    #[test]
    fn a_reason_names_place_and_rule_and_no_value() {
        let schema = json!({
            "type": "object",
            "required": ["id"],
            "properties": {"lines": {"items": {"properties": {
                "qty": {"type": "integer", "minimum": 1},
                "sku": {"pattern": "^[A-Z]{3}$"},
            }}}},
        });
        let value = json!({"lines": [{"qty": 1}, {"qty": 0, "sku": "secret"}]});
        let reason = check(&schema, &value).unwrap_err();
        for part in [
            "the payload: \"id\" is a required property (rule /required)",
            "/lines/1/qty: value is less than the minimum of 1",
            "(rule /properties/lines/items/properties/qty/minimum)",
            "/lines/1/sku: value does not match",
        ] {
            assert!(reason.contains(part), "{part}: {reason}");
        }
        assert!(!reason.contains("secret"), "{reason}");
        assert!(
            check(
                &schema,
                &json!({"id": 1, "lines": [{"qty": 2, "sku": "ABC"}]})
            )
            .is_ok()
        );
    }

    #[test]
    fn a_reason_has_few_errors_of_bounded_length() {
        let value: Vec<String> = (0..1000).map(|n| "x".repeat(n)).collect();
        let schema = json!({"items": {"type": "integer"}});
        let reason = check(&schema, &json!(value)).unwrap_err();
        assert_eq!(reason.matches("(rule").count(), ERRORS_MAX);
        assert!(reason.ends_with("; and more"), "{reason}");
        let schema = json!({"additionalProperties": false});
        let reason = check(&schema, &json!({"x".repeat(100_000): 1})).unwrap_err();
        assert!(reason.len() < 1000, "{}", reason.len());
    }

    #[test]
    fn a_schema_that_leads_outside_or_is_wrong_is_refused() {
        for (schema, expected) in [
            (json!({"$ref": "https://example.com/a.json"}), "$defs"),
            (json!({"$ref": "file:///etc/passwd"}), "$defs"),
            (json!({"$ref": "#/$defs/a"}), "not a usable JSON Schema"),
            (json!({"type": "text"}), "/type"),
            (json!({"pattern": "("}), "/pattern"),
            (json!({"pattern": "(a{1000}){1000}"}), "/pattern"),
            (json!(7), "not a usable JSON Schema"),
        ] {
            let error = wrong(&schema);
            assert!(error.contains(expected), "{schema}: {error}");
        }
        let many =
            json!({"allOf": vec![json!({"$ref": "#/$defs/a"}); 5_001], "$defs": {"a": true}});
        assert!(wrong(&many).contains("5001 references"));
    }

    #[test]
    fn a_hostile_schema_costs_neither_time_nor_stack() {
        // Many engines backtrack for ever on this pattern.
        let slow = json!({"pattern": "^(a+)+$"});
        assert!(check(&slow, &json!("a".repeat(100_000) + "!")).is_err());
        // The schema refers to itself.
        assert!(check(&json!({"$ref": "#"}), &json!(1)).is_ok());
        let chain: serde_json::Map<String, Value> = (0..2_000)
            .map(|n| {
                (
                    format!("a{n}"),
                    json!({"$ref": format!("#/$defs/a{}", n + 1)}),
                )
            })
            .chain([(
                "a2000".to_owned(),
                json!({"properties": {"a": {"$ref": "#"}}}),
            )])
            .collect();
        let chain = json!({"$ref": "#/$defs/a0", "$defs": chain});
        let nested = |levels| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        assert!(check(&chain, &nested(20)).is_ok());
        let error = check(&chain, &nested(100)).unwrap_err();
        assert!(error.contains("nested 101 levels deep"), "{error}");
        // The evaluations of this schema double with each level.
        let twice = json!({"properties": {"a": {"allOf": [{"$ref": "#"}, {"$ref": "#"}]}}});
        assert!(check(&twice, &nested(60)).is_ok());
    }

    proptest! {
        #[test]
        fn any_schema_and_value_are_judged_without_a_panic(schema in any_json(), value in any_json()) {
            if let Ok(schema) = CompiledSchema::new(&schema) {
                let _judged = schema.check(&value);
            }
        }
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let names = [
            "$ref",
            "type",
            "properties",
            "items",
            "allOf",
            "not",
            "required",
            "enum",
            "a",
        ];
        let texts = ["#", "#/a", "object", "array", "a", "https://x"];
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            prop::sample::select(texts.to_vec()).prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, move |inner| {
            let object = prop::collection::btree_map(
                prop::sample::select(names.to_vec()),
                inner.clone(),
                0..4,
            );
            prop_oneof![
                prop::collection::vec(inner, 0..4).prop_map(Value::from),
                object.prop_map(|fields| fields
                    .into_iter()
                    .map(|(name, value)| (name.to_owned(), value))
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }
}
