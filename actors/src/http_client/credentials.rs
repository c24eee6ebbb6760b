//! Credentials of requests.

use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use brickwork::config::{ManifestPath, Secret};
use brickwork::{ConfigError, REDACTED};
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use schemars::JsonSchema;
use serde::Deserialize;

use super::headers;

/// Minimum length of a secret that is replaced in texts.
const SECRET_BYTES_MIN: usize = 4;

/// Credentials for the hosts of `allow`: one of a token, a user with a password, a header with a
/// value, or `oauth2`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthSettings {
    /// Token for `Authorization: Bearer TOKEN`.
    pub token: Option<Secret>,
    /// User for basic authentication. Needs `password`.
    pub user: Option<String>,
    /// Password of the user.
    pub password: Option<Secret>,
    /// Name of a header with an API key, such as `X-Api-Key`. Needs `value`.
    pub header: Option<String>,
    /// Value of the header.
    pub value: Option<Secret>,
    /// OAuth 2: a token from a token endpoint.
    pub oauth2: Option<OAuth2Settings>,
}

/// OAuth 2: client credentials, or a refresh token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OAuth2Settings {
    /// URL of the token endpoint. Its host need not be in `allow`.
    pub token_url: String,
    /// Id of the client.
    pub client_id: String,
    /// Secret of the client.
    pub client_secret: Secret,
    /// Scopes, separated by spaces.
    pub scope: Option<String>,
    /// Audience or resource, for endpoints that want one.
    pub audience: Option<String>,
    /// Whether id and secret are fields of the form, and not basic authentication.
    pub secret_in_body: bool,
    /// Refresh token; without it, the grant is `client_credentials`.
    pub refresh_token: Option<Secret>,
    /// File for a refresh token that the endpoint has replaced. It is written before the new token
    /// is used, and is read instead of `refresh_token` from then on. Needed for endpoints
    /// that replace the refresh token at each use: without it, the app can't start again.
    pub refresh_token_file: Option<ManifestPath>,
}

/// The header that a request gets.
pub(crate) type Credential = (HeaderName, HeaderValue);

impl AuthSettings {
    /// Validates the credentials.
    pub(crate) fn check(&self) -> Vec<ConfigError> {
        let mut errors = Vec::new();
        let mut wrong = |path: &str, text: String| errors.push(ConfigError::new(path, text));
        let kinds = [
            self.token.is_some(),
            self.user.is_some() || self.password.is_some(),
            self.header.is_some() || self.value.is_some(),
            self.oauth2.is_some(),
        ];
        if kinds.iter().filter(|is| **is).count() != 1 {
            let text = "set one of token, user with password, header with value, or oauth2";
            wrong("auth", text.to_owned());
        }
        if self.user.is_some() != self.password.is_some() {
            wrong("auth", "user and password need each other".to_owned());
        }
        if self.header.is_some() != self.value.is_some() {
            wrong("auth", "header and value need each other".to_owned());
        }
        if let Some(Err(text)) = self.header.as_deref().map(headers::parse_name) {
            wrong("auth.header", text);
        }
        if let Some(oauth2) = &self.oauth2 {
            let valid = url::Url::parse(&oauth2.token_url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
            if !valid {
                wrong("auth.oauth2.token_url", "it is not a URL".to_owned());
            }
            if oauth2.client_id.is_empty() {
                wrong("auth.oauth2.client_id", "it is missing".to_owned());
            }
            if oauth2.refresh_token_file.is_some() && oauth2.refresh_token.is_none() {
                let text = "it has no effect without refresh_token";
                wrong("auth.oauth2.refresh_token_file", text.to_owned());
            }
        }
        errors
    }

    /// Returns the header of credentials that do not change; `None` for `oauth2`.
    ///
    /// # Errors
    /// A text that names the part with a character that a header can't have.
    pub(crate) fn fixed(&self) -> Result<Option<Credential>, String> {
        if let Some(token) = &self.token {
            return bearer(token.reveal()).map(Some);
        }
        if let (Some(user), Some(password)) = (&self.user, &self.password) {
            return Ok(Some((AUTHORIZATION, basic(user, password.reveal()))));
        }
        let (Some(name), Some(value)) = (&self.header, &self.value) else {
            return Ok(None);
        };
        let name = headers::parse_name(name)?;
        let value = secret_value(value.reveal());
        Ok(Some((
            name,
            value.ok_or("auth.value has a control character")?,
        )))
    }
}

/// Returns the header of a bearer token.
///
/// # Errors
/// The token has a character that a header can't have.
pub(crate) fn bearer(token: &str) -> Result<Credential, String> {
    let value = secret_value(&format!("Bearer {}", token.trim()));
    let value = value.ok_or("the token has a control character")?;
    Ok((AUTHORIZATION, value))
}

/// Returns the value of basic authentication.
pub(crate) fn basic(user: &str, password: &str) -> HeaderValue {
    let pair = STANDARD.encode(format!("{user}:{password}"));
    secret_value(&format!("Basic {pair}")).expect("base64 has no control character")
}

fn secret_value(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text.as_bytes()).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Credentials that were sent, so that answers that repeat them can be cleaned.
#[derive(Clone, Default)]
pub(crate) struct SentSecrets(Arc<RwLock<Vec<String>>>);

/// Maximum secrets that are remembered: tokens replace each other.
const REMEMBERED: usize = 8;

impl SentSecrets {
    /// Adds the secret of a header's value, without its scheme.
    pub(crate) fn add(&self, value: &HeaderValue) {
        let text = String::from_utf8_lossy(value.as_bytes());
        let secret = text.split_once(' ').map_or(&*text, |(_, secret)| secret);
        let mut all = self
            .0
            .write()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        if secret.len() < SECRET_BYTES_MIN || all.iter().any(|known| known == secret) {
            return;
        }
        if all.len() == REMEMBERED {
            all.remove(0);
        }
        all.push(secret.to_owned());
    }

    /// Returns a text without the secrets.
    pub(crate) fn clean(&self, mut text: String) -> String {
        let all = self
            .0
            .read()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        for secret in all.iter() {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        text
    }
}
