//! The answer of a page: its records, its cursor and the way to the next page.

use std::sync::Arc;

use brickwork::{Envelope, Message};
use bytes::Bytes;
use http::HeaderMap;
use http::header::LINK;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use url::Url;

use super::config::{CursorConfig, PagesConfig, PollConfig};
use crate::expression::{Expression, Scope};
use crate::http_client::Answer;

/// A successful answer, as message for expressions.
pub(super) struct Page {
    message: Message,
    headers: HeaderMap,
}

/// A record of a page.
#[derive(Debug)]
pub(super) struct Record {
    /// JSON of the record, with sorted names.
    pub(super) json: Bytes,
    /// SHA-256 of its JSON, the first 16 bytes.
    pub(super) hash: String,
    /// The value of `id`.
    pub(super) id: Option<String>,
    /// The value of `cursor.field`.
    pub(super) cursor: Option<Value>,
}

/// The way to the next page.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Next {
    /// This was the last page.
    End,
    Url(Url),
    Token(Value),
    Number,
}

impl Page {
    pub(super) fn new(answer: Answer) -> Self {
        // An answer without content, such as 204, has no records.
        let body = match answer.body.trim_ascii().is_empty() {
            true => Bytes::from_static(b"null"),
            false => answer.body,
        };
        let mut envelope = Envelope::new("answer", body);
        for (name, value) in &answer.headers {
            if let Ok(value) = value.to_str() {
                envelope.headers.insert(name.as_str().into(), value.into());
            }
        }
        Self {
            message: envelope.into(),
            headers: answer.headers,
        }
    }

    /// Returns the records of the page.
    ///
    /// # Errors
    /// The body is not JSON, or an expression fails.
    pub(super) fn records(&self, config: &PollConfig) -> Result<Vec<Record>, String> {
        let whole = Expression::compile("msg")?;
        let expression = config.records.as_ref().unwrap_or(&whole);
        let json = evaluate(expression, &self.message)?;
        let wrong = |error: serde_json::Error| format!("the records can't be read: {error}");
        let records: Vec<&RawValue> = match json.as_bytes().first() {
            Some(b'[') => serde_json::from_str(&json).map_err(wrong)?,
            _ if json == "null" => Vec::new(),
            Some(b'{') if config.records.is_none() => {
                vec![serde_json::from_str(&json).map_err(wrong)?]
            }
            _ => {
                return Err(format!(
                    "the value of {:?} is not a list of records: set config.records",
                    expression.source()
                ));
            }
        };
        records
            .into_iter()
            .map(|record| Record::new(record.get(), config))
            .collect()
    }

    /// Returns the cursor that the answer has; null if none.
    ///
    /// # Errors
    /// The expression fails.
    pub(super) fn cursor(&self, config: &CursorConfig) -> Result<Value, String> {
        match &config.answer {
            None => Ok(Value::Null),
            Some(expression) => optional(expression, &self.message),
        }
    }

    /// Returns the way to the next page after a page with this URL and number of records.
    ///
    /// # Errors
    /// An expression fails, or the next page is on another host.
    pub(super) fn next(
        &self,
        config: &PagesConfig,
        url: &Url,
        records: usize,
    ) -> Result<Next, String> {
        if config.numbered {
            return Ok(if records == 0 {
                Next::End
            } else {
                Next::Number
            });
        }
        if let Some(expression) = &config.token {
            let token = optional(expression, &self.message)?;
            return Ok(match is_none(&token) {
                true => Next::End,
                false => Next::Token(token),
            });
        }
        let target = if config.link {
            let mut links = self.headers.get_all(LINK).iter();
            links.find_map(|link| link_next(link.to_str().ok()?))
        } else if let Some(expression) = &config.next_url {
            match optional(expression, &self.message)? {
                Value::String(target) if !target.is_empty() => Some(target),
                value if is_none(&value) => None,
                _ => return Err(format!("the value of {:?} is no URL", expression.source())),
            }
        } else {
            None
        };
        let Some(target) = target else {
            return Ok(Next::End);
        };
        let next = url.join(&target);
        let next = next.map_err(|error| format!("the next page has no valid URL: {error}"))?;
        match next.origin() == url.origin() {
            true => Ok(Next::Url(next)),
            false => Err(format!(
                "the next page is on another server ({}): its requests would carry the headers \
                 meant for this one",
                next.host_str().unwrap_or_default()
            )),
        }
    }
}

impl Record {
    fn new(json: &str, config: &PollConfig) -> Result<Self, String> {
        let message: Message = Envelope::new("record", json.to_owned()).into();
        let id = config.id.as_ref().map(|id| {
            let value = evaluate(id, &message)?;
            Ok::<String, String>(match serde_json::from_str(&value) {
                Ok(Value::String(text)) => text,
                _ => value,
            })
        });
        let cursor = config.cursor.field.as_ref().map(|field| {
            let value = evaluate(field, &message)?;
            serde_json::from_str(&value).map_err(|error| error.to_string())
        });
        let digest = Sha256::digest(json.as_bytes());
        Ok(Self {
            json: message.payload.clone(),
            hash: digest[..16]
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            id: id.transpose()?,
            cursor: cursor.transpose()?,
        })
    }

    /// Returns the message id and the subject. Records of polls without a cursor are new
    /// messages in each poll, which `poll` names.
    pub(super) fn names(&self, service: &str, poll: Option<&str>) -> (String, Option<Arc<str>>) {
        /// Maximum length of a record's id in a message id.
        const ID_BYTES_MAX: usize = 120;
        let version = match poll {
            Some(poll) => format!("{}-{poll}", &self.hash[..16]),
            None => self.hash.clone(),
        };
        let is_usable = |id: &&String| {
            id.len() <= ID_BYTES_MAX && !id.is_empty() && !id.chars().any(char::is_control)
        };
        let id = match self.id.as_ref().filter(is_usable) {
            Some(id) => format!("{service}/{id}@{version}"),
            None => format!("{service}@{version}"),
        };
        (id, self.id.as_deref().map(Arc::from))
    }
}

/// Evaluates an expression; null if a field is missing.
fn optional(expression: &Expression, message: &Message) -> Result<Value, String> {
    let value = expression.json_if_present(&mut Scope::new(message, 1));
    match value.map_err(|failure| failure.text().to_owned())? {
        None => Ok(Value::Null),
        Some(json) => serde_json::from_str(&json).map_err(|error| error.to_string()),
    }
}

fn evaluate(expression: &Expression, message: &Message) -> Result<String, String> {
    let value = expression.json(&mut Scope::new(message, 1));
    value.map_err(|failure| failure.text().to_owned())
}

/// Whether a value says that there is no next page.
fn is_none(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// Returns the target of `rel="next"` in a Link header (RFC 8288).
fn link_next(header: &str) -> Option<String> {
    let mut rest = header;
    while let Some((_, link)) = rest.split_once('<') {
        let (target, after) = link.split_once('>')?;
        // The parameters end at the next link.
        let end = after.find(",<").or_else(|| after.find(", <"));
        let parameters = &after[..end.unwrap_or(after.len())];
        let is_next = parameters.split(';').any(|parameter| {
            let Some((name, value)) = parameter.split_once('=') else {
                return false;
            };
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            name.trim().eq_ignore_ascii_case("rel")
                && value
                    .split_whitespace()
                    .any(|rel| rel.eq_ignore_ascii_case("next"))
        });
        if is_next {
            return Some(target.trim().to_owned());
        }
        rest = after;
    }
    None
}

#[cfg(test)]
#[path = "answer_tests.rs"]
mod tests;
