//! Makes the signed request of a message.

use bytes::Bytes;
use http::Method;
use serde_json::Value;
use sha2::{Digest, Sha256};

use brickwork::prelude::*;
use brickwork::{JSON, Message};

use super::WebhookOutConfig;
use crate::expression::{Expression, Scope};
use crate::http_client::OutsideRequest;
use crate::standard_webhooks::{SigningKey, sign, webhook_id};

const ID: &str = "webhook-id";
const TIMESTAMP: &str = "webhook-timestamp";
const SIGNATURE: &str = "webhook-signature";
/// Maximum bytes of the name of an endpoint.
const ENDPOINT_BYTES_MAX: usize = 1024;

/// # Errors
/// The text is no name of a header that a config may set.
pub(super) fn check_header(name: &str) -> Result<(), String> {
    const OF_THE_SERVICE: [&str; 7] = [
        ID,
        TIMESTAMP,
        SIGNATURE,
        "connection",
        "content-length",
        "host",
        "transfer-encoding",
    ];
    let parsed: http::HeaderName = name
        .parse()
        .map_err(|_| format!("{name:?} can't be the name of a header"))?;
    match OF_THE_SERVICE.contains(&parsed.as_str()) {
        true => Err(format!("webhook-out itself sets the header {parsed}")),
        false => Ok(()),
    }
}

/// The request of a message, without its time and signature, which differ in each try.
pub(super) struct Unsigned {
    url: String,
    /// Name of the endpoint.
    pub(super) endpoint: String,
    id: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    keys: Vec<SigningKey>,
}

/// Makes requests of messages.
pub(super) struct RequestMaker {
    config: WebhookOutConfig,
    /// The keys of `secrets`.
    keys: Vec<SigningKey>,
}

impl RequestMaker {
    /// # Errors
    /// A secret is malformed.
    pub(super) fn new(config: &WebhookOutConfig) -> Result<Self, Failure> {
        let secrets = config.secrets.iter();
        let keys = secrets.map(|secret| SigningKey::new(secret.reveal()).map_err(Failure::reject));
        Ok(Self {
            keys: keys.collect::<Result<_, _>>()?,
            config: config.clone(),
        })
    }

    /// # Errors
    /// A reject: an expression fails on the message, or its value does not fit.
    pub(super) fn make(&self, message: &Message, attempt: u32) -> Result<Unsigned, Failure> {
        let mut scope = Scope::new(message, attempt);
        let url = text_of("url", &self.config.url, &mut scope)?;
        let endpoint = match &self.config.endpoint {
            Some(endpoint) => text_of("endpoint", endpoint, &mut scope)?,
            None => without_query(&url)?,
        };
        if endpoint.is_empty() || endpoint.len() > ENDPOINT_BYTES_MAX {
            let text = format!("the name of the endpoint has not 1 to {ENDPOINT_BYTES_MAX} bytes");
            return Err(Failure::reject(text));
        }
        let keys = match &self.config.secret {
            Some(secret) => keys_of(secret, &mut scope)?,
            None => self.keys.clone(),
        };
        let content_type = message.content_type.as_deref().unwrap_or(JSON);
        let content_type = match self.config.body {
            Some(_) => JSON,
            None => content_type,
        };
        let mut headers = vec![("content-type".to_owned(), content_type.to_owned())];
        for (name, value) in &self.config.headers {
            let value = text_of(name, value, &mut scope)?;
            headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
            headers.push((name.clone(), value));
        }
        let body = match &self.config.body {
            Some(body) => body.json(&mut scope)?.into(),
            None => message.payload.clone(),
        };
        Ok(Unsigned {
            url,
            endpoint,
            id: webhook_id(&message.id),
            headers,
            body,
            keys,
        })
    }
}

impl Unsigned {
    /// Signs the request for a try at this time.
    pub(super) fn sign(&self, now_s: u64) -> OutsideRequest {
        let signature = sign(&self.keys, &self.id, now_s, &self.body);
        let mut request = OutsideRequest::new(Method::POST, self.url.clone());
        request.headers = self.headers.clone();
        let own = [
            (ID, self.id.clone()),
            (TIMESTAMP, now_s.to_string()),
            (SIGNATURE, signature),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        request.headers.extend(own);
        request.body = Some(self.body.clone());
        // Receivers know a message again by its id.
        request.idempotent = true;
        request.partition = self.endpoint.clone();
        let digest = Sha256::digest(self.id.as_bytes());
        let number = digest[..8].try_into().expect("a digest has 32 bytes");
        request.message = u64::from_be_bytes(number);
        request
    }
}

/// The value of an expression that must be a text. The error does not show it: it may be secret.
fn text_of(name: &str, expression: &Expression, scope: &mut Scope<'_>) -> Result<String, Failure> {
    match serde_json::from_str(&expression.json(scope)?) {
        Ok(Value::String(text)) => Ok(text),
        _ => Err(Failure::reject(format!(
            "the value of {name} is not a text"
        ))),
    }
}

fn keys_of(secret: &Expression, scope: &mut Scope<'_>) -> Result<Vec<SigningKey>, Failure> {
    let not_text = || Failure::reject("the value of secret is neither a text nor a list of texts");
    let secrets = match serde_json::from_str(&secret.json(scope)?) {
        Ok(Value::String(text)) => vec![text],
        Ok(Value::Array(texts)) => {
            let texts = texts.into_iter().map(|text| match text {
                Value::String(text) => Ok(text),
                _ => Err(not_text()),
            });
            texts.collect::<Result<_, _>>()?
        }
        _ => return Err(not_text()),
    };
    if secrets.is_empty() {
        return Err(Failure::reject("the value of secret is an empty list"));
    }
    let keys = secrets.iter().map(|secret| {
        let key = SigningKey::new(secret);
        key.map_err(|text| Failure::reject(format!("the secret of the message: {text}")))
    });
    keys.collect()
}

/// A URL without user, password, query and fragment.
fn without_query(url: &str) -> Result<String, Failure> {
    let parsed = url::Url::parse(url);
    let mut url = parsed.map_err(|error| Failure::reject(format!("the URL: {error}")))?;
    url.set_query(None);
    url.set_fragment(None);
    // A URL that can have neither is refused by the client.
    let _ = (url.set_username(""), url.set_password(None));
    Ok(url.into())
}

#[cfg(test)]
mod tests {
    use brickwork::Envelope;
    use serde_json::json;

    use super::*;

    fn make(config: Value, payload: &'static str) -> Result<OutsideRequest, Failure> {
        let mut config = config;
        config["allow"] = json!(["*"]);
        let config: WebhookOutConfig = serde_json::from_value(config).unwrap();
        let mut envelope = Envelope::new("order", payload);
        envelope.id = "msg-1".parse().unwrap();
        let maker = RequestMaker::new(&config)?;
        Ok(maker.make(&envelope.into(), 1)?.sign(1_614_265_330))
    }

    fn header<'r>(request: &'r OutsideRequest, name: &str) -> Option<&'r str> {
        let mut headers = request.headers.iter();
        let found = headers.find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_message_becomes_a_signed_request() {
        let config = json!({
            "url": "'https://hooks.example.com/a?key=' + msg.key",
            "secrets": ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "before"],
            "body": "{'type': meta.type, 'data': msg.data}",
            "headers": { "X-Kind": "meta.type" },
        });
        let request = make(config, r#"{"key":"x","data":[1]}"#).unwrap();
        assert_eq!(request.url, "https://hooks.example.com/a?key=x");
        assert_eq!(request.partition, "https://hooks.example.com/a");
        let body = request.body.as_deref().unwrap();
        assert_eq!(body, br#"{"data":[1],"type":"order"}"#);
        assert_eq!(header(&request, "webhook-id"), Some("msg-1"));
        assert_eq!(header(&request, "webhook-timestamp"), Some("1614265330"));
        assert_eq!(header(&request, "content-type"), Some("application/json"));
        assert_eq!(header(&request, "x-kind"), Some("order"));
        let signatures = header(&request, "webhook-signature").unwrap();
        assert_eq!(signatures.split(' ').count(), 2);
    }

    #[test]
    fn url_and_secret_may_come_from_the_message_and_are_not_shown() {
        let config = json!({ "url": "msg.url", "secret": "msg.secret", "endpoint": "msg.name" });
        let request = make(
            config.clone(),
            r#"{"url":"https://a.example/","secret":["one","two"],"name":"a"}"#,
        );
        let request = request.unwrap();
        assert_eq!(request.partition, "a");
        assert_eq!(
            header(&request, "webhook-signature")
                .unwrap()
                .split(' ')
                .count(),
            2
        );
        for (payload, expected) in [
            (r#"{"url":7,"secret":"x","name":"a"}"#, "url is not a text"),
            (
                r#"{"url":"https://a/","secret":[],"name":"a"}"#,
                "empty list",
            ),
            (
                r#"{"url":"https://a/","secret":{"s3cret":1},"name":"a"}"#,
                "a list",
            ),
            (
                r#"{"url":"https://a/","secret":"whsec_s3cret!","name":"a"}"#,
                "base64",
            ),
            (
                r#"{"url":"https://a/","secret":"x","name":""}"#,
                "name of the endpoint",
            ),
            ("nonsense", "not JSON"),
        ] {
            let failure = make(config.clone(), payload).err().unwrap();
            assert_eq!(failure.kind(), brickwork::FailureKind::Reject);
            assert!(failure.text().contains(expected), "{failure}");
            assert!(!failure.text().contains("s3cret!"), "{failure}");
        }
    }

    #[test]
    fn the_name_of_an_endpoint_has_no_credentials() {
        let name = |url: &str| without_query(url).unwrap();
        assert_eq!(
            name("https://u:p@A.example:443/x?key=1#f"),
            "https://a.example/x"
        );
        assert!(without_query("no url").is_err());
    }
}
