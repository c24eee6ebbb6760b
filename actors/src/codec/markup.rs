//! XML: elements as objects.
//!
//! An element is a text, or an object with its attributes (`@name`), its children (a list if a
//! name repeats) and its text (`#text`). Entities of a document type could expand without bound:
//! such documents are refused.

use quick_xml::events::{BytesRef, BytesStart, Event};
use quick_xml::{Reader, XmlVersion, escape};
use serde_json::{Map, Value};

use super::output::{self, Output};
use super::plain::scalar;
use super::{Format, text_of};
use crate::json::kind_of;

/// Maximum nesting of elements.
const DEPTH_MAX: usize = 60;
/// Maximum elements and attributes of a document: each takes more memory than its text.
const NODES_MAX: usize = 200_000;
const TEXT: &str = "#text";

/// An element whose end was not read yet.
struct Open {
    name: String,
    fields: Map<String, Value>,
    text: String,
}

impl Open {
    fn close(mut self) -> (String, Value) {
        if self.fields.is_empty() {
            return (self.name, self.text.into());
        }
        // White space between elements lays the document out.
        if !self.text.trim().is_empty() {
            self.fields.insert(TEXT.to_owned(), self.text.into());
        }
        (self.name, self.fields.into())
    }

    fn add(&mut self, name: String, value: Value) {
        match self.fields.get_mut(&name) {
            None => {
                self.fields.insert(name, value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => {
                let values = vec![first.take(), value];
                *first = values.into();
            }
        }
    }
}

/// A document under construction.
#[derive(Default)]
struct Document {
    open: Vec<Open>,
    root: Option<(String, Value)>,
    nodes: usize,
}

impl Document {
    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), String> {
        if self.root.is_some() {
            return Err("there is a second root element".to_owned());
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("elements are nested deeper than {DEPTH_MAX}"));
        }
        self.count()?;
        let mut fields = Map::new();
        for attribute in start.attributes() {
            self.count()?;
            let attribute = attribute.map_err(|error| error.to_string())?;
            let name = name(attribute.key.0)?;
            let value = attribute.normalized_value(XmlVersion::Implicit1_0);
            let value = value.map_err(|error| error.to_string())?;
            fields.insert(format!("@{name}"), value.into_owned().into());
        }
        self.open.push(Open {
            name: name(start.name().0)?,
            fields,
            text: String::new(),
        });
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.nodes += 1;
        match self.nodes <= NODES_MAX {
            true => Ok(()),
            false => Err(format!(
                "there are more than {NODES_MAX} elements and attributes"
            )),
        }
    }

    fn end(&mut self) -> Result<(), String> {
        let open = self.open.pop().ok_or("an element ends that is not open")?;
        let (name, value) = open.close();
        match self.open.last_mut() {
            Some(parent) => parent.add(name, value),
            None => self.root = Some((name, value)),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(open) => open.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err("there is text outside of the root element".to_owned()),
        }
        Ok(())
    }

    fn event(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::Start(start) => self.start(start),
            Event::Empty(start) => self.start(start).and_then(|()| self.end()),
            Event::End(_) => self.end(),
            Event::Text(text) => self.text(&text.xml10_content()),
            Event::CData(text) => self.text(&text.xml10_content()),
            Event::GeneralRef(reference) => self.text(&character(reference)?.to_string()),
            Event::DocType(_) => Err("document types are not read: remove <!DOCTYPE …>".to_owned()),
            Event::Comment(_) | Event::Decl(_) | Event::PI(_) | Event::Eof => Ok(()),
        }
    }
}

/// The character of `&#65;` or of a predefined entity.
fn character(reference: &BytesRef<'_>) -> Result<char, String> {
    let resolved = reference.resolve_char_ref();
    if let Some(character) = resolved.map_err(|error| error.to_string())? {
        return Ok(character);
    }
    match &*reference.xml10_content() {
        "amp" => Ok('&'),
        "lt" => Ok('<'),
        "gt" => Ok('>'),
        "quot" => Ok('"'),
        "apos" => Ok('\''),
        name => Err(format!("there is no entity &{name};")),
    }
}

fn name(name: &str) -> Result<String, String> {
    match is_name(name) {
        true => Ok(name.to_owned()),
        false => Err(format!("{name:?} is no name")),
    }
}

pub(super) fn decode(bytes: &[u8], bytes_max: usize) -> Result<String, String> {
    let text = text_of(Format::Xml, bytes)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let at = |offset: u64, error: &dyn std::fmt::Display| {
        let before = text.get(..offset as usize).unwrap_or(text);
        let line = before.matches('\n').count() + 1;
        let column = before
            .rsplit('\n')
            .next()
            .unwrap_or_default()
            .chars()
            .count()
            + 1;
        format!("xml: line {line}, column {column}: {error}")
    };
    let mut reader = Reader::from_str(text);
    let mut document = Document::default();
    loop {
        let from = reader.buffer_position();
        let event = match reader.read_event() {
            Ok(Event::Eof) => break,
            Ok(event) => event,
            Err(error) => return Err(at(reader.error_position(), &error)),
        };
        document.event(&event).map_err(|error| at(from, &error))?;
    }
    let end = reader.buffer_position();
    if let Some(open) = document.open.last() {
        return Err(at(end, &format!("the element <{}> has no end", open.name)));
    }
    let (name, value) = document
        .root
        .ok_or_else(|| at(end, &"there is no element"))?;
    let root = Value::Object(Map::from_iter([(name, value)]));
    let mut output = Output::new(bytes_max);
    output.raw(&root.to_string())?;
    Ok(output.finish())
}

pub(super) fn encode(json: &str, bytes_max: usize) -> Result<Vec<u8>, String> {
    let value: Value = serde_json::from_str(json).map_err(|error| format!("xml: {error}"))?;
    let root = match &value {
        Value::Object(fields) if fields.len() == 1 => fields.iter().next(),
        _ => None,
    };
    let Some((name, root)) = root else {
        let kind = kind_of(json.trim_start());
        return Err(format!(
            "xml: the payload is {kind}, an object with one field was expected: the root element"
        ));
    };
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
    write(&mut text, name, root, 1).map_err(|error| format!("xml: {error}"))?;
    output::check(text.len(), bytes_max)?;
    Ok(text.into_bytes())
}

/// Writes the element of a value; of a list, one element for each item.
fn write(text: &mut String, name: &str, value: &Value, depth: usize) -> Result<(), String> {
    if depth > DEPTH_MAX {
        return Err(format!(
            "{name}: elements are nested deeper than {DEPTH_MAX}"
        ));
    }
    if !is_name(name) {
        return Err(format!("{name:?} can't be the name of an element"));
    }
    match value {
        Value::Array(items) if depth > 1 => {
            for item in items {
                if item.is_array() {
                    return Err(format!("{name}: a list in a list has no elements"));
                }
                write(text, name, item, depth)?;
            }
            return Ok(());
        }
        Value::Array(_) => return Err(format!("{name}: a document has one root element")),
        _ => {}
    }
    text.push('<');
    text.push_str(name);
    let Value::Object(fields) = value else {
        text.push('>');
        let value = scalar(value).unwrap_or_default();
        text.push_str(&escaped(name, &value)?);
        return end(text, name);
    };
    let attributes = fields
        .iter()
        .filter_map(|(field, value)| Some((field.strip_prefix('@')?, value)));
    for (attribute, value) in attributes {
        let value = scalar(value).ok_or_else(|| format!("{name}: @{attribute} is not a text"))?;
        if !is_name(attribute) {
            return Err(format!(
                "{name}: {attribute:?} can't be the name of an attribute"
            ));
        }
        let value = escaped(name, &value)?
            .replace('\n', "&#10;")
            .replace('\t', "&#9;");
        text.push_str(&format!(" {attribute}=\"{value}\""));
    }
    text.push('>');
    for (field, value) in fields.iter().filter(|(field, _)| !field.starts_with('@')) {
        if field == TEXT {
            let value = scalar(value).ok_or_else(|| format!("{name}: {TEXT} is not a text"))?;
            text.push_str(&escaped(name, &value)?);
        } else {
            write(text, field, value, depth + 1)?;
        }
    }
    end(text, name)
}

fn end(text: &mut String, name: &str) -> Result<(), String> {
    text.push_str(&format!("</{name}>"));
    Ok(())
}

/// Escapes a text, so that a reader gets each of its characters back.
fn escaped(name: &str, text: &str) -> Result<String, String> {
    let is_allowed = |character: char| matches!(character, '\t' | '\n' | '\r' | '\u{20}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    match text.chars().find(|character| !is_allowed(*character)) {
        Some(wrong) => Err(format!("{name}: XML has no character {wrong:?}")),
        None => Ok(escape::escape(text).replace('\r', "&#13;")),
    }
}

fn is_name(name: &str) -> bool {
    let mut characters = name.chars();
    let first = |c: char| c.is_alphabetic() || matches!(c, '_' | ':');
    let other = |c: char| first(c) || c.is_numeric() || matches!(c, '-' | '.' | '\u{b7}');
    characters.next().is_some_and(first) && characters.all(other)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(text: &str) -> Result<Value, String> {
        let json = decode(text.as_bytes(), 10_000)?;
        Ok(serde_json::from_str(&json).unwrap())
    }

    #[test]
    fn an_element_is_an_object_or_a_text() {
        let text = r#"<?xml version="1.0"?>
            <!-- an order -->
            <order id="7" note='a &quot;b&quot;'>
                <line sku="A">2</line><line/>
                <to><![CDATA[<Ada> & ]]>Co&amp;&#x41;</to>
            </order>"#;
        let expected = json!({"order": {
            "@id": "7", "@note": "a \"b\"",
            "line": [{"@sku": "A", "#text": "2"}, ""],
            "to": "<Ada> & Co&A",
        }});
        assert_eq!(read(text).unwrap(), expected);
    }

    #[test]
    fn wrong_documents_are_refused_with_their_place() {
        let deep = format!("{}{}", "<a>".repeat(100), "</a>".repeat(100));
        let bomb = "<!DOCTYPE a [<!ENTITY b 'bb'>]><a>&b;</a>";
        for (text, expected) in [
            ("", "xml: line 1, column 1: there is no element"),
            ("<a>\n <b></a>", "xml: line 2, column"),
            (
                "<a>\n<b>",
                "xml: line 2, column 4: the element <b> has no end",
            ),
            ("<a/><b/>", "second root"),
            ("<a/>x", "text outside"),
            ("<a>&nbsp;</a>", "no entity &nbsp;"),
            ("<a b='1' b='2'/>", "column 1"),
            (&deep, "nested deeper than 60"),
            (bomb, "document types are not read"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let many = format!("<a>{}</a>", "<b/>".repeat(NODES_MAX));
        assert!(
            decode(many.as_bytes(), 10 << 20)
                .unwrap_err()
                .contains("more than 200000")
        );
    }

    #[test]
    fn values_that_xml_lacks_are_refused_with_their_element() {
        for (value, expected) in [
            (json!([1]), "the payload is a list"),
            (
                json!({"a": 1, "b": 2}),
                "the payload is an object, an object with one field",
            ),
            (json!({"a": [1, 2]}), "one root element"),
            (json!({"a": {"b": [[1]]}}), "b: a list in a list"),
            (json!({"a": {"@b": {}}}), "a: @b is not a text"),
            (json!({"a b": 1}), "\"a b\" can't be the name"),
            (json!({"a": "\u{1}"}), "a: XML has no character '\\u{1}'"),
        ] {
            let error = encode(&value.to_string(), 10_000).unwrap_err();
            assert!(error.contains(expected), "{value}: {error}");
        }
    }

    #[test]
    fn a_document_is_written_with_escapes() {
        let value = json!({"a": {"@b": "x\"\n<", "c": ["1 < 2", null, true, 1.5], "#text": "t"}});
        let text = String::from_utf8(encode(&value.to_string(), 10_000).unwrap()).unwrap();
        let expected = "<a b=\"x&quot;&#10;&lt;\">t<c>1 &lt; 2</c><c></c><c>true</c><c>1.5</c></a>";
        assert_eq!(text.lines().nth(1), Some(expected));
    }
}
