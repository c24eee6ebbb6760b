//! Config of `mail-out`.

use std::time::Duration;

use brickwork::ConfigError;
use brickwork::config::{HumanDuration, ManifestPath, Secret};
use brickwork::prelude::*;
use serde::Deserialize;

use crate::expression::Expression;

/// Minimum of `rate`: a mail every ten seconds.
const RATE_MIN: f64 = 0.1;

/// Config of `mail-out`: a server, and expressions over `msg` and `meta` for the parts of a mail.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MailOutConfig {
    /// Name of the SMTP server, such as `smtp.example.com`.
    pub server: String,
    /// Port of the server. By default 465 with `tls = "required"`, 587 with `starttls`, 25 with
    /// `none`.
    pub port: Option<u16>,
    /// Encryption of the connection. The certificate and the name of the server are verified.
    pub tls: Tls,
    /// File with the certificates (PEM) of the authorities that are trusted; by default those of
    /// the system.
    pub ca: ManifestPath,
    /// User at the server; by default there is no login.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Expression for the sender: `name@example.com` or `Name <name@example.com>`.
    pub from: Option<Expression>,
    /// Expression for the recipients: an address or a list of addresses.
    pub to: Option<Expression>,
    /// Expression for the recipients of a copy.
    pub cc: Option<Expression>,
    /// Expression for recipients that the others don't see.
    pub bcc: Option<Expression>,
    /// Expression for the address that answers go to.
    pub reply_to: Option<Expression>,
    /// Expression for the subject, one line.
    pub subject: Option<Expression>,
    /// Expression for the body as plain text.
    pub text: Option<Expression>,
    /// Expression for the body as HTML; with `text`, the reader's program chooses.
    pub html: Option<Expression>,
    /// Expression for a list of attachments, each an object with `name`, `type` (by default
    /// `application/octet-stream`) and `base64`.
    pub attachments: Option<Expression>,
    /// Maximum mails per second of all instances in a process; at least 0.1.
    pub rate: Option<f64>,
    /// Maximum time to hand over one mail.
    pub timeout: HumanDuration,
}

/// The encryption of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// TLS from the first byte.
    #[default]
    Required,
    /// TLS after the command STARTTLS; a server that does not offer it is refused.
    Starttls,
    /// No encryption.
    None,
}

impl Default for MailOutConfig {
    fn default() -> Self {
        Self {
            server: String::new(),
            port: None,
            tls: Tls::default(),
            ca: ManifestPath::default(),
            user: None,
            password: None,
            from: None,
            to: None,
            cc: None,
            bcc: None,
            reply_to: None,
            subject: None,
            text: None,
            html: None,
            attachments: None,
            rate: None,
            timeout: HumanDuration(Duration::from_secs(20)),
        }
    }
}

impl MailOutConfig {
    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            Tls::Required => 465,
            Tls::Starttls => 587,
            Tls::None => 25,
        })
    }

    /// Validates the config.
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: &str| errors.push(ConfigError::new(path, text));
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':');
        if self.server.is_empty() || !self.server.chars().all(is_name) {
            wrong(
                "server",
                "it is the name of a server, such as smtp.example.com",
            );
        }
        for (path, expression) in [
            ("from", &self.from),
            ("to", &self.to),
            ("subject", &self.subject),
        ] {
            if expression.is_none() {
                wrong(
                    path,
                    "it is missing: set an expression, such as \"'ops@example.com'\"",
                );
            }
        }
        if self.text.is_none() && self.html.is_none() {
            wrong("text", "the mail has no body: set text, html or both");
        }
        match (&self.user, &self.password) {
            (Some(_), None) => wrong("password", "it is missing: the user has one"),
            (None, Some(_)) => wrong("user", "it is missing: the password belongs to one"),
            (Some(_), Some(_)) if self.tls == Tls::None => {
                wrong(
                    "tls",
                    "a password is sent over an encrypted connection only",
                );
            }
            _ => {}
        }
        if self.tls == Tls::None && !self.ca.as_os_str().is_empty() {
            wrong("ca", "it has no effect without TLS");
        }
        if self
            .rate
            .is_some_and(|rate| !(rate >= RATE_MIN && rate.is_finite()))
        {
            wrong("rate", "it is at least 0.1");
        }
        if self.timeout.0.is_zero() {
            wrong("timeout", "it is zero: set a time, such as 20s");
        }
        crate::config_errors::result(errors)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wrong(config: serde_json::Value) -> Vec<String> {
        let config: MailOutConfig = serde_json::from_value(config).unwrap();
        let errors = config.check().err().unwrap_or_default();
        errors.into_iter().map(|error| error.path).collect()
    }

    #[test]
    fn every_mistake_is_reported_with_its_place() {
        assert_eq!(
            wrong(json!({})),
            ["server", "from", "to", "subject", "text"]
        );
        let config = json!({
            "server": "a b", "from": "'a@b'", "to": "'a@b'", "subject": "'x'", "html": "'x'",
            "user": "u", "tls": "none", "ca": "x", "rate": 0.0, "timeout": "0s",
        });
        assert_eq!(
            wrong(config),
            ["server", "password", "ca", "rate", "timeout"]
        );
        let config = json!({
            "server": "a", "from": "'a@b'", "to": "'a@b'", "subject": "'x'", "text": "'x'",
            "user": "u", "password": "p", "tls": "none",
        });
        assert_eq!(wrong(config), ["tls"]);
    }
}
