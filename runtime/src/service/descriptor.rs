//! The descriptor: everything that there is to know of a service type, as plain data.
//!
//! `describe`, `check` and the reference are all printed from it.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;

use super::ports::{PortTable, SchemaOf};

/// A service type, described.
#[derive(Debug, Clone, Serialize)]
pub struct Descriptor {
    /// Its name: `use = "NAME"`.
    pub name: &'static str,
    /// `service` or `source`.
    pub role: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// JSON Schema of its config, with docs and defaults.
    pub config: Schema,
    /// Its inputs with the default config.
    pub inputs: Vec<PortDescriptor>,
    /// Its outputs with the default config.
    pub outputs: Vec<PortDescriptor>,
    /// What can go wrong.
    pub failures: &'static [&'static str],
    /// A piece of manifest that shows it in use.
    pub example: &'static str,
}

/// A port, described.
#[derive(Debug, Clone, Serialize)]
pub struct PortDescriptor {
    /// Its name in the manifest.
    pub name: String,
    /// JSON Schema of its messages.
    pub schema: Schema,
    /// JSON Schema of the reply, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Schema>,
    /// At most this many messages at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
}

pub(crate) fn describe_ports(table: &PortTable) -> (Vec<PortDescriptor>, Vec<PortDescriptor>) {
    let inputs = table.inputs.iter().map(|input| PortDescriptor {
        name: input.name.to_string(),
        schema: schema_of(input.schema),
        reply: input.reply.map(schema_of),
        batch: input.batch.map(|batch| batch.max),
    });
    let outputs = table.outputs.iter().map(|output| PortDescriptor {
        name: output.name.to_string(),
        schema: schema_of(output.schema),
        reply: output.reply.map(schema_of),
        batch: None,
    });
    (inputs.collect(), outputs.collect())
}

/// A schema with the definitions that it refers to inside it.
fn schema_of(schema: SchemaOf) -> Schema {
    let mut generator = SchemaGenerator::default();
    let mut schema = schema(&mut generator);
    // A reference is written out at the root, the others stay definitions.
    let definitions = generator.take_definitions(true);
    if let Some(name) = schema
        .get("$ref")
        .and_then(|reference| reference.as_str())
        .and_then(|reference| reference.strip_prefix("#/$defs/"))
        && let Some(definition) = definitions.get(name)
        && let Ok(inlined) = Schema::try_from(definition.clone())
    {
        let recursive = definition
            .to_string()
            .contains(&format!("\"#/$defs/{name}\""));
        let name = name.to_owned();
        schema = inlined;
        schema.insert("title".into(), name.clone().into());
        let mut definitions = definitions;
        if !recursive {
            definitions.remove(&name);
        }
        if !definitions.is_empty() {
            schema.insert("$defs".into(), definitions.into());
        }
    }
    schema
}
