//! Secrets are cut out of every text that leaves the process.

use std::borrow::Cow;

/// What stands in a secret's place.
pub const REDACTED: &str = "[redacted]";

/// Knows an app's secrets and cuts them out.
#[derive(Default, Clone)]
pub struct Redactor(Vec<Box<str>>);

impl Redactor {
    /// A redactor for these secrets. Very short ones (under 4 bytes) are left alone:
    /// they would be found in any text.
    pub fn new(secrets: impl IntoIterator<Item = String>) -> Self {
        let mut secrets: Vec<Box<str>> = secrets
            .into_iter()
            .filter(|secret| secret.len() >= 4)
            .map(String::into_boxed_str)
            .collect();
        // The longest first: one may contain another.
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// The text without secrets.
    pub fn clean<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let mut text = Cow::Borrowed(text);
        for secret in &self.0 {
            if text.contains(&**secret) {
                text = Cow::Owned(text.replace(&**secret, REDACTED));
            }
        }
        text
    }
}

impl std::fmt::Debug for Redactor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Redactor({} secrets)", self.0.len())
    }
}

/// A URL without its password.
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

/// The password in a URL, if it has one.
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
    fn a_password_is_cut_out_of_a_url() {
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
