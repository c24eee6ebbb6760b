//! CSV (RFC 4180): rows of fields, as objects or lists of texts.

use brickwork::prelude::JsonSchema;
use csv::{ReaderBuilder, StringRecord, WriterBuilder};
use serde::Deserialize;
use serde_json::Value;

use super::output::{self, Output};
use super::plain::scalar;
use crate::json::kind_of;

/// Details of CSV.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CsvOptions {
    /// The character between two fields; one ASCII character.
    pub delimiter: char,
    /// Whether the first row has the names of the columns. Without it a row is a list of texts.
    pub header: bool,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: ',',
            header: true,
        }
    }
}

impl CsvOptions {
    pub(crate) fn check(&self) -> Result<(), &'static str> {
        let delimiter = self.delimiter;
        match delimiter.is_ascii() && !matches!(delimiter, '"' | '\n' | '\r') {
            true => Ok(()),
            false => Err("it is one ASCII character, no quote and no line break"),
        }
    }
}

pub(super) fn decode(
    bytes: &[u8],
    options: &CsvOptions,
    bytes_max: usize,
) -> Result<String, String> {
    // Spreadsheets begin UTF-8 with a byte order mark.
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut reader = ReaderBuilder::new()
        .delimiter(options.delimiter as u8)
        .has_headers(false)
        .flexible(true)
        .from_reader(bytes);
    let mut header: Option<StringRecord> = None;
    let (mut row, mut count) = (StringRecord::new(), 0u64);
    let mut output = Output::new(bytes_max);
    output.raw("[")?;
    while reader
        .read_record(&mut row)
        .map_err(|error| problem(&error))?
    {
        if options.header && header.is_none() {
            check_header(&row)?;
            header = Some(row.clone());
            continue;
        }
        if count > 0 {
            output.raw(",")?;
        }
        count += 1;
        if let Some(names) = &header
            && names.len() != row.len()
        {
            let line = row.position().map_or(0, csv::Position::line);
            return Err(format!(
                "csv: line {line} has {} fields, the header has {}",
                row.len(),
                names.len()
            ));
        }
        write_row(&mut output, header.as_ref(), &row)?;
    }
    output.raw("]")?;
    Ok(output.finish())
}

fn write_row(
    output: &mut Output,
    header: Option<&StringRecord>,
    row: &StringRecord,
) -> Result<(), String> {
    output.raw(if header.is_some() { "{" } else { "[" })?;
    for (nth, field) in row.iter().enumerate() {
        if nth > 0 {
            output.raw(",")?;
        }
        if let Some(name) = header.and_then(|names| names.get(nth)) {
            output.string(name)?;
            output.raw(":")?;
        }
        output.string(field)?;
    }
    output.raw(if header.is_some() { "}" } else { "]" })
}

fn check_header(header: &StringRecord) -> Result<(), String> {
    let names: Vec<&str> = header.iter().collect();
    match names
        .iter()
        .enumerate()
        .find(|(nth, name)| names[..*nth].contains(name))
    {
        Some((nth, _)) => Err(format!(
            "csv: column {} of the header has the name of another",
            nth + 1
        )),
        None => Ok(()),
    }
}

fn problem(error: &csv::Error) -> String {
    let line = error.position().map(csv::Position::line);
    let reason = match error.kind() {
        csv::ErrorKind::Utf8 { err, .. } => format!("field {} is not UTF-8 text", err.field() + 1),
        _ => error.to_string(),
    };
    match line {
        Some(line) => format!("csv: line {line}: {reason}"),
        None => format!("csv: {reason}"),
    }
}

pub(super) fn encode(
    json: &str,
    options: &CsvOptions,
    bytes_max: usize,
) -> Result<Vec<u8>, String> {
    let rows: Vec<Value> = serde_json::from_str(json).map_err(|_| {
        let kind = kind_of(json.trim_start());
        format!("csv: the payload is {kind}, a list was expected")
    })?;
    let mut writer = WriterBuilder::new()
        .delimiter(options.delimiter as u8)
        .flexible(true)
        .from_writer(Vec::new());
    let names: Vec<&String> = match rows.first() {
        Some(Value::Object(first)) => first.keys().collect(),
        _ => Vec::new(),
    };
    if options.header && !names.is_empty() {
        writer
            .write_record(&names)
            .map_err(|error| problem(&error))?;
    }
    let mut bytes = 0;
    for (nth, row) in rows.iter().enumerate() {
        let fields = fields(nth, row, &names)?;
        bytes += fields.iter().map(|field| field.len() + 1).sum::<usize>();
        output::check(bytes, bytes_max)?;
        writer
            .write_record(&fields)
            .map_err(|error| problem(&error))?;
    }
    let bytes = writer
        .into_inner()
        .map_err(|error| format!("csv: {error}"))?;
    output::check(bytes.len(), bytes_max)?;
    Ok(bytes)
}

/// The fields of a row.
fn fields(nth: usize, row: &Value, names: &[&String]) -> Result<Vec<String>, String> {
    let text = |place: &dyn std::fmt::Display, value: &Value| {
        scalar(value).ok_or_else(|| {
            format!("csv: row {nth}: {place} is an object or a list, a text was expected")
        })
    };
    match row {
        Value::Object(row) if !names.is_empty() => {
            if let Some(name) = row.keys().find(|name| !names.contains(name)) {
                return Err(format!(
                    "csv: row {nth} has the field {name:?}, the first row lacks it"
                ));
            }
            let values = names.iter().map(|name| match row.get(*name) {
                Some(value) => text(name, value),
                None => Ok(String::new()),
            });
            values.collect()
        }
        Value::Array(row) if names.is_empty() => {
            let values = row.iter().enumerate();
            values.map(|(column, value)| text(&column, value)).collect()
        }
        _ => Err(format!(
            "csv: row {nth}: all rows are objects with fields, or all are lists"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, options: &CsvOptions) -> Result<String, String> {
        decode(text.as_bytes(), options, 200)
    }

    #[test]
    fn rows_are_objects_with_the_names_of_the_header_or_lists() {
        let text = "\u{feff}id,name\r\n1,\"a \"\"b\"\"\nc\"\r\n2,\r\n";
        let expected = r#"[{"id":"1","name":"a \"b\"\nc"},{"id":"2","name":""}]"#;
        assert_eq!(read(text, &CsvOptions::default()).unwrap(), expected);
        let options = CsvOptions {
            delimiter: ';',
            header: false,
        };
        assert_eq!(read("a;b\nc", &options).unwrap(), r#"[["a","b"],["c"]]"#);
        assert_eq!(read("", &CsvOptions::default()).unwrap(), "[]");
    }

    #[test]
    fn wrong_tables_are_refused_with_their_line() {
        for (text, expected) in [
            (
                &b"a,b\n1,2\n3\n"[..],
                "csv: line 3 has 1 fields, the header has 2",
            ),
            (b"a,a\n1,2\n", "column 2 of the header"),
            (b"a,b\n1,\xff\n", "csv: line 2: field 2 is not UTF-8"),
        ] {
            let error = decode(text, &CsvOptions::default(), 200).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        // Each row repeats the names.
        let wide = format!("{}\n{}", "a".repeat(100), "1\n".repeat(100));
        assert!(
            read(&wide, &CsvOptions::default())
                .unwrap_err()
                .contains("more than 200 bytes")
        );
    }

    #[test]
    fn values_that_csv_lacks_are_refused_with_their_row() {
        for (json, expected) in [
            ("{}", "csv: the payload is an object, a list was expected"),
            (r#"[{"a":1},{"b":1}]"#, "row 1 has the field \"b\""),
            (r#"[{"a":[1]}]"#, "row 0: a is an object or a list"),
            (r#"[[1],{"a":1}]"#, "row 1: all rows"),
            ("[1]", "row 0: all rows"),
        ] {
            let error = encode(json, &CsvOptions::default(), 200).unwrap_err();
            assert!(error.contains(expected), "{error}");
        }
        let text = encode(
            r#"[{"a":1,"b":null},{"a":true}]"#,
            &CsvOptions::default(),
            200,
        );
        assert_eq!(text.unwrap(), b"a,b\n1,\ntrue,\n");
    }
}
