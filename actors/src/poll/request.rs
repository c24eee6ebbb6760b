//! The request of a page.

use brickwork::{Envelope, Message};
use bytes::Bytes;
use serde_json::{Value, json};
use url::Url;

use super::config::PollConfig;
use crate::expression::{Expression, Scope};
use crate::http_client::OutsideRequest;

/// The values that expressions of a request read as `msg`.
#[derive(Debug, Clone)]
pub(super) struct Variables<'a> {
    pub(super) cursor: Option<&'a Value>,
    pub(super) until: Option<Value>,
    /// Number of the page, from 1.
    pub(super) page: u32,
    /// Records of the pages before.
    pub(super) offset: u64,
    /// Token of the page before.
    pub(super) token: Option<Value>,
}

impl Default for Variables<'_> {
    fn default() -> Self {
        Self {
            cursor: None,
            until: None,
            page: 1,
            offset: 0,
            token: None,
        }
    }
}

impl Variables<'_> {
    fn message(&self) -> Message {
        let values = json!({
            "cursor": self.cursor,
            "until": self.until,
            "page": self.page,
            "offset": self.offset,
            "token": self.token,
        });
        Envelope::new("request", values.to_string()).into()
    }
}

/// Builds the request of a page; `url` is that of a next page, by which the API has told
/// everything.
///
/// # Errors
/// The config key of an expression that fails, and the text of the problem.
pub(super) fn build(
    config: &PollConfig,
    variables: &Variables<'_>,
    url: Option<Url>,
) -> Result<OutsideRequest, (String, String)> {
    let message = variables.message();
    let url = match (url, &config.url) {
        (Some(url), _) => url,
        (None, None) => return Err(("url".to_owned(), "it is missing".to_owned())),
        (None, Some(expression)) => first_url(config, expression, &message)?,
    };
    let mut request = OutsideRequest::new(config.method(), url);
    // Polls only read: a lost answer is no harm.
    request.idempotent = true;
    for (name, expression) in &config.headers {
        let at = format!("headers.{name}");
        if let Some(value) = text(&at, expression, &message)? {
            request.headers.push((name.clone(), value));
        }
    }
    for (name, secret) in &config.secret_headers {
        request
            .headers
            .push((name.clone(), secret.reveal().to_owned()));
    }
    let has = |name: &str| {
        request
            .headers
            .iter()
            .any(|(known, _)| known.eq_ignore_ascii_case(name))
    };
    let (has_accept, has_type) = (has("accept"), has("content-type"));
    if !has_accept {
        request
            .headers
            .push(("Accept".to_owned(), "application/json".to_owned()));
    }
    if let Some(body) = &config.body {
        let value = evaluate("body", body, &message)?;
        if !has_type {
            request
                .headers
                .push(("Content-Type".to_owned(), "application/json".to_owned()));
        }
        request.body = Some(Bytes::from(value));
    }
    Ok(request)
}

fn first_url(
    config: &PollConfig,
    expression: &Expression,
    message: &Message,
) -> Result<Url, (String, String)> {
    let wrong = |text: String| ("url".to_owned(), text);
    let value = text("url", expression, message)?;
    let value = value.ok_or_else(|| wrong("the URL is null".to_owned()))?;
    // The text of the error does not repeat the URL, which may hold a secret.
    let mut url = Url::parse(&value).map_err(|error| wrong(format!("it is not a URL: {error}")))?;
    for (name, expression) in &config.query {
        if let Some(value) = text(&format!("query.{name}"), expression, message)? {
            url.query_pairs_mut().append_pair(name, &value);
        }
    }
    Ok(url)
}

fn evaluate(
    at: &str,
    expression: &Expression,
    message: &Message,
) -> Result<String, (String, String)> {
    let value = expression.json(&mut Scope::new(message, 1));
    value.map_err(|failure| (at.to_owned(), failure.text().to_owned()))
}

/// Evaluates an expression to a text; `None` for null.
fn text(
    at: &str,
    expression: &Expression,
    message: &Message,
) -> Result<Option<String>, (String, String)> {
    let json = evaluate(at, expression, message)?;
    match serde_json::from_str(&json) {
        Ok(Value::Null) => Ok(None),
        Ok(Value::String(text)) => Ok(Some(text)),
        Ok(Value::Number(_) | Value::Bool(_)) => Ok(Some(json)),
        _ => {
            let text = format!("the value of {:?} is not a text", expression.source());
            Err((at.to_owned(), text))
        }
    }
}
