//! `describe`: prints the descriptor of a service type.

use std::fmt::Write;

use serde_json::Value;

use super::{DONE, WRONG, print, print_json};
use crate::manifest::suggest;
use crate::service::{Catalog, Descriptor, PortDescriptor};
use crate::stderr::error_line;

#[derive(clap::Args)]
pub(super) struct Describe {
    /// Name of the service type, as printed by `list`
    #[arg(value_name = "TYPE")]
    name: String,
    /// Print the descriptor as JSON, with its JSON Schemas
    #[arg(long)]
    json: bool,
}

impl Describe {
    pub(super) fn execute(&self, catalog: &Catalog) -> u8 {
        let Some(entry) = catalog.get(&self.name) else {
            let names = catalog.iter().map(|entry| entry.name());
            let help = suggest::help(&self.name, names.collect::<Vec<_>>(), "there are");
            let help = help.map_or(String::new(), |help| format!("; {help}"));
            error_line!("no service type {}{help}", suggest::quote(&self.name));
            return WRONG;
        };
        let descriptor = entry.describe();
        if self.json {
            print_json(&descriptor);
        } else {
            print(&text_of(&descriptor));
        }
        DONE
    }
}

fn text_of(descriptor: &Descriptor) -> String {
    let mut text = format!("{} ({})\n", descriptor.name, descriptor.role);
    if !descriptor.summary.is_empty() {
        writeln!(text, "    {}", descriptor.summary).expect("writing to a string succeeds");
    }
    ports(&mut text, "inputs", &descriptor.inputs);
    ports(&mut text, "outputs", &descriptor.outputs);
    fields(&mut text, descriptor.config.as_value());
    if !descriptor.failures.is_empty() {
        text.push_str("\nfailures\n");
        for line in descriptor.failures {
            text.push_str(&format!("    {line}\n"));
        }
    }
    if !descriptor.example.is_empty() {
        text.push_str("\nexample\n");
        for line in descriptor.example.trim().lines() {
            text.push_str(format!("    {line}").trim_end());
            text.push('\n');
        }
    }
    text
}

fn ports(text: &mut String, title: &str, ports: &[PortDescriptor]) {
    if ports.is_empty() {
        return;
    }
    text.push_str(&format!("\n{title}\n"));
    for port in ports {
        let kind = type_of(port.schema.as_value());
        text.push_str(&format!("    {}: {kind}", port.name));
        if let Some(reply) = &port.reply {
            text.push_str(&format!(", answered with {}", type_of(reply.as_value())));
        }
        if let Some(max) = port.batch {
            text.push_str(&format!(", up to {max} at once"));
        }
        if port.first {
            text.push_str(", before other inputs");
        }
        if port.optional {
            text.push_str(", optional");
        }
        text.push('\n');
    }
}

fn fields(text: &mut String, schema: &Value) {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
        return;
    };
    if properties.is_empty() {
        return;
    }
    let required: Vec<&str> = schema
        .get("required")
        .and_then(Value::as_array)
        .map(|names| names.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    text.push_str("\nconfig\n");
    for (name, field) in properties {
        let kind = type_of(field);
        let default = match field.get("default") {
            _ if required.contains(&name.as_str()) => "required".to_owned(),
            Some(Value::Null) | None => "not set by default".to_owned(),
            Some(default) => format!("default {default}"),
        };
        text.push_str(&format!("    {name}: {kind}, {default}\n"));
        if let Some(docs) = field.get("description").and_then(Value::as_str) {
            for line in docs.lines() {
                text.push_str(format!("        {line}").trim_end());
                text.push('\n');
            }
        }
    }
}

/// A short name of the type.
fn type_of(schema: &Value) -> String {
    let field = |name: &str| schema.get(name).and_then(Value::as_str);
    if let Some(reference) = field("$ref") {
        return reference.rsplit('/').next().unwrap_or(reference).to_owned();
    }
    if let Some(title) = field("title") {
        return title.to_owned();
    }
    match field("format") {
        Some("password") => return "secret".to_owned(),
        Some("path") => return "path".to_owned(),
        _ => {}
    }
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        let words: Vec<String> = words.iter().map(Value::to_string).collect();
        return words.join(" | ");
    }
    if let Some(variants) = schema
        .get("anyOf")
        .or_else(|| schema.get("oneOf"))
        .and_then(Value::as_array)
    {
        let of = |v: &Value| match v.get("const") {
            Some(word) => word.to_string(),
            None => type_of(v),
        };
        let words: Vec<String> = variants
            .iter()
            .map(of)
            .filter(|word| word != "null")
            .collect();
        return words.join(" | ");
    }
    match schema.get("type") {
        Some(Value::String(kind)) if kind == "array" => {
            let items = schema.get("items").map(type_of);
            format!("list of {}", items.as_deref().unwrap_or("any"))
        }
        Some(Value::String(kind)) if kind == "object" => "table".to_owned(),
        Some(Value::String(kind)) => kind.clone(),
        Some(Value::Array(kinds)) => {
            let words: Vec<&str> = kinds
                .iter()
                .filter_map(Value::as_str)
                .filter(|kind| *kind != "null")
                .collect();
            words.join(" | ")
        }
        _ => "any".to_owned(),
    }
}
