//! From a message to a mail.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use brickwork::{Failure, Message as Incoming};
use lettre::Message;
use lettre::message::header::ContentType;
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::config::MailOutConfig;
use crate::expression::{Expression, Scope};

/// An attachment as an expression gives it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Attached {
    name: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    base64: String,
}

/// Makes the mail of a message. The same message makes a mail with the same Message-ID.
///
/// # Errors
/// A reject, if a part can't be made: an expression fails, an address is wrong, a header has a
/// line break.
pub(super) fn compose(
    config: &MailOutConfig,
    message: &Incoming,
    attempt: u32,
) -> Result<Message, Failure> {
    let mut parts = Parts(Scope::new(message, attempt));
    let senders = parts.mailboxes("from", config.from.as_ref())?;
    let [from] = senders.as_slice() else {
        return Err(wrong("from", "it is not one address"));
    };
    let mut builder = Message::builder()
        .message_id(Some(message_id(&message.id.to_string(), from)))
        .from(from.clone());
    let mut recipients = 0;
    for mailbox in parts.mailboxes("to", config.to.as_ref())? {
        builder = builder.to(mailbox);
        recipients += 1;
    }
    for mailbox in parts.mailboxes("cc", config.cc.as_ref())? {
        builder = builder.cc(mailbox);
        recipients += 1;
    }
    for mailbox in parts.mailboxes("bcc", config.bcc.as_ref())? {
        builder = builder.bcc(mailbox);
        recipients += 1;
    }
    if recipients == 0 {
        return Err(wrong("to", "there is no recipient"));
    }
    for mailbox in parts.mailboxes("reply_to", config.reply_to.as_ref())? {
        builder = builder.reply_to(mailbox);
    }
    let subject = parts
        .text("subject", config.subject.as_ref())?
        .unwrap_or_default();
    builder = builder.subject(one_line("subject", subject)?);
    let text = parts.text("text", config.text.as_ref())?;
    let html = parts.text("html", config.html.as_ref())?;
    let attachments = parts.attachments(config.attachments.as_ref())?;
    let mail = match (text, html, attachments.is_empty()) {
        (Some(text), None, true) => builder.singlepart(SinglePart::plain(text)),
        (None, Some(html), true) => builder.singlepart(SinglePart::html(html)),
        (text, html, no_attachments) => {
            let body = match (text, html) {
                (Some(text), Some(html)) => MultiPart::alternative_plain_html(text, html),
                (Some(text), None) => MultiPart::mixed().singlepart(SinglePart::plain(text)),
                (None, Some(html)) => MultiPart::mixed().singlepart(SinglePart::html(html)),
                (None, None) => return Err(wrong("text", "the mail has no body")),
            };
            if no_attachments {
                builder.multipart(body)
            } else {
                let mixed = MultiPart::mixed().multipart(body);
                let mixed = attachments.into_iter().fold(mixed, MultiPart::singlepart);
                builder.multipart(mixed)
            }
        }
    };
    mail.map_err(|error| Failure::reject(format!("the mail can't be made: {error}")))
}

fn wrong(part: &str, text: impl std::fmt::Display) -> Failure {
    Failure::reject(format!("{part}: {text}"))
}

/// The Message-ID of a message's mail, in the sender's domain. An id with characters that a
/// Message-ID can't have is hashed.
fn message_id(id: &str, from: &Mailbox) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let is_dotted = id.starts_with('.') || id.ends_with('.') || id.contains("..");
    let local = match id.chars().all(is_plain) && !is_dotted {
        true => id.to_owned(),
        false => Sha256::digest(id)
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect(),
    };
    format!("<{local}@{}>", from.email.domain())
}

/// Refuses texts that would add lines to the head of a mail.
fn one_line(part: &str, text: String) -> Result<String, Failure> {
    match text.chars().any(char::is_control) {
        true => Err(wrong(
            part,
            "it has a line break or another control character",
        )),
        false => Ok(text),
    }
}

/// Evaluates the expressions of a mail.
struct Parts<'m>(Scope<'m>);

impl Parts<'_> {
    fn value(&mut self, part: &str, expression: Option<&Expression>) -> Result<Value, Failure> {
        let Some(expression) = expression else {
            return Ok(Value::Null);
        };
        let json = expression.json(&mut self.0)?;
        serde_json::from_str(&json).map_err(|error| wrong(part, error))
    }

    /// A text; `None` for null and without an expression.
    fn text(
        &mut self,
        part: &str,
        expression: Option<&Expression>,
    ) -> Result<Option<String>, Failure> {
        match self.value(part, expression)? {
            Value::Null => Ok(None),
            Value::String(text) => Ok(Some(text)),
            Value::Number(number) => Ok(Some(number.to_string())),
            _ => Err(wrong(part, "it is no text")),
        }
    }

    /// An address, or a list of addresses; none for null.
    fn mailboxes(
        &mut self,
        part: &str,
        expression: Option<&Expression>,
    ) -> Result<Vec<Mailbox>, Failure> {
        let texts = match self.value(part, expression)? {
            Value::Null => Vec::new(),
            Value::Array(texts) => texts,
            text => vec![text],
        };
        let mailbox = |text: Value| match text {
            Value::String(text) => {
                let text = one_line(part, text)?;
                text.parse()
                    .map_err(|error| wrong(part, format!("{text:?} is no address: {error}")))
            }
            _ => Err(wrong(part, "it is no address and no list of addresses")),
        };
        texts.into_iter().map(mailbox).collect()
    }

    fn attachments(&mut self, expression: Option<&Expression>) -> Result<Vec<SinglePart>, Failure> {
        const PART: &str = "attachments";
        let attached: Option<Vec<Attached>> = serde_json::from_value(self.value(PART, expression)?)
            .map_err(|error| {
                wrong(
                    PART,
                    format!("it is no list of name, type and base64: {error}"),
                )
            })?;
        let part = |attached: Attached| {
            let name = one_line(PART, attached.name)?;
            let kind = attached
                .kind
                .as_deref()
                .unwrap_or("application/octet-stream");
            let kind = one_line(PART, kind.to_owned())?;
            let kind = ContentType::parse(&kind)
                .map_err(|error| wrong(PART, format!("the type of {name:?}: {error}")))?;
            let bytes = BASE64
                .decode(&attached.base64)
                .map_err(|error| wrong(PART, format!("{name:?} is no base64: {error}")))?;
            Ok(Attachment::new(name).body(bytes, kind))
        };
        attached.unwrap_or_default().into_iter().map(part).collect()
    }
}

#[cfg(test)]
mod tests {
    use brickwork::{Envelope, FailureKind};
    use serde_json::json;

    use super::*;

    fn compose_of(payload: &Value, more: &Value) -> Result<String, Failure> {
        let mut config = json!({
            "server": "s", "from": "'Shop <shop@example.com>'", "to": "msg.to",
            "subject": "msg.subject", "text": "msg.text",
        });
        let entries = more.as_object().unwrap().clone();
        config.as_object_mut().unwrap().extend(entries);
        let config: MailOutConfig = serde_json::from_value(config).unwrap();
        let mut envelope = Envelope::new("order", payload.to_string());
        envelope.id = "order-1".parse().unwrap();
        let mail = compose(&config, &envelope.into(), 1)?;
        Ok(String::from_utf8(mail.formatted()).unwrap())
    }

    fn payload() -> Value {
        json!({"to": ["a@example.com", "B <b@example.com>"], "subject": "Grüße", "text": "Hello\n.\n"})
    }

    #[test]
    fn a_mail_has_its_parts_and_the_id_of_its_message() {
        let mail = compose_of(&payload(), &json!({"bcc": "'c@example.com'"})).unwrap();
        assert!(mail.contains("From: Shop <shop@example.com>\r\n"), "{mail}");
        assert!(
            mail.contains("Message-ID: <order-1@example.com>\r\n"),
            "{mail}"
        );
        assert!(mail.contains("b@example.com"), "{mail}");
        assert!(!mail.contains("c@example.com"), "{mail}");
    }

    #[test]
    fn text_html_and_attachments_stand_beside_each_other() {
        let attachments = r#"[{"name": "a.txt", "type": "text/plain", "base64": "SGk="}]"#;
        let more = json!({"html": "'<b>' + msg.text + '</b>'", "attachments": attachments});
        let mail = compose_of(&payload(), &more).unwrap();
        for part in [
            "multipart/mixed",
            "multipart/alternative",
            "text/html",
            "filename=\"a.txt\"",
        ] {
            assert!(mail.contains(part), "{part}: {mail}");
        }
    }

    #[test]
    fn a_wrong_part_is_a_reject_that_names_it() {
        let with = |name: &str, value: Value| {
            let mut payload = payload();
            payload[name] = value;
            payload
        };
        for (payload, more, expected) in [
            (
                with("subject", json!("x\r\nBcc: e@example.com")),
                json!({}),
                "subject: it has a line break",
            ),
            (
                with("to", json!("a@example.com\r\nRCPT TO:<e@example.com>")),
                json!({}),
                "to: it has a line break",
            ),
            (
                with("to", json!("nobody")),
                json!({}),
                "to: \"nobody\" is no address",
            ),
            (with("to", json!([])), json!({}), "there is no recipient"),
            (with("to", json!(7)), json!({}), "to: it is no address"),
            (
                payload(),
                json!({"from": "['a@b.example', 'c@d.example']"}),
                "from: it is not one address",
            ),
            (
                payload(),
                json!({"attachments": r#"[{"name": "a", "base64": "%"}]"#}),
                "\"a\" is no base64",
            ),
            (
                payload(),
                json!({"attachments": r#"[{"name": "a\r\nb", "base64": ""}]"#}),
                "attachments: it has a line break",
            ),
            (
                payload(),
                json!({"attachments": "'x'"}),
                "it is no list of name",
            ),
        ] {
            let failure = compose_of(&payload, &more).unwrap_err();
            assert_eq!(failure.kind(), FailureKind::Reject);
            assert!(failure.text().contains(expected), "{expected}: {failure}");
        }
    }

    #[test]
    fn an_id_that_a_header_can_t_have_is_hashed() {
        let from: Mailbox = "a@example.com".parse().unwrap();
        assert_eq!(message_id("a-1", &from), "<a-1@example.com>");
        for id in ["a b", "a>", ".a", "a..b", "ä"] {
            let hashed = message_id(id, &from);
            assert_eq!(hashed.len(), 64 + "<@example.com>".len(), "{hashed}");
        }
    }
}
