//! Finds paths, secrets and fields of a config by the JSON Schema of its service type.
//!
//! References and every branch of a choice are followed. Serde validates the config, not this
//! module.

use serde_json::{Map, Value as Json};

use super::spanned_toml::{Node, Value};
use crate::config::{LIMIT_FORMAT, PATH_FORMAT, SECRET_FORMAT};

/// Maximum references in a row without a step into the value. It ends circular references.
const DEPTH_MAX: usize = 32;
/// Maximum branches at one place. Choices inside choices multiply.
const BRANCHES_MAX: usize = 1_000;

/// A config's JSON Schema.
pub(super) struct ConfigSchema(Json);

/// The format of a value according to its schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// The name of a limit.
    Limit,
    Path,
    Secret,
    /// A number or a boolean, given by a variable.
    Literal,
}

type Object = Map<String, Json>;

impl ConfigSchema {
    pub(super) fn new(schema: &schemars::Schema) -> Self {
        Self(schema.as_value().clone())
    }

    /// Returns the schemas that apply at a place: this one, its references and its choices.
    fn flat<'a>(&'a self, schema: &'a Json) -> Vec<&'a Object> {
        let mut found = Vec::new();
        self.flatten(schema, 0, &mut found);
        found
    }

    fn flatten<'a>(&'a self, schema: &'a Json, depth: usize, found: &mut Vec<&'a Object>) {
        let Json::Object(object) = schema else {
            return;
        };
        if depth > DEPTH_MAX || found.len() >= BRANCHES_MAX {
            return;
        }
        found.push(object);
        if let Some(target) = object
            .get("$ref")
            .and_then(Json::as_str)
            .and_then(|reference| reference.strip_prefix('#'))
            .and_then(|pointer| self.0.pointer(pointer))
        {
            self.flatten(target, depth + 1, found);
        }
        for choice in ["anyOf", "oneOf", "allOf"] {
            for branch in object
                .get(choice)
                .and_then(Json::as_array)
                .into_iter()
                .flatten()
            {
                self.flatten(branch, depth + 1, found);
            }
        }
    }

    /// Visits every value of a config that has a format.
    pub(super) fn walk(&self, node: &mut Node, visit: &mut dyn FnMut(Format, &mut Node)) {
        self.walk_at(&[&self.0], node, visit);
    }

    fn walk_at(
        &self,
        schemas: &[&Json],
        node: &mut Node,
        visit: &mut dyn FnMut(Format, &mut Node),
    ) {
        let flat: Vec<&Object> = schemas
            .iter()
            .flat_map(|schema| self.flat(schema))
            .collect();
        let has = |format: &str| flat.iter().any(|s| s.get("format") == Some(&format.into()));
        // If one branch is a secret, the value is hidden, whatever its type.
        if has(SECRET_FORMAT) {
            visit(Format::Secret, node);
            return;
        }
        if node.is_variable && !flat.is_empty() && !flat.iter().any(|schema| is_text(schema)) {
            visit(Format::Literal, node);
        }
        if has(LIMIT_FORMAT) {
            visit(Format::Limit, node);
        }
        if has(PATH_FORMAT) && matches!(node.value, Value::String(_)) {
            visit(Format::Path, node);
        }
        match &mut node.value {
            Value::Table(table) => {
                // The tag selects the branch. With a wrong tag, every branch applies.
                let any = flat.iter().any(|s| fits(s, table) == Some(true));
                let branches: Vec<&&Object> = flat
                    .iter()
                    .filter(|s| !any || fits(s, table) != Some(false))
                    .collect();
                for entry in &mut table.entries {
                    let schemas: Vec<&Json> = branches
                        .iter()
                        .filter_map(|s| of_key(s, &entry.key))
                        .collect();
                    if !schemas.is_empty() {
                        self.walk_at(&schemas, &mut entry.node, visit);
                    }
                }
            }
            Value::Array(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    let schemas: Vec<&Json> =
                        flat.iter().filter_map(|s| of_item(s, index)).collect();
                    if !schemas.is_empty() {
                        self.walk_at(&schemas, item, visit);
                    }
                }
            }
            _ => {}
        }
    }

    /// Returns the default path of each top-level field that is a path.
    pub(super) fn default_paths(&self) -> Vec<(String, String)> {
        let properties = self.0.get("properties").and_then(Json::as_object);
        let paths = properties
            .into_iter()
            .flatten()
            .filter_map(|(field, schema)| {
                let is_path = schema.get("format") == Some(&PATH_FORMAT.into());
                let default = schema.get("default")?.as_str()?;
                (is_path && !default.is_empty()).then(|| (field.clone(), default.to_owned()))
            });
        paths.collect()
    }

    /// Returns the field names at a path; empty if any name is allowed.
    pub(super) fn fields(&self, path: &[&str]) -> Vec<String> {
        let mut schemas = vec![&self.0];
        for segment in path {
            let flat: Vec<&Object> = schemas.iter().flat_map(|s| self.flat(s)).collect();
            schemas = flat
                .iter()
                .filter_map(|s| of_key(s, segment).or_else(|| of_item(s, segment.parse().ok()?)))
                .collect();
        }
        let mut fields: Vec<String> = schemas
            .iter()
            .flat_map(|schema| self.flat(schema))
            .filter_map(|schema| schema.get("properties")?.as_object())
            .flat_map(|properties| properties.keys().cloned())
            .collect();
        fields.sort_unstable();
        fields.dedup();
        fields
    }

    /// Returns the names of all secret fields, at any depth.
    pub(super) fn secret_fields(&self) -> Vec<String> {
        let mut found = Vec::new();
        collect_secret_fields(self, &self.0, &mut found);
        found
    }
}

fn collect_secret_fields(schema: &ConfigSchema, at: &Json, found: &mut Vec<String>) {
    match at {
        Json::Object(object) => {
            if let Some(Json::Object(properties)) = object.get("properties") {
                for (name, property) in properties {
                    // The field may be a list or a map of secrets.
                    let mut parts = vec![property];
                    parts.extend(
                        ["items", "additionalProperties"]
                            .iter()
                            .filter_map(|k| property.get(k)),
                    );
                    let is_secret = parts
                        .iter()
                        .flat_map(|part| schema.flat(part))
                        .any(|flat| flat.get("format") == Some(&SECRET_FORMAT.into()));
                    if is_secret {
                        found.push(name.clone());
                    }
                }
            }
            for inner in object.values() {
                collect_secret_fields(schema, inner, found);
            }
        }
        Json::Array(items) => {
            for item in items {
                collect_secret_fields(schema, item, found);
            }
        }
        _ => {}
    }
}

/// Returns whether the constant fields of a branch match; `None` if it has none.
fn fits(schema: &Object, table: &super::spanned_toml::Table) -> Option<bool> {
    let properties = schema.get("properties")?.as_object()?;
    let mut tags = properties
        .iter()
        .filter_map(|(key, property)| Some((key, property.get("const")?.as_str()?)))
        .peekable();
    tags.peek()?;
    Some(tags.all(|(key, constant)| {
        let entry = table.get(key).map(|entry| &entry.node.value);
        matches!(entry, Some(Value::String(text)) if text == constant)
    }))
}

/// Returns whether a schema allows a text.
fn is_text(schema: &Object) -> bool {
    let is_string = |name: &Json| name == "string";
    match schema.get("type") {
        Some(Json::Array(types)) => types.iter().any(is_string),
        Some(name) => is_string(name),
        // A schema without a type allows everything, unless it only names others.
        None => ["$ref", "anyOf", "oneOf", "allOf"]
            .iter()
            .all(|key| !schema.contains_key(*key)),
    }
}

fn of_key<'a>(schema: &'a Object, key: &str) -> Option<&'a Json> {
    if let Some(property) = schema.get("properties").and_then(|all| all.get(key)) {
        return Some(property);
    }
    // Patterns are not matched: a schema with patterns is a map, whose values share a schema.
    schema
        .get("patternProperties")
        .and_then(Json::as_object)
        .and_then(|patterns| patterns.values().next())
        .or_else(|| schema.get("additionalProperties"))
        .filter(|schema| schema.is_object())
}

fn of_item(schema: &Object, index: usize) -> Option<&Json> {
    schema
        .get("prefixItems")
        .and_then(|items| items.get(index))
        .or_else(|| schema.get("items"))
        .filter(|schema| schema.is_object())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use schemars::{JsonSchema, schema_for};
    use toml::de::DeTable;

    use super::super::source::Span;
    use super::super::spanned_toml::Table;
    use super::*;
    use crate::config::{ManifestPath, Secret};

    #[derive(JsonSchema)]
    #[allow(dead_code, reason = "only its schema is used")]
    struct Nested {
        /// A documented field.
        token: Option<Secret>,
        file: Option<ManifestPath>,
        inner: Option<Box<Nested>>,
        list: Vec<Nested>,
        map: BTreeMap<String, Secret>,
        choice: Option<Choice>,
    }

    #[derive(JsonSchema)]
    #[serde(tag = "kind", rename_all = "lowercase")]
    #[allow(dead_code, reason = "only its schema is used")]
    enum Choice {
        Open { value: String },
        Locked { value: Secret },
    }

    fn found(text: &str) -> Vec<(Format, String)> {
        let (parsed, _) = DeTable::parse_recoverable(text);
        let table = Value::Table(Table::from_toml(0, parsed.get_ref()));
        let mut node = Node::new(Span::top(0), table);
        let mut found = Vec::new();
        ConfigSchema::new(&schema_for!(Nested)).walk(&mut node, &mut |format, node| {
            node.scalars(&mut |_, text| found.push((format, text)));
        });
        found
    }

    #[test]
    fn secrets_and_paths_are_found_at_any_depth() {
        let secret = |text: &str| (Format::Secret, text.to_owned());
        assert_eq!(found("token = 'a'"), [secret("a")]);
        assert_eq!(found("inner.inner.token = 'a'"), [secret("a")]);
        assert_eq!(found("list = [{ inner.token = 'a' }]"), [secret("a")]);
        assert_eq!(
            found("map = { x = 'a', y = 'b' }"),
            [secret("a"), secret("b")]
        );
        assert_eq!(found("token = [1, 2]"), [secret("1"), secret("2")]);
        let path = (Format::Path, "p".to_owned());
        assert_eq!(found("inner.file = 'p'\nother = 'x'"), [path]);
    }

    #[test]
    fn the_tag_selects_the_branch_of_a_choice() {
        assert_eq!(found("choice = { kind = 'open', value = 'v' }"), []);
        for secret in ["kind = 'locked', ", "kind = 'lokced', ", ""] {
            let found = found(&format!("choice = {{ {secret}value = 'v' }}"));
            assert_eq!(found, [(Format::Secret, "v".to_owned())]);
        }
    }

    #[test]
    fn optional_paths_are_known_with_their_defaults() {
        #[derive(JsonSchema)]
        #[allow(dead_code, reason = "only its schema is used")]
        struct Paths {
            #[serde(default = "here")]
            dir: ManifestPath,
            #[serde(default)]
            empty: ManifestPath,
            needed: ManifestPath,
            #[serde(default)]
            text: String,
        }
        fn here() -> ManifestPath {
            ManifestPath(".".into())
        }
        let paths = ConfigSchema::new(&schema_for!(Paths)).default_paths();
        assert_eq!(paths, [("dir".to_owned(), ".".to_owned())]);
    }

    #[test]
    fn fields_are_known_by_path() {
        let schema = ConfigSchema::new(&schema_for!(Nested));
        assert!(
            schema
                .fields(&["list", "0", "inner"])
                .contains(&"token".to_owned())
        );
        assert!(schema.fields(&["map"]).is_empty());
        assert_eq!(
            {
                let mut names = schema.secret_fields();
                names.sort_unstable();
                names.dedup();
                names
            },
            ["map", "token", "value"]
        );
    }
}
