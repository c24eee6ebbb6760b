//! A TOML tree in which every key and value has its source position, and the merge of an
//! overlay into a tree.
//!
//! This module does not know the meaning of any key.

use toml::de::{DeTable, DeValue};

use super::source::Span;

/// A value and its place.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) span: Span,
    pub(super) value: Value,
    /// Whether the value is the text of a variable, which may stand for another type.
    pub(super) is_variable: bool,
}

#[derive(Debug, Clone)]
pub(super) enum Value {
    String(String),
    Integer(i128),
    Float(f64),
    Bool(bool),
    Datetime(String),
    Array(Vec<Node>),
    Table(Table),
    /// A wrong value that has been reported. Readers skip it without a second report.
    Broken,
}

/// Keys in the order of the file.
#[derive(Debug, Clone, Default)]
pub(super) struct Table {
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Span,
    pub(super) node: Node,
}

impl Entry {
    /// Returns the place of an entry in a report: the key of a table, otherwise the value.
    pub(super) fn place(&self) -> Span {
        match self.node.value {
            Value::Table(_) => self.key_span,
            _ => self.node.span,
        }
    }
}

impl Table {
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Converts a parsed file.
    pub(super) fn from_toml(file: usize, table: &DeTable<'_>) -> Self {
        let mut entries: Vec<Entry> = table
            .iter()
            .map(|(key, value)| Entry {
                key: key.get_ref().to_string(),
                key_span: span(file, key.span()),
                node: Node::from_toml(file, value.get_ref(), value.span()),
            })
            .collect();
        entries.sort_by_key(|entry| entry.key_span);
        Self { entries }
    }

    /// Merges an overlay into this table: tables merge, other values replace.
    pub(super) fn merge(&mut self, over: Self) {
        for entry in over.entries {
            let Some(mine) = self.entries.iter_mut().find(|mine| mine.key == entry.key) else {
                self.entries.push(entry);
                continue;
            };
            match (&mut mine.node.value, entry.node.value) {
                (Value::Table(mine), Value::Table(over)) => mine.merge(over),
                (_, value) => {
                    mine.key_span = entry.key_span;
                    mine.node = Node::new(entry.node.span, value);
                }
            }
        }
    }
}

impl Node {
    pub(super) fn new(span: Span, value: Value) -> Self {
        Self {
            span,
            value,
            is_variable: false,
        }
    }

    /// Makes the text of a variable a number or a boolean if it is one. Called where the
    /// manifest has no text.
    pub(super) fn read_variable(&mut self) {
        self.value = self.literal();
    }

    /// The value where the manifest has a number or a boolean: that of a variable is read.
    pub(super) fn literal(&self) -> Value {
        let Value::String(text) = &self.value else {
            return self.value.clone();
        };
        let text = text.trim();
        let is_decimal = |c: char| c.is_ascii_digit() || matches!(c, '-' | '.' | 'e' | 'E' | '+');
        match text {
            _ if !self.is_variable => self.value.clone(),
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            _ => match (text.parse(), text.parse()) {
                (Ok(integer), _) => Value::Integer(integer),
                (_, Ok(float)) if text.chars().all(is_decimal) => Value::Float(float),
                _ => self.value.clone(),
            },
        }
    }

    fn from_toml(file: usize, value: &DeValue<'_>, range: std::ops::Range<usize>) -> Self {
        let value = match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(integer) => {
                match i128::from_str_radix(integer.as_str(), integer.radix()) {
                    Ok(integer) => Value::Integer(integer),
                    // The number exceeds every range a key allows, and so does this one.
                    Err(_) if integer.as_str().starts_with('-') => Value::Integer(i128::MIN),
                    Err(_) => Value::Integer(i128::MAX),
                }
            }
            DeValue::Float(float) => Value::Float(float.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(value) => Value::Bool(*value),
            DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
            DeValue::Array(items) => Value::Array(
                items
                    .iter()
                    .map(|item| Self::from_toml(file, item.get_ref(), item.span()))
                    .collect(),
            ),
            DeValue::Table(table) => Value::Table(Table::from_toml(file, table)),
        };
        Self::new(span(file, range), value)
    }

    /// Returns the name of the value's type for an error text.
    pub(super) fn kind(&self) -> &'static str {
        match self.value {
            Value::String(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Bool(_) => "a boolean",
            Value::Datetime(_) => "a date or time",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
            Value::Broken => "broken",
        }
    }

    /// Returns whether any part is broken.
    pub(super) fn has_broken(&self) -> bool {
        match &self.value {
            Value::Broken => true,
            Value::Array(items) => items.iter().any(Self::has_broken),
            Value::Table(table) => table.entries.iter().any(|entry| entry.node.has_broken()),
            _ => false,
        }
    }

    /// Visits every scalar, as a text with its place.
    pub(super) fn scalars(&self, visit: &mut dyn FnMut(Span, String)) {
        match &self.value {
            Value::String(text) | Value::Datetime(text) => visit(self.span, text.clone()),
            Value::Integer(integer) => visit(self.span, integer.to_string()),
            Value::Float(float) => visit(self.span, float.to_string()),
            Value::Bool(_) | Value::Broken => {}
            Value::Array(items) => items.iter().for_each(|item| item.scalars(visit)),
            Value::Table(table) => {
                for entry in &table.entries {
                    entry.node.scalars(visit);
                }
            }
        }
    }
}

fn span(file: usize, range: std::ops::Range<usize>) -> Span {
    Span {
        file,
        start: range.start,
        end: range.end,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(file: usize, text: &str) -> Table {
        let (parsed, errors) = DeTable::parse_recoverable(text);
        assert!(errors.is_empty(), "{errors:?}");
        Table::from_toml(file, parsed.get_ref())
    }

    fn at<'a>(table: &'a Table, path: &str) -> &'a Entry {
        let (first, rest) = path.split_once('.').unwrap_or((path, ""));
        let entry = table.get(first).unwrap();
        match &entry.node.value {
            Value::Table(inner) if !rest.is_empty() => at(inner, rest),
            _ => entry,
        }
    }

    #[test]
    fn entries_keep_the_order_and_the_places_of_the_file() {
        let text = "[z]\nb = 1\na = 'x'\n[y]\n";
        let table = table(0, text);
        let keys: Vec<&str> = table.entries.iter().map(|e| e.key.as_str()).collect();
        assert_eq!(keys, ["z", "y"]);
        let entry = at(&table, "z.a");
        assert_eq!(&text[entry.key_span.start..entry.key_span.end], "a");
        assert_eq!(&text[entry.node.span.start..entry.node.span.end], "'x'");
    }

    #[test]
    fn an_overlay_merges_tables_and_replaces_values() {
        let mut base = table(0, "a = 1\nlist = [1, 2]\n[t]\nx = 1\ny = 2\n");
        base.merge(table(
            1,
            "list = [3]\nnew = true\n[t]\ny = 'other'\n[a]\nb = 1\n",
        ));
        assert!(matches!(at(&base, "t.x").node.value, Value::Integer(1)));
        assert!(matches!(&at(&base, "t.y").node.value, Value::String(text) if text == "other"));
        assert_eq!(at(&base, "t.y").node.span.file, 1);
        assert!(matches!(&at(&base, "list").node.value, Value::Array(items) if items.len() == 1));
        assert!(matches!(at(&base, "a.b").node.value, Value::Integer(1)));
        assert!(matches!(at(&base, "new").node.value, Value::Bool(true)));
    }
}
