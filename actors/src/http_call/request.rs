//! The request for a message, from expressions.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use brickwork::{Failure, JSON, Message};
use bytes::Bytes;
use http::Method;
use serde_json::Value;

use super::config::{BodyFormat, HttpCallConfig};
use crate::expression::{Expression, Reads, Scope};
use crate::http_client::{OutsideRequest, parse_header_name};

const CONTENT_TYPE: &str = "content-type";

/// The method of requests.
#[derive(Debug, Clone)]
pub(super) enum MethodRule {
    Fixed(Method),
    Expression(Expression),
}

/// Makes the request for a message.
#[derive(Debug)]
pub(super) struct RequestPlan {
    method: MethodRule,
    url: Expression,
    headers: Vec<(String, Expression)>,
    body: Option<Expression>,
    format: BodyFormat,
    content_type: Option<String>,
    idempotent: Option<bool>,
    idempotency_header: Option<String>,
    reads: Arc<Reads>,
}

impl MethodRule {
    /// Reads a method, or an expression for one.
    ///
    /// # Errors
    /// The text is neither a method nor an expression, or the method can't be used.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return method(text).map(Self::Fixed);
        }
        Expression::compile(text).map(Self::Expression)
    }

    fn get(&self, scope: &mut Scope<'_>) -> Result<Method, Failure> {
        match self {
            Self::Fixed(method) => Ok(method.clone()),
            Self::Expression(expression) => {
                let name = required_text("method", expression, scope)?;
                method(&name).map_err(Failure::reject)
            }
        }
    }
}

fn method(name: &str) -> Result<Method, String> {
    match name {
        "CONNECT" | "TRACE" => Err(format!("the method {name} can't be used")),
        _ => Method::from_bytes(name.as_bytes())
            .map_err(|_| format!("{name:?} is not an HTTP method")),
    }
}

/// Checks the name of a header.
///
/// # Errors
/// The text is no header name, or the connection owns the header.
pub(super) fn check_header_name(name: &str) -> Result<(), String> {
    parse_header_name(name).map(|_| ())
}

impl RequestPlan {
    /// Creates the plan of a valid config.
    pub(super) fn new(config: &HttpCallConfig) -> Result<Self, Failure> {
        let method = MethodRule::parse(&config.method).map_err(Failure::reject)?;
        let url = config
            .url
            .clone()
            .ok_or_else(|| Failure::reject("url is missing"))?;
        let by_method = match &method {
            MethodRule::Expression(expression) => Some(expression),
            MethodRule::Fixed(_) => None,
        };
        let all = config.headers.values().chain(&config.body).chain([&url]);
        let reads = Expression::reads(all.chain(by_method));
        Ok(Self {
            reads,
            method,
            url,
            headers: config.headers.clone().into_iter().collect(),
            body: config.body.clone(),
            format: config.format,
            content_type: config.content_type.clone(),
            idempotent: config.idempotent(),
            idempotency_header: config.idempotency_header.clone(),
        })
    }

    /// Returns the request for a message.
    ///
    /// # Errors
    /// A reject, if an expression has no value of the right type.
    pub(super) fn build(&self, message: &Message, attempt: u32) -> Result<OutsideRequest, Failure> {
        let mut scope = Scope::new(message, attempt).planned(&self.reads);
        let scope = &mut scope;
        let url = required_text("url", &self.url, scope)?;
        let mut request = OutsideRequest::new(self.method.get(scope)?, url);
        for (name, expression) in &self.headers {
            if let Some(value) = text(&format!("headers.{name}"), expression, scope)? {
                request.headers.push((name.clone(), value));
            }
        }
        if let Some(name) = &self.idempotency_header {
            request.headers.push((name.clone(), message.id.to_string()));
        }
        if let Some((kind, body)) = self.body(message, &request.method, scope)? {
            let named = |(name, _): &(String, String)| name.eq_ignore_ascii_case(CONTENT_TYPE);
            if !request.headers.iter().any(named) {
                let kind = self.content_type.clone().unwrap_or(kind);
                request.headers.push((CONTENT_TYPE.to_owned(), kind));
            }
            request.body = Some(body);
        }
        request.idempotent = self.idempotent.unwrap_or(request.idempotent);
        request.partition = message.tenant.as_deref().unwrap_or_default().to_owned();
        let mut hasher = DefaultHasher::new();
        message.id.to_string().hash(&mut hasher);
        request.message = hasher.finish();
        Ok(request)
    }

    /// Returns the body and its content type.
    fn body(
        &self,
        message: &Message,
        method: &Method,
        scope: &mut Scope<'_>,
    ) -> Result<Option<(String, Bytes)>, Failure> {
        let payload_type = || message.content_type.as_deref().unwrap_or(JSON).to_owned();
        let by_default = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        let expression = match (&self.body, by_default || self.format != BodyFormat::Json) {
            (Some(expression), _) => Some(expression),
            (None, true) => None,
            (None, false) => return Ok(None),
        };
        let json = |scope: &mut Scope<'_>| match expression {
            Some(expression) => expression.json(scope),
            None => Ok(String::from_utf8_lossy(&message.payload).into_owned()),
        };
        Ok(Some(match self.format {
            BodyFormat::Raw => (payload_type(), message.payload.clone()),
            BodyFormat::Json if expression.is_none() => (payload_type(), message.payload.clone()),
            BodyFormat::Json => (JSON.to_owned(), json(scope)?.into()),
            BodyFormat::Form => (
                "application/x-www-form-urlencoded".to_owned(),
                form(&json(scope)?).map_err(Failure::reject)?.into(),
            ),
            BodyFormat::Text => {
                let value = json(scope)?;
                let text = plain(&value).ok_or_else(|| {
                    Failure::reject(
                        "the value of body is a list, an object or null: text needs a text",
                    )
                })?;
                ("text/plain; charset=utf-8".to_owned(), text.into())
            }
        }))
    }
}

/// Returns the value of an expression as text; `None` for null.
fn text(
    key: &str,
    expression: &Expression,
    scope: &mut Scope<'_>,
) -> Result<Option<String>, Failure> {
    let json = expression.json(scope)?;
    if json == "null" {
        return Ok(None);
    }
    let text = plain(&json);
    text.map(Some).ok_or_else(|| {
        Failure::reject(format!(
            "the value of {key} is a list or an object, not a text"
        ))
    })
}

fn required_text(
    key: &str,
    expression: &Expression,
    scope: &mut Scope<'_>,
) -> Result<String, Failure> {
    let text = text(key, expression, scope)?;
    text.ok_or_else(|| Failure::reject(format!("the value of {key} is null, not a text")))
}

/// Returns a JSON text, number or boolean as plain text. Numbers keep their digits.
fn plain(json: &str) -> Option<String> {
    match json.as_bytes().first()? {
        b'"' => serde_json::from_str(json).ok(),
        b'[' | b'{' | b'n' => None,
        _ => Some(json.trim().to_owned()),
    }
}

/// Returns an object as a form. A list repeats its name, null is left out.
fn form(json: &str) -> Result<String, String> {
    let wrong = "a form is an object of texts, numbers and lists of them";
    let object: serde_json::Map<String, Value> =
        serde_json::from_str(json).map_err(|_| wrong.to_owned())?;
    let mut form = url::form_urlencoded::Serializer::new(String::new());
    for (name, value) in &object {
        let values = match value {
            Value::Array(list) => list.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            match value {
                Value::Null => {}
                Value::String(text) => {
                    form.append_pair(name, text);
                }
                Value::Bool(_) | Value::Number(_) => {
                    form.append_pair(name, &value.to_string());
                }
                Value::Array(_) | Value::Object(_) => {
                    return Err(format!("{wrong}: {name:?} isn't"));
                }
            }
        }
    }
    Ok(form.finish())
}

#[cfg(test)]
mod tests {
    use brickwork::{Envelope, FailureKind};
    use serde_json::json;

    use super::*;

    fn build(config: Value, payload: &'static str) -> Result<OutsideRequest, Failure> {
        let config: HttpCallConfig = serde_json::from_value(config).unwrap();
        RequestPlan::new(&config)
            .unwrap()
            .build(&Envelope::new("order", payload).into(), 1)
    }

    fn header<'r>(request: &'r OutsideRequest, name: &str) -> Option<&'r str> {
        let mut headers = request.headers.iter();
        headers.find_map(|(known, value)| (known == name).then_some(value.as_str()))
    }

    #[test]
    fn a_request_is_made_from_payload_and_envelope() {
        let request = build(
            json!({
                "method": "msg.n > 1 ? 'PUT' : 'GET'",
                "url": "'https://api.example.com/' + msg.id",
                "headers": {"X-Type": "meta.type", "X-N": "msg.n", "X-None": "null"},
                "body": "{'n': msg.n}",
            }),
            r#"{"id":"a b","n":123456789012345678901}"#,
        )
        .unwrap();
        assert_eq!(request.method, Method::PUT);
        assert_eq!(request.url, "https://api.example.com/a b");
        assert_eq!(header(&request, "X-Type"), Some("order"));
        assert_eq!(header(&request, "X-N"), Some("123456789012345678901"));
        assert_eq!(header(&request, "X-None"), None);
        assert_eq!(header(&request, CONTENT_TYPE), Some(JSON));
        assert_eq!(
            &request.body.unwrap()[..],
            br#"{"n":123456789012345678901}"#
        );
    }

    #[test]
    fn a_body_has_its_form_and_content_type() {
        let url = "'https://x.example/'";
        let payload = r#"{"a":"x y&z","l":[1,2],"n":null,"b":true}"#;
        for (config, kind, body) in [
            (json!({"url": url}), Some(JSON), Some(payload)),
            (json!({"url": url, "method": "GET"}), None, None),
            (
                json!({"url": url, "method": "DELETE", "body": "msg.l"}),
                Some(JSON),
                Some("[1,2]"),
            ),
            (
                json!({"url": url, "format": "raw", "content_type": "a/b"}),
                Some("a/b"),
                Some(payload),
            ),
            (
                json!({"url": url, "format": "form"}),
                Some("application/x-www-form-urlencoded"),
                Some("a=x+y%26z&b=true&l=1&l=2"),
            ),
            (
                json!({"url": url, "format": "text", "body": "msg.a"}),
                Some("text/plain; charset=utf-8"),
                Some("x y&z"),
            ),
        ] {
            let request = build(config.clone(), payload).unwrap();
            assert_eq!(header(&request, CONTENT_TYPE), kind, "{config}");
            let sent = request.body.as_deref().map(String::from_utf8_lossy);
            match config["format"] == "form" {
                // The order of names is not important.
                true => assert_eq!(sent.unwrap().len(), body.unwrap().len()),
                false => assert_eq!(sent.as_deref(), body, "{config}"),
            }
        }
    }

    #[test]
    fn the_idempotency_key_is_the_same_for_all_attempts() {
        let config: HttpCallConfig = serde_json::from_value(json!({
            "url": "'https://x.example/'", "idempotency_header": "Idempotency-Key",
        }))
        .unwrap();
        let plan = RequestPlan::new(&config).unwrap();
        let message: Message = Envelope::new("order", "{}").into();
        for attempt in 1..3 {
            let request = plan.build(&message, attempt).unwrap();
            let key = message.id.to_string();
            assert_eq!(header(&request, "Idempotency-Key"), Some(key.as_str()));
            assert!(request.idempotent);
        }
        for (config, expected) in [
            (json!({"url": "'https://x.example/'"}), false),
            (
                json!({"url": "'https://x.example/'", "idempotent": true}),
                true,
            ),
            (
                json!({"url": "'https://x.example/'", "method": "PUT"}),
                true,
            ),
        ] {
            assert_eq!(build(config, "{}").unwrap().idempotent, expected);
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_rejects_the_message() {
        for config in [
            json!({"url": "msg.list"}),
            json!({"url": "msg.nothing"}),
            json!({"url": "msg.missing"}),
            json!({"url": "'https://x.example/'", "method": "msg.list[0]"}),
            json!({"url": "'https://x.example/'", "headers": {"A": "msg"}}),
            json!({"url": "'https://x.example/'", "format": "form", "body": "msg.list"}),
            json!({"url": "'https://x.example/'", "format": "text"}),
        ] {
            let failure = build(config, r#"{"list":["a b"],"nothing":null}"#).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject, "{failure}");
        }
    }
}
