//! Reads `in` and `out`: the topics of the ports of one service.

use std::sync::Arc;

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::spanned_toml::{Entry, Node, Value};
use super::suggest::{list, nearest, quote};
use super::table_reader::Section;
use crate::names::{InvalidName, check_topic};
use crate::service::ConfiguredType;
use crate::service::WiredPort;

/// A topic and its place in the manifest.
#[derive(Debug, Clone)]
pub(super) struct TopicAt {
    pub(super) name: Arc<str>,
    pub(super) span: Span,
}

/// One side of a service, as written in the manifest.
pub(super) struct Side {
    /// `in` or `out`.
    pub(super) key: &'static str,
    form: Form,
    /// Whether a topic was invalid, so that the list is incomplete.
    pub(super) broken: bool,
    /// The place of the whole side, for reports.
    place: Span,
}

enum Form {
    Absent,
    Short(Vec<TopicAt>),
    Named(Vec<Named>),
}

struct Named {
    port: String,
    key_span: Span,
    topics: Vec<TopicAt>,
}

/// A port of a configured service.
pub(super) struct Port<'a> {
    name: &'a Arc<str>,
    /// Whether the port asks for replies and so has exactly one topic.
    request: bool,
    /// Whether only the service itself sends to it, so that it needs no topic.
    internal: bool,
    /// Whether it may have no topic.
    optional: bool,
}

impl Port<'_> {
    /// Returns whether it needs a topic.
    fn is_required(&self) -> bool {
        !self.internal && !self.optional
    }
}

/// Returns the port of the short form: the only port that needs a topic, or, if none does, the first
/// one.
fn of_short_form<'p, 'a>(ports: &'p [Port<'a>]) -> Option<&'p Port<'a>> {
    let mut required = ports.iter().filter(|port| port.is_required());
    match (required.next(), required.next()) {
        (Some(only), None) => Some(only),
        (None, _) => ports.iter().find(|port| !port.internal),
        (Some(_), Some(_)) => None,
    }
}

/// Returns the inputs of a configured service.
pub(super) fn inputs(blueprint: &dyn ConfiguredType) -> Vec<Port<'_>> {
    let inputs = blueprint.ports().inputs.iter();
    inputs
        .map(|input| Port {
            name: &input.name,
            request: false,
            internal: input.internal,
            optional: false,
        })
        .collect()
}

/// Returns the outputs of a configured service.
pub(super) fn outputs(blueprint: &dyn ConfiguredType) -> Vec<Port<'_>> {
    let outputs = blueprint.ports().outputs.iter();
    outputs
        .map(|output| Port {
            name: &output.name,
            request: output.reply.is_some(),
            internal: false,
            optional: output.optional,
        })
        .collect()
}

/// Returns whether a text is a valid topic; reports it if not.
pub(super) fn is_topic(text: &str, span: Span, out: &mut Problems) -> bool {
    let Err(why) = check_topic(text) else {
        return true;
    };
    let why = match why {
        InvalidName::Empty if !text.is_empty() => "it has an empty part between dots".to_owned(),
        why => why.to_string(),
    };
    let message = format!("{} is not a topic: {why}", quote(text));
    out.add(codes::BAD_NAME, span, message, None);
    false
}

impl Side {
    /// Reads `in` or `out`.
    pub(super) fn read(service: &Section<'_>, key: &'static str, out: &mut Problems) -> Self {
        let mut side = Self {
            key,
            form: Form::Absent,
            broken: false,
            place: service.place,
        };
        let Some(entry) = service.table.get(key) else {
            return side;
        };
        side.place = entry.key_span;
        side.form = match &entry.node.value {
            Value::Table(table) => Form::Named(
                table
                    .entries
                    .iter()
                    .map(|entry| Named {
                        port: entry.key.clone(),
                        key_span: entry.key_span,
                        topics: side.topics(service, &format!("{key}.{}", entry.key), entry, out),
                    })
                    .collect(),
            ),
            _ => Form::Short(side.topics(service, key, entry, out)),
        };
        side
    }

    /// Reads a topic or a list of topics.
    fn topics(
        &mut self,
        service: &Section<'_>,
        name: &str,
        entry: &Entry,
        out: &mut Problems,
    ) -> Vec<TopicAt> {
        let mut topics: Vec<TopicAt> = Vec::new();
        let items = match &entry.node.value {
            Value::Array(items) => items.as_slice(),
            _ => std::slice::from_ref(&entry.node),
        };
        for item in items {
            let Some(topic) = self.topic(service, name, item, out) else {
                self.broken = true;
                continue;
            };
            if topics.iter().any(|known| known.name == topic.name) {
                let message = format!("`{}` names `{}` twice", service.name(name), topic.name);
                let help = Some("remove one".to_owned());
                out.add(codes::REPEATED_TOPIC, topic.span, message, help);
                continue;
            }
            topics.push(topic);
        }
        topics
    }

    fn topic(
        &self,
        service: &Section<'_>,
        name: &str,
        node: &Node,
        out: &mut Problems,
    ) -> Option<TopicAt> {
        let Value::String(topic) = &node.value else {
            let expected = "a topic or a list of topics";
            service.wrong_value_type(name, node.span, node.kind(), expected, out);
            return None;
        };
        if !is_topic(topic, node.span, out) {
            return None;
        }
        Some(TopicAt {
            name: topic.as_str().into(),
            span: node.span,
        })
    }

    /// Returns the topics of all ports.
    pub(super) fn all(&self) -> Vec<TopicAt> {
        match &self.form {
            Form::Absent => Vec::new(),
            Form::Short(topics) => topics.clone(),
            Form::Named(named) => named.iter().flat_map(|n| n.topics.clone()).collect(),
        }
    }

    /// Connects the ports of a service. Reports ports without a topic and unknown ports.
    pub(super) fn connect(
        &self,
        label: &str,
        ports: &[Port<'_>],
        out: &mut Problems,
    ) -> Vec<WiredPort> {
        let names: Vec<&str> = ports.iter().map(|port| &**port.name).collect();
        let only = of_short_form(ports).map(|port| &**port.name);
        // Ports of an earlier report: a second report would repeat it.
        let mut reported: Vec<&str> = Vec::new();
        match &self.form {
            Form::Absent => {}
            Form::Short(_) if only.is_some() => {}
            Form::Short(_) => {
                self.ambiguous(label, &names, out);
                return Vec::new();
            }
            Form::Named(named) => {
                for named in named {
                    if !names.contains(&named.port.as_str()) {
                        reported.extend(self.unknown(label, named, &names, out));
                    }
                }
            }
        }
        let mut wired = Vec::new();
        for port in ports {
            let topics = match &self.form {
                Form::Short(_) if only != Some(&**port.name) => &[],
                _ => self.topics_of(port.name),
            };
            let is_reported = self.broken || reported.contains(&&**port.name);
            if topics.is_empty() && port.is_required() && !is_reported {
                self.unwired(label, port.name, only.is_some(), out);
            }
            if port.request && topics.len() > 1 {
                let message = format!(
                    "the output `{}` of `{label}` asks for replies and needs exactly one topic, not {}",
                    port.name,
                    topics.len()
                );
                let help = Some("keep one and remove the others".to_owned());
                out.add(codes::ONE_TOPIC, topics[1].span, message, help);
            }
            wired.push(WiredPort {
                name: port.name.clone(),
                topics: topics.iter().map(|topic| topic.name.clone()).collect(),
            });
        }
        wired
    }

    fn topics_of(&self, port: &str) -> &[TopicAt] {
        match &self.form {
            Form::Absent => &[],
            Form::Short(topics) => topics,
            Form::Named(named) => named
                .iter()
                .find(|named| named.port == port)
                .map_or(&[], |named| &named.topics),
        }
    }

    fn word(&self) -> &'static str {
        match self.key {
            "in" => "input",
            _ => "output",
        }
    }

    fn ambiguous(&self, label: &str, names: &[&str], out: &mut Problems) {
        let (key, word) = (self.key, self.word());
        let Some(first) = names.first() else {
            let message = format!("`{label}` has no {word}s");
            let help = Some(format!("remove `{key}`"));
            out.add(codes::UNKNOWN_PORT, self.place, message, help);
            return;
        };
        let message = format!(
            "`{label}` has {} {word}s, and `{key}` names none of them",
            names.len()
        );
        let help = format!("write `{key}.{first} = \"TOPIC\"`; its {word}s: ");
        let help = Some(help + &list(names.iter().copied()));
        out.add(codes::SHORT_FORM, self.place, message, help);
    }

    /// Reports an unknown port. Returns the port with the most similar name, if there is one.
    fn unknown<'a>(
        &self,
        label: &str,
        named: &Named,
        names: &[&'a str],
        out: &mut Problems,
    ) -> Option<&'a str> {
        let word = self.word();
        let port = &named.port;
        let message = format!("`{label}` has no {word} {}", quote(port));
        let near = nearest(port, names.iter().copied());
        let help = match (near, names) {
            (Some(near), _) => format!("did you mean `{near}`?"),
            (None, []) => format!("it has no {word}s: remove `{}`", self.key),
            (None, _) => format!("its {word}s: {}", list(names.iter().copied())),
        };
        out.add(codes::UNKNOWN_PORT, named.key_span, message, Some(help));
        near
    }

    fn unwired(&self, label: &str, port: &str, only: bool, out: &mut Problems) {
        let (key, word) = (self.key, self.word());
        let message = format!("the {word} `{port}` of `{label}` is connected to no topic");
        let help = match only {
            true => format!("add `{key} = \"TOPIC\"`"),
            false => format!("add `{key}.{port} = \"TOPIC\"`"),
        };
        out.add(codes::UNWIRED_PORT, self.place, message, Some(help));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_means_the_required_port_or_the_first_optional_one() {
        let names: Vec<Arc<str>> = ["internal", "a", "b"].map(Into::into).into();
        for (optional, expected) in [
            ([false, true], Some("a")),
            ([true, false], Some("b")),
            ([true, true], Some("a")),
            ([false, false], None),
        ] {
            let port = |name, internal, optional| Port {
                name,
                request: false,
                internal,
                optional,
            };
            let ports = [
                port(&names[0], true, false),
                port(&names[1], false, optional[0]),
                port(&names[2], false, optional[1]),
            ];
            let meant = of_short_form(&ports).map(|port| &**port.name);
            assert_eq!(meant, expected, "{optional:?}");
        }
        assert!(of_short_form(&[]).is_none());
    }
}
