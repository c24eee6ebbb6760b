//! Reads the keys of `[services.S]` about order by key.

use super::codes;
use super::report::Problems;
use super::spanned_toml::Entry;
use super::table_reader::Section;
use crate::key::{CompileKey, KeyRule};
use crate::service::{Catalog, ConfiguredType, Kind};
use crate::settings::KeySettings;

/// Parts that the program and the service type have in keys.
pub(super) struct KeyReader<'a> {
    /// Compiles expressions; `None` if the program has none.
    compile: Option<CompileKey>,
    /// The field that the service type names as its key.
    field: Option<&'a str>,
    /// Whether messages may have keys. A source has no messages, and its keys are reported as
    /// those of a mailbox.
    applies: bool,
}

impl<'a> KeyReader<'a> {
    /// Creates a reader for a service. `blueprint` is `None` if its type or config is wrong.
    pub(super) fn new(catalog: &Catalog, blueprint: Option<&'a dyn ConfiguredType>) -> Self {
        let role = blueprint.map(ConfiguredType::role);
        let field = match role {
            Some(Kind::Service(factory)) => Some(factory.key()).filter(|key| !key.is_empty()),
            _ => None,
        };
        Self {
            compile: catalog.key_expressions(),
            field,
            applies: matches!(role, Some(Kind::Service(_))),
        }
    }

    /// Reads `key`, `partitions` and `key_on_dead_letter`.
    pub(super) fn read(&self, service: &Section<'_>, out: &mut Problems) -> Option<KeySettings> {
        if !self.applies {
            return None;
        }
        let max = u64::from(KeySettings::PARTITIONS_MAX);
        let partitions = service.integer("partitions", 1..=max, out);
        self.on_dead_letter(service, out);
        let rule = match service.text("key", out) {
            Some((text, entry)) => self.expression(service, text, entry, out),
            None => self.field.map(KeyRule::field),
        };
        if rule.is_none() && service.table.get("key").is_none() {
            for key in ["partitions", "key_on_dead_letter"] {
                without_key(service, key, out);
            }
        }
        Some(KeySettings {
            rule: rule?,
            partitions: partitions.map_or(KeySettings::PARTITIONS, |count| count as u16),
        })
    }

    fn expression(
        &self,
        service: &Section<'_>,
        text: &str,
        entry: &Entry,
        out: &mut Problems,
    ) -> Option<KeyRule> {
        let Some(compile) = self.compile else {
            let message = format!("`{}`: this program has no expressions", service.name("key"));
            let help = "remove it, or add `Catalog::with_key_expressions` to the program";
            out.add(
                codes::UNSUPPORTED,
                entry.place(),
                message,
                Some(help.into()),
            );
            return None;
        };
        match compile(text) {
            Ok(reader) => Some(KeyRule::new(text, reader)),
            Err(why) => {
                service.bad(entry, why, out);
                None
            }
        }
    }

    /// Reads `key_on_dead_letter`, which has one supported value.
    fn on_dead_letter(&self, service: &Section<'_>, out: &mut Problems) {
        let hold = service.one_of("key_on_dead_letter", &["skip", "hold"], out) == Some(1);
        if hold && let Some(entry) = service.table.get("key_on_dead_letter") {
            let name = service.name("key_on_dead_letter");
            let message = format!("`{name}`: \"hold\" is not supported yet by this version");
            let help = Some("write \"skip\", which is the default".to_owned());
            out.add(codes::UNSUPPORTED, entry.place(), message, help);
        }
    }
}

/// Reports a key that needs `key`.
fn without_key(service: &Section<'_>, key: &str, out: &mut Problems) {
    if let Some(entry) = service.table.get(key) {
        let name = service.name(key);
        let message = format!("`{name}` has no effect without `key`, which is missing");
        let help = Some(format!("add `key`, or remove `{name}`"));
        out.add(codes::MISSING_KEY, entry.key_span, message, help);
    }
}
