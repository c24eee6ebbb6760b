//! Finds secrets in the files before anything else is read, so that no report shows them.

use std::collections::BTreeMap;

use super::redaction::{Redactions, password_of_anything};
use super::schema::{ConfigSchema, Format};
use super::spanned_toml::{Node, Table, Value};
use crate::redact::password_of;
use crate::service::Catalog;

/// Hides the secrets of every file, including values that an overlay replaces. `merged`
/// gives the type of each service.
pub(super) fn find(trees: &[Table], merged: &Table, catalog: &Catalog, masks: &mut Redactions) {
    let mut schemas = BTreeMap::new();
    for service_type in catalog.iter() {
        let schema = ConfigSchema::new(&service_type.describe().config);
        for field in schema.secret_fields() {
            masks.key(&field);
        }
        schemas.insert(service_type.name(), schema);
    }
    for tree in trees {
        hide_by_key(tree, false, masks);
        if let Some(url) = node(tree, &["app", "transport"]) {
            of_url(url, masks);
        }
        let Some(Value::Table(services)) = value(tree, &["services"]) else {
            continue;
        };
        for service in &services.entries {
            let Some(node) = node(tree, &["services", &service.key, "config"]) else {
                continue;
            };
            let name = string(merged, &["services", &service.key, "use"]).unwrap_or(&service.key);
            match schemas.get(name) {
                Some(_) if !matches!(node.value, Value::Table(_)) => hide_places(node, masks),
                Some(schema) => schema.walk(&mut node.clone(), &mut |format, node| {
                    if format == Format::Secret {
                        hide(node, masks);
                    }
                }),
                // The type is unknown, so any part of its config may be a secret.
                None => hide_places(node, masks),
            }
        }
    }
}

/// Hides values whose key names a secret. In a config, a similar key is enough.
fn hide_by_key(table: &Table, in_config: bool, masks: &mut Redactions) {
    for entry in &table.entries {
        if masks.is_secret_key(&entry.key) || (in_config && masks.is_like_secret_key(&entry.key)) {
            hide_places(&entry.node, masks);
        }
        if let Value::Table(table) = &entry.node.value {
            hide_by_key(table, in_config || entry.key == "config", masks);
        }
    }
}

/// Hides a secret at its place, and its text wherever it occurs.
fn hide(node: &Node, masks: &mut Redactions) {
    hide_places(node, masks);
    node.scalars(&mut |_, text| {
        if !text.contains("${") {
            masks.secret(&text);
        }
    });
}

fn hide_places(node: &Node, masks: &mut Redactions) {
    // The place of a table may be its header alone.
    if !matches!(node.value, Value::Table(_)) {
        masks.place(node.span);
    }
    node.scalars(&mut |span, _| masks.place(span));
}

/// Hides the password of the transport, even if the text is not a valid URL.
fn of_url(node: &Node, masks: &mut Redactions) {
    let Value::String(url) = &node.value else {
        return hide_places(node, masks);
    };
    if let Some(password) = password_of_anything(url) {
        if !password.contains("${") {
            masks.secret(password);
        }
        if !url.contains("://") {
            masks.place(node.span);
        }
    }
}

/// Returns the secrets of a transport's URL: its password as written and decoded.
pub(super) fn of_transport(url: &str) -> Vec<String> {
    let mut secrets = Vec::new();
    for password in [password_of(url), password_of_anything(url)]
        .into_iter()
        .flatten()
    {
        secrets.push(password.to_owned());
        secrets.push(percent_decoded(password));
    }
    secrets.sort_unstable();
    secrets.dedup();
    secrets
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let hex = after.get(..2).filter(|_| first == b'%');
        let byte = hex
            .filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match byte {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn node<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Node> {
    let (first, rest) = path.split_first()?;
    let node = &table.get(first)?.node;
    match (&node.value, rest) {
        (_, []) => Some(node),
        (Value::Table(table), rest) => self::node(table, rest),
        _ => None,
    }
}

fn value<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    node(table, path).map(|node| &node.value)
}

fn string<'a>(table: &'a Table, path: &[&str]) -> Option<&'a str> {
    match value(table, path) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_a_secret_as_written_and_decoded() {
        assert_eq!(
            of_transport("amqp://u:p%40ss%2@host"),
            ["p%40ss%2", "p@ss%2"]
        );
        assert_eq!(of_transport("amqp://u:p/w@host"), ["p/w"]);
        assert!(of_transport("memory:").is_empty());
    }
}
