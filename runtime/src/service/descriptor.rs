//! The descriptor of a service type: its config, ports and failures as plain data.
//!
//! The verbs `describe` and `check` and the reference print it.

use schemars::{Schema, SchemaGenerator};
use serde::Serialize;

use super::ports::{PortTable, SchemaOf};

/// The description of a service type.
#[derive(Debug, Clone, Serialize)]
pub struct Descriptor {
    /// Name in manifests: `use = "NAME"`.
    pub name: &'static str,
    /// `service` or `source`.
    pub role: &'static str,
    /// Purpose, in one line.
    pub summary: &'static str,
    /// JSON Schema of the config, with docs and defaults.
    pub config: Schema,
    /// Inputs, with the default config.
    pub inputs: Vec<PortDescriptor>,
    /// Outputs, with the default config.
    pub outputs: Vec<PortDescriptor>,
    /// Possible failures, for operators.
    pub failures: &'static [&'static str],
    /// Manifest excerpt that uses the type.
    pub example: &'static str,
}

/// The description of a port.
#[derive(Debug, Clone, Serialize)]
pub struct PortDescriptor {
    /// Name in the manifest.
    pub name: String,
    /// JSON Schema of the messages.
    pub schema: Schema,
    /// JSON Schema of the reply, if the port has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reply: Option<Schema>,
    /// Maximum messages per batch, if the input takes batches.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<usize>,
    /// Whether messages of the input go before those of other inputs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub first: bool,
    /// Whether a manifest may leave the output out.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

pub(crate) fn describe_ports(table: &PortTable) -> (Vec<PortDescriptor>, Vec<PortDescriptor>) {
    let inputs = table.inputs.iter().map(|input| PortDescriptor {
        name: input.name.to_string(),
        schema: schema_of(input.schema),
        reply: input.reply.map(schema_of),
        batch: input.batch.map(|batch| batch.max),
        first: input.first,
        optional: false,
    });
    let outputs = table.outputs.iter().map(|output| PortDescriptor {
        name: output.name.to_string(),
        schema: schema_of(output.schema),
        reply: output.reply.map(schema_of),
        batch: None,
        first: false,
        optional: output.optional,
    });
    (inputs.collect(), outputs.collect())
}

/// Returns a schema together with the definitions that it refers to.
fn schema_of(schema: SchemaOf) -> Schema {
    let mut generator = SchemaGenerator::default();
    let mut schema = schema(&mut generator);
    // A reference at the root is replaced by its definition; the others stay references.
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
