//! Redaction: removes secrets from every text that leaves the process.
//!
//! Owns the forms of a secret: as it is, and as JSON, `Debug` or a URL write it. A form that mixes
//! the secret with other bytes before encoding (such as base64 of a user and a password) can't be
//! recognised: code that makes such a form must not print it.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use parking_lot::RwLock;

/// Replacement for a secret.
pub const REDACTED: &str = "[redacted]";

/// Minimum length of a secret in bytes. Shorter texts occur everywhere and are not replaced.
const SECRET_BYTES_MIN: usize = 4;

/// The secrets of an app. Clones share them.
#[derive(Default, Clone)]
pub struct Redactor(Arc<RwLock<Secrets>>);

#[derive(Default)]
struct Secrets {
    count: usize,
    /// All forms of the secrets, the longest first.
    forms: Vec<Box<str>>,
}

impl Redactor {
    /// Creates a redactor for these secrets in every form. Secrets under 4 bytes are ignored: they
    /// would be found in any text.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let redactor = Self::default();
        for secret in secrets {
            redactor.add(&secret);
        }
        redactor
    }

    /// Adds a secret that was learnt later.
    pub fn add(&self, secret: &str) {
        let secret = secret.trim();
        if secret.len() < SECRET_BYTES_MIN || self.clean(secret) == REDACTED {
            return;
        }
        let mut secrets = self.0.write();
        secrets.count += 1;
        secrets.forms.extend(forms_of(secret));
        // A form may contain another one.
        secrets
            .forms
            .sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.forms.dedup();
    }

    /// Returns the text without secrets.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for form in &self.0.read().forms {
            if text.contains(&**form) {
                text = Cow::Owned(text.replace(&**form, REDACTED));
            }
        }
        text
    }
}

/// Returns all forms of a secret. Most secrets look the same in all of them.
fn forms_of(secret: &str) -> Vec<Box<str>> {
    // A password in a URL is encoded there, and plain in the answer of a broker.
    let plain = percent_decoded(secret);
    let mut forms = vec![secret.to_owned()];
    forms.extend(plain.filter(|plain| plain.len() >= SECRET_BYTES_MIN));
    // Twice: an escaped text is often part of another text that is escaped.
    for _ in 0..2 {
        let escaped: Vec<String> = forms.iter().flat_map(|form| escaped(form)).collect();
        forms.extend(escaped);
        forms.sort();
        forms.dedup();
    }
    forms.into_iter().map(String::into_boxed_str).collect()
}

fn escaped(text: &str) -> [String; 7] {
    let inside_quotes = |quoted: String| quoted[1..quoted.len() - 1].to_owned();
    [
        inside_quotes(serde_json::Value::from(text).to_string()),
        json_in_ascii(text),
        inside_quotes(format!("{text:?}")),
        text.escape_default().to_string(),
        percent_encoded(text, "%20", false),
        percent_encoded(text, "%20", true),
        percent_encoded(text, "+", false),
    ]
}

/// Returns JSON as encoders write it that use only ASCII.
fn json_in_ascii(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    let mut out = String::with_capacity(json.len());
    for character in json[1..json.len() - 1].chars() {
        if character.is_ascii() {
            out.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                // Writing to a string can't fail.
                let _infallible = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out
}

/// Percent-encodes all but the unreserved characters (RFC 3986, section 2.3).
fn percent_encoded(text: &str, space: &str, lower_case: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        // Writing to a string can't fail.
        let _infallible = match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
                Ok(())
            }
            b' ' => out.write_str(space),
            _ if lower_case => write!(out, "%{byte:02x}"),
            _ => write!(out, "%{byte:02X}"),
        };
    }
    out
}

/// Decodes a percent-encoded text. `None` if it is not valid.
fn percent_decoded(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let digits = text.get(at + 1..at + 3)?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.0.read().count)
    }
}

/// Returns a URL without its password.
pub fn without_password(url: &str) -> String {
    match password_of(url) {
        Some(password) => {
            let start = password.as_ptr() as usize - url.as_ptr() as usize;
            format!(
                "{}{REDACTED}{}",
                &url[..start],
                &url[start + password.len()..]
            )
        }
        None => url.to_owned(),
    }
}

/// Returns the password in a URL, if it has one.
pub fn password_of(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let (user, _) = authority.rsplit_once('@')?;
    let (_, password) = user.split_once(':')?;
    (!password.is_empty()).then_some(password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_stays_in_a_text() {
        let redactor = Redactor::new(["hunter2".into(), "hunter2-and-more".into(), "ab".into()]);
        assert_eq!(
            redactor.clean("hunter2-and-more, hunter2 and ab"),
            "[redacted], [redacted] and ab"
        );
        assert!(!format!("{redactor:?}").contains("hunter2"));
    }

    #[test]
    fn no_form_of_a_secret_stays_in_a_text() {
        let secret = "p\"ä\\s w/rd\n%7";
        let redactor = Redactor::new([secret.to_owned()]);
        let json = serde_json::json!({ "token": secret }).to_string();
        let debug = format!("{:?}", Some(secret));
        for text in [
            secret.to_owned(),
            serde_json::json!({ "body": json, "error": debug }).to_string(),
            json,
            format!("{:?}", vec![&debug]),
            debug,
            r#"{"token":"p\"\u00e4\\s w/rd\n%7"}"#.to_owned(),
            "https://host/?t=p%22%C3%A4%5Cs%20w%2Frd%0A%257&x".to_owned(),
            "https://host/?t=p%22%c3%a4%5cs%20w%2frd%0a%257&x".to_owned(),
            "t=p%22%C3%A4%5Cs+w%2Frd%0A%257".to_owned(),
        ] {
            let clean = redactor.clean(&text);
            assert!(clean.contains(REDACTED), "{text}");
            assert!(!clean.contains("rd"), "{text} became {clean}");
        }
    }

    #[test]
    fn a_secret_from_a_file_or_a_url_is_found_in_its_plain_form() {
        let redactor = Redactor::new(["from-a-file\n".into(), "p%40ss%2Fword".into()]);
        assert_eq!(
            redactor.clean("from-a-file, p%40ss%2Fword, p@ss/word"),
            "[redacted], [redacted], [redacted]"
        );
    }

    #[test]
    fn a_password_is_removed_from_a_url() {
        for (url, clean) in [
            (
                "amqp://u:p%40ss@host/v?x=1",
                "amqp://u:[redacted]@host/v?x=1",
            ),
            ("amqp://u@host", "amqp://u@host"),
            ("memory:", "memory:"),
            ("amqp://host/a:b@c", "amqp://host/a:b@c"),
        ] {
            assert_eq!(without_password(url), clean);
        }
    }
}
