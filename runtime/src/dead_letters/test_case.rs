//! Test cases made of dead letters: the message, the failure, and the expected result, which a
//! person fills in.
//!
//! The format is TOML, so that people can read it, change it and keep it beside the manifest.
//! Reading refuses unknown keys.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use super::{Encoding, LetterView};
use crate::dead_letter::Reason;
use crate::message::{Envelope, Message};

/// Maximum length of an error in the name of a case, in characters.
const NAME_ERROR_CHARS_MAX: usize = 60;

const HEAD: &str = r#"# Test cases, made of dead letters.
# `expect` is the result that the service should have from now on: "ok" if it handles the
# message, "reject" if it dead-letters it at once, "error" if it fails. Add the messages that
# it should emit to a case:
#
#   [[case.emits]]
#   output = "out"
#   payload = '{"a":1}'
"#;

/// The test cases of a file: printed and parsed as TOML.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCases {
    /// The cases: `[[case]]`.
    #[serde(rename = "case", default)]
    pub cases: Vec<TestCase>,
}

/// A test case.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCase {
    /// The name of the case.
    pub name: String,
    /// The label of the service.
    pub service: String,
    /// The input that the message comes to.
    pub input: String,
    /// The expected result.
    pub expect: Expected,
    /// The messages to be emitted, in order; empty if they are not checked.
    #[serde(default)]
    pub emits: Vec<Emitted>,
    /// The message.
    pub message: CaseMessage,
    /// The failure that made the dead letter; for people.
    pub happened: Option<Observed>,
}

/// The expected result of handling a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expected {
    /// The message is handled.
    Ok,
    /// The message is rejected.
    Reject,
    /// The handler fails, and the message is retried.
    Error,
}

/// A message to be emitted.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Emitted {
    /// The name of the output.
    pub output: String,
    /// The payload, as text.
    pub payload: String,
}

/// The message of a test case.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaseMessage {
    /// The message's id.
    pub id: String,
    /// The message's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The topic that the message was published to.
    pub topic: String,
    /// The message's source.
    #[serde(default)]
    pub source: String,
    /// The message's subject.
    pub subject: Option<String>,
    /// The payload's media type; JSON if missing.
    pub content_type: Option<String>,
    /// The customer that the message belongs to.
    pub tenant: Option<String>,
    /// The payload, if it is text.
    pub payload: Option<String>,
    /// The payload in base64, if it is no text.
    pub payload_base64: Option<String>,
    /// The message's headers.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

/// The failure that made a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// The reason.
    pub reason: Reason,
    /// The text of the last failure.
    pub error: String,
    /// The number of attempts.
    pub attempts: u32,
    /// When the message was given up (RFC 3339).
    pub failed_at: String,
    /// The fingerprint of the letter's group.
    pub fingerprint: String,
}

/// Why test cases can't be read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum InvalidCases {
    /// The text is not TOML, or has a wrong or unknown key.
    #[error("can't read the test cases: {0}")]
    Toml(String),
    /// A message has a wrong field.
    #[error("can't make the message {id}: {why}")]
    Message {
        /// The message's id.
        id: String,
        /// The wrong field, and the fault.
        why: String,
    },
}

impl TestCase {
    /// Makes a test case of a letter, which expects that the message is handled. The view must
    /// have the whole payload.
    pub fn from_letter(letter: &LetterView) -> Self {
        let input = letter.input.clone().unwrap_or_default();
        let mut name = format!("{}.{input}: {}", letter.service, letter.id);
        if let Some(error) = &letter.error {
            let words: Vec<&str> = error.split_whitespace().collect();
            let words = words.join(" ");
            let cut: String = words.chars().take(NAME_ERROR_CHARS_MAX).collect();
            let more = if cut.len() < words.len() { "…" } else { "" };
            name.push_str(&format!(": {cut}{more}"));
        }
        let payload = Some(letter.payload_text().into_owned());
        let (payload, payload_base64) = match letter.encoding {
            Encoding::Base64 => (None, payload),
            Encoding::Json | Encoding::Text => (payload, None),
        };
        Self {
            name,
            service: letter.service.clone(),
            input,
            expect: Expected::Ok,
            emits: Vec::new(),
            message: CaseMessage {
                id: letter.id.clone(),
                kind: letter.kind.clone(),
                topic: letter.topic.clone(),
                source: letter.source.clone(),
                subject: letter.subject.clone(),
                content_type: letter.content_type.clone(),
                tenant: letter.tenant.clone(),
                payload,
                payload_base64,
                headers: letter.headers.clone(),
            },
            happened: letter.reason.map(|reason| Observed {
                reason,
                error: letter.error.clone().unwrap_or_default(),
                attempts: letter.attempts.unwrap_or_default(),
                failed_at: letter.failed_at.clone().unwrap_or_default(),
                fingerprint: letter.fingerprint.clone(),
            }),
        }
    }
}

impl CaseMessage {
    /// The message to send.
    ///
    /// # Errors
    /// The id or the payload is not valid.
    pub fn message(&self) -> Result<Message, InvalidCases> {
        let wrong = |why: String| InvalidCases::Message {
            id: self.id.clone(),
            why,
        };
        let payload = match (&self.payload, &self.payload_base64) {
            (payload, None) => payload.clone().unwrap_or_default().into_bytes(),
            (None, Some(base64)) => BASE64_STANDARD
                .decode(base64)
                .map_err(|error| wrong(format!("`payload_base64` is no base64: {error}")))?,
            (Some(_), Some(_)) => {
                return Err(wrong("it has both `payload` and `payload_base64`".into()));
            }
        };
        let mut envelope = Envelope::new(&*self.kind, payload);
        envelope.id = self
            .id
            .parse()
            .map_err(|error| wrong(format!("`id`: {error}")))?;
        envelope.topic = self.topic.as_str().into();
        envelope.source = self.source.as_str().into();
        envelope.subject = self.subject.as_deref().map(Into::into);
        envelope.content_type = self.content_type.as_deref().map(Into::into);
        envelope.tenant = self.tenant.as_deref().map(Into::into);
        for (name, value) in &self.headers {
            let (name, value) = (name.as_str().into(), value.as_str().into());
            envelope.headers.insert(name, value);
        }
        Ok(envelope.into())
    }
}

impl FromStr for TestCases {
    type Err = InvalidCases;

    fn from_str(text: &str) -> Result<Self, InvalidCases> {
        toml::from_str(text).map_err(|error| InvalidCases::Toml(error.to_string()))
    }
}

impl fmt::Display for TestCases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HEAD)?;
        self.cases.iter().try_for_each(|case| write!(f, "\n{case}"))
    }
}

impl fmt::Display for TestCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let message = &self.message;
        f.write_str("[[case]]\n")?;
        put(f, "name", &self.name)?;
        put(f, "service", &self.service)?;
        put(f, "input", &self.input)?;
        put(f, "expect", self.expect.as_str())?;
        f.write_str("\n[case.message]\n")?;
        put(f, "id", &message.id)?;
        put(f, "type", &message.kind)?;
        put(f, "topic", &message.topic)?;
        put(f, "source", &message.source)?;
        for (key, value) in [
            ("subject", &message.subject),
            ("content_type", &message.content_type),
            ("tenant", &message.tenant),
            ("payload", &message.payload),
            ("payload_base64", &message.payload_base64),
        ] {
            if let Some(value) = value {
                put(f, key, value)?;
            }
        }
        if !message.headers.is_empty() {
            f.write_str("\n[case.message.headers]\n")?;
            for (name, value) in &message.headers {
                put(f, name, value)?;
            }
        }
        for emitted in &self.emits {
            f.write_str("\n[[case.emits]]\n")?;
            put(f, "output", &emitted.output)?;
            put(f, "payload", &emitted.payload)?;
        }
        if let Some(happened) = &self.happened {
            f.write_str("\n[case.happened]\n")?;
            put(f, "reason", happened.reason.as_str())?;
            put(f, "error", &happened.error)?;
            writeln!(f, "attempts = {}", happened.attempts)?;
            put(f, "failed_at", &happened.failed_at)?;
            put(f, "fingerprint", &happened.fingerprint)?;
        }
        Ok(())
    }
}

impl Expected {
    /// The value as written in files.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Reject => "reject",
            Self::Error => "error",
        }
    }
}

/// `key = "value"`, as TOML 1.0 writes it.
fn put(f: &mut fmt::Formatter<'_>, key: &str, value: &str) -> fmt::Result {
    let is_bare = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    match !key.is_empty() && key.chars().all(is_bare) {
        true => f.write_str(key)?,
        false => f.write_str(&escaped(key))?,
    }
    f.write_str(" = ")?;
    // JSON is easier to read in a literal string, without escapes.
    let has_quotes = value.contains(['"', '\\']);
    let is_literal = has_quotes && !value.contains(|c: char| c == '\'' || c.is_control());
    match is_literal {
        true => writeln!(f, "'{value}'"),
        false => writeln!(f, "{}", escaped(value)),
    }
}

/// A basic string. JSON escapes like TOML, except for one character.
fn escaped(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('\u{7f}', "\\u007F")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::DeadLetter;
    use crate::dead_letters::Letter;
    use crate::redact::Redactor;

    fn case(payload: &[u8]) -> TestCase {
        let mut envelope = Envelope::new("order", payload.to_vec());
        envelope.id = "order 17".parse().unwrap();
        envelope.topic = "orders".into();
        envelope.source = "/shop/front".into();
        envelope.tenant = Some("Ada & Söhne".into());
        envelope
            .headers
            .insert("x.y z".into(), "it's\n\"so\"".into());
        let record = DeadLetter {
            reason: Reason::Reject,
            error: "no \"stock\"\n\tat all, as far as the shelves show, and they were all read"
                .into(),
            service: "stock".into(),
            input: "requests".into(),
            attempts: 5,
            failed_at_ms: 1_795_390_323_123,
        };
        let letter = Letter::new(record.letter(&envelope.into()));
        TestCase::from_letter(&letter.view("stock", usize::MAX, &Redactor::default()))
    }

    #[test]
    fn a_case_is_written_as_toml_that_a_person_can_complete() {
        let cases = TestCases {
            cases: vec![case(br#"{"sku": "a", "n": 0.10}"#)],
        };
        let text = cases.to_string();
        let case = text.strip_prefix(HEAD).unwrap();
        assert_eq!(
            case,
            r#"
[[case]]
name = 'stock.requests: order 17: no "stock" at all, as far as the shelves show, and they were…'
service = "stock"
input = "requests"
expect = "ok"

[case.message]
id = "order 17"
type = "order"
topic = "orders"
source = "/shop/front"
tenant = "Ada & Söhne"
payload = '{"sku": "a", "n": 0.10}'

[case.message.headers]
"x.y z" = "it's\n\"so\""

[case.happened]
reason = "reject"
error = "no \"stock\"\n\tat all, as far as the shelves show, and they were all read"
attempts = 5
failed_at = "2026-11-22T23:32:03.123Z"
fingerprint = "FINGERPRINT"
"#
            .replace(
                "FINGERPRINT",
                &cases.cases[0].happened.as_ref().unwrap().fingerprint
            )
        );
    }

    #[test]
    fn a_written_case_can_be_read_and_its_message_sent() {
        let payloads: [&[u8]; 7] = [
            b"",
            b"{\"a\":\"it's\"}",
            b"'''\"\"\"\\",
            b"tab\t cr\r lf\n del\x7f nul\x00",
            b"\xff\x00\xfe",
            "ä€𝄞\u{2028}".as_bytes(),
            b"\"text\"",
        ];
        let mut cases = TestCases {
            cases: payloads.iter().map(|payload| case(payload)).collect(),
        };
        cases.cases[0].emits.push(Emitted {
            output: "out".into(),
            payload: "{}".into(),
        });
        cases.cases[1].expect = Expected::Reject;
        cases.cases[2].expect = Expected::Error;
        let read: TestCases = cases.to_string().parse().unwrap();
        assert_eq!(read, cases);
        for (case, payload) in read.cases.iter().zip(payloads) {
            let message = case.message.message().unwrap();
            assert_eq!(&message.payload[..], payload);
            assert_eq!(message.id.to_string(), "order 17");
            assert_eq!(&*message.headers["x.y z"], "it's\n\"so\"");
            assert_eq!((&*message.topic, &*message.kind), ("orders", "order"));
            assert_eq!(message.tenant.as_deref(), Some("Ada & Söhne"));
        }
        // The example in the head can be added to a case.
        let example: String = HEAD
            .lines()
            .filter_map(|line| line.strip_prefix("#   "))
            .map(|line| format!("{line}\n"))
            .collect();
        let with_example = TestCases {
            cases: vec![case(b"{}")],
        };
        let read: TestCases = format!("{with_example}\n{example}").parse().unwrap();
        assert_eq!(read.cases[0].emits[0].payload, "{\"a\":1}");
    }

    #[test]
    fn wrong_values_and_unknown_keys_are_refused() {
        let text = TestCases {
            cases: vec![case(b"{}")],
        }
        .to_string();
        let wrong = text.replace("expect = \"ok\"", "expect = \"fine\"");
        let error = wrong.parse::<TestCases>().unwrap_err().to_string();
        assert!(error.contains("expected one of `ok`"), "{error}");
        let wrong = text.replace("topic =", "topics =");
        let error = wrong.parse::<TestCases>().unwrap_err().to_string();
        assert!(error.contains("unknown field `topics`"), "{error}");
        let mut message = case(b"{}").message;
        message.payload_base64 = Some("e30=".into());
        assert!(message.message().is_err());
        message.payload = None;
        assert_eq!(&message.message().unwrap().payload[..], b"{}");
        message.payload_base64 = Some("?".into());
        assert!(message.message().is_err());
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_written_and_read_again(text in "\\PC*[\u{0}-\u{1f}'\"\\\\\u{7f}]{0,3}\\PC*") {
            let mut one = case(b"{}");
            one.message.payload = Some(text.clone());
            one.message.headers.insert(text.clone(), text.clone());
            one.name = text;
            let cases = TestCases { cases: vec![one] };
            let read: TestCases = cases.to_string().parse().unwrap();
            proptest::prop_assert_eq!(read, cases);
        }
    }
}
