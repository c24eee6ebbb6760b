//! Signatures of webhooks: the sender knows the secret, the body is unchanged, and where the
//! sender signs a time, the request is recent.
//!
//! | scheme | described at |
//! | --- | --- |
//! | `github` | <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries> |
//! | `gitlab` | <https://docs.gitlab.com/user/project/integrations/webhooks/> |
//! | `pagerduty` | <https://developer.pagerduty.com/docs/verifying-webhook-signatures> |
//! | `sentry` | <https://docs.sentry.io/organization/integrations/integration-platform/webhooks/> |
//! | `shopify` | <https://shopify.dev/docs/apps/build/webhooks/subscribe/https> |
//! | `slack` | <https://docs.slack.dev/authentication/verifying-requests-from-slack> |
//! | `standard` | <https://www.standardwebhooks.com> |
//! | `stripe` | <https://docs.stripe.com/webhooks/signature> |
//! | `twilio` | <https://www.twilio.com/docs/usage/webhooks/webhooks-security> |

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brickwork::config::Secret;
use brickwork::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use hyper::{HeaderMap, Request};
use serde::Deserialize;
use sha1::Sha1;
use sha2::{Digest, Sha256};

use super::forms;
use crate::standard_webhooks;

/// Signatures that are tried per request. A sender whose secret changes sends two.
const SIGNATURES_MAX: usize = 8;
/// Bytes of an HMAC-SHA256.
const BYTES: usize = 32;
/// Bytes of an HMAC-SHA1.
const SHA1_BYTES: usize = 20;
/// The parameter of the query with the digest of a body that is not a form.
const TWILIO_DIGEST: &str = "bodySHA256=";

/// The format of signatures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SignatureScheme {
    /// `X-Hub-Signature-256: sha256=HEX`, over the body.
    #[default]
    GitHub,
    /// `X-Gitlab-Token` is the secret itself.
    GitLab,
    /// `X-PagerDuty-Signature: v1=HEX`, over the body.
    PagerDuty,
    /// `Sentry-Hook-Signature: HEX`, over the body.
    Sentry,
    /// `X-Shopify-Hmac-Sha256: BASE64`, over the body.
    Shopify,
    /// `X-Slack-Signature: v0=HEX`, over the time of `X-Slack-Request-Timestamp` and the body.
    Slack,
    /// Standard Webhooks: `webhook-signature: v1,BASE64`, over id, time and body. The secret may
    /// begin with `whsec_`; the rest is base64.
    Standard,
    /// `Stripe-Signature: t=TIME,v1=HEX`, over time and body.
    Stripe,
    /// `X-Twilio-Signature: BASE64`, over the URL and the fields of a form. It needs
    /// `public_url`.
    Twilio,
}

/// The signatures of a request, and the bytes that were signed before the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    signatures: Vec<Vec<u8>>,
    before_body: Vec<u8>,
    /// The digest of the body in hexadecimal digits, if it is signed instead of the body.
    body_digest: Option<String>,
}

/// Checks requests against the secret and the one before it.
#[derive(Clone)]
pub(super) struct SignatureCheck {
    scheme: SignatureScheme,
    keys: Vec<Key>,
    /// The MACs of the secrets themselves, for schemes that send the secret.
    own: Vec<Vec<u8>>,
    tolerance: Duration,
    /// The URL of this endpoint without path and query, for schemes that sign it.
    public_url: String,
}

#[derive(Clone)]
enum Key {
    Sha256(Hmac<Sha256>),
    Sha1(Hmac<Sha1>),
}

impl Key {
    fn new(scheme: SignatureScheme, secret: &[u8]) -> Self {
        const ANY: &str = "an HMAC key may have any length";
        match scheme {
            SignatureScheme::Twilio => Self::Sha1(Hmac::new_from_slice(secret).expect(ANY)),
            _ => Self::Sha256(Hmac::new_from_slice(secret).expect(ANY)),
        }
    }

    fn signs(&self, parts: &[&[u8]], signature: &[u8]) -> bool {
        let checked = match self {
            Self::Sha256(key) => mac(key, parts).verify_slice(signature),
            Self::Sha1(key) => mac(key, parts).verify_slice(signature),
        };
        checked.is_ok()
    }
}

impl SignatureScheme {
    /// The header with the signature, in lower case.
    pub(super) fn header(self) -> &'static str {
        match self {
            Self::GitHub => "x-hub-signature-256",
            Self::GitLab => "x-gitlab-token",
            Self::PagerDuty => "x-pagerduty-signature",
            Self::Sentry => "sentry-hook-signature",
            Self::Shopify => "x-shopify-hmac-sha256",
            Self::Slack => "x-slack-signature",
            Self::Standard => "webhook-signature",
            Self::Stripe => "stripe-signature",
            Self::Twilio => "x-twilio-signature",
        }
    }

    /// The form of the header, for an answer.
    fn form(self) -> &'static str {
        match self {
            Self::GitHub => "X-Hub-Signature-256: sha256=HEX",
            Self::GitLab => "X-Gitlab-Token: TOKEN",
            Self::PagerDuty => "X-PagerDuty-Signature: v1=HEX",
            Self::Sentry => "Sentry-Hook-Signature: HEX",
            Self::Shopify => "X-Shopify-Hmac-Sha256: BASE64",
            Self::Slack => "X-Slack-Signature: v0=HEX, with X-Slack-Request-Timestamp",
            Self::Standard => "webhook-signature: v1,BASE64, with webhook-id and webhook-timestamp",
            Self::Stripe => "Stripe-Signature: t=TIME,v1=HEX",
            Self::Twilio => "X-Twilio-Signature: BASE64",
        }
    }

    /// Whether a request with another query has another signature, or is proven without one.
    pub(super) fn covers_query(self) -> bool {
        matches!(self, Self::GitLab | Self::Twilio)
    }

    /// The bytes of a secret's key.
    ///
    /// # Errors
    /// The secret is empty, or it does not have the form that the scheme needs.
    pub(super) fn key_of(self, secret: &Secret) -> Result<Vec<u8>, &'static str> {
        match (self, secret.reveal()) {
            (Self::Standard, secret) => standard_webhooks::key_of(secret),
            (_, "") => Err("it is empty: anyone could sign with it"),
            (_, secret) => Ok(secret.as_bytes().to_vec()),
        }
    }
}

impl SignatureCheck {
    /// # Errors
    /// A secret does not fit the scheme.
    pub(super) fn new<'a>(
        scheme: SignatureScheme,
        secrets: impl IntoIterator<Item = &'a Secret>,
        tolerance: Duration,
        public_url: &str,
    ) -> Result<Self, &'static str> {
        let mut check = Self {
            scheme,
            keys: Vec::new(),
            own: Vec::new(),
            tolerance,
            public_url: public_url.trim_end_matches('/').to_owned(),
        };
        for secret in secrets {
            let bytes = scheme.key_of(secret)?;
            let key = Key::new(scheme, &bytes);
            if let Key::Sha256(key) = &key {
                let own = mac(key, &[&bytes]).finalize().into_bytes();
                check.own.push(own.to_vec());
            }
            check.keys.push(key);
        }
        Ok(check)
    }

    /// Reads the signatures of a request.
    ///
    /// # Errors
    /// The header is missing, occurs twice or is malformed, or the signed time is too far from
    /// `now_s`, in seconds since 1970-01-01 UTC.
    pub(super) fn read(&self, request: &Request<()>, now_s: u64) -> Result<Signed, String> {
        let signed = self.parse(request).ok_or_else(|| {
            let form = self.scheme.form();
            format!("a signature is needed: {form}")
        })?;
        if let Some(time_s) = signed.1
            && time_s.abs_diff(now_s) > self.tolerance.as_secs()
        {
            let tolerance = self.tolerance.as_secs();
            return Err(format!(
                "the signed time is more than {tolerance} s from the time here"
            ));
        }
        Ok(signed.0)
    }

    fn parse(&self, request: &Request<()>) -> Option<(Signed, Option<u64>)> {
        let headers = request.headers();
        let value = single(headers, self.scheme.header())?;
        let pairs = || {
            value
                .split(',')
                .filter_map(|pair| pair.trim().split_once('='))
        };
        let tagged = |tag: &'static str| {
            let values = pairs().filter(move |(name, _)| *name == tag);
            values.map(|(_, value)| hex(value)).take(SIGNATURES_MAX)
        };
        let mut before_body = Vec::new();
        let mut time = None;
        let mut body_digest = None;
        let signatures: Option<Vec<_>> = match self.scheme {
            SignatureScheme::GitHub => Some(vec![hex(value.strip_prefix("sha256=")?)?]),
            // Compared as MACs, so that the duration reveals nothing about the secret.
            SignatureScheme::GitLab => {
                before_body = value.as_bytes().to_vec();
                Some(self.own.clone())
            }
            SignatureScheme::PagerDuty => tagged("v1").collect(),
            SignatureScheme::Sentry => Some(vec![hex(value)?]),
            SignatureScheme::Shopify => Some(vec![base64(value, BYTES)?]),
            SignatureScheme::Slack => {
                let sent = single(headers, "x-slack-request-timestamp")?;
                time = Some(sent.parse().ok()?);
                before_body = format!("v0:{sent}:").into_bytes();
                tagged("v0").collect()
            }
            SignatureScheme::Standard => {
                let id = single(headers, "webhook-id")?;
                let sent = single(headers, "webhook-timestamp")?;
                time = Some(sent.parse().ok()?);
                before_body = format!("{id}.{sent}.").into_bytes();
                let all = value.split(' ').filter_map(|it| it.strip_prefix("v1,"));
                all.map(|it| base64(it, BYTES))
                    .take(SIGNATURES_MAX)
                    .collect()
            }
            SignatureScheme::Stripe => {
                let (_, sent) = pairs().find(|(name, _)| *name == "t")?;
                time = Some(sent.parse().ok()?);
                before_body = format!("{sent}.").into_bytes();
                tagged("v1").collect()
            }
            SignatureScheme::Twilio => {
                let query = request.uri().query().unwrap_or_default();
                let mut digests = query
                    .split('&')
                    .filter_map(|it| it.strip_prefix(TWILIO_DIGEST));
                body_digest = digests.next().map(str::to_ascii_lowercase);
                before_body = self.public_url.clone().into_bytes();
                let path = request.uri().path_and_query().map(|path| path.as_str());
                before_body.extend_from_slice(path.unwrap_or_default().as_bytes());
                Some(vec![base64(value, SHA1_BYTES)?])
            }
        };
        let signatures = signatures.filter(|all| !all.is_empty())?;
        let signed = Signed {
            signatures,
            before_body,
            body_digest,
        };
        Some((signed, time))
    }

    /// Whether one of the signatures was made with one of the secrets. Compares in constant
    /// time, so that the duration reveals nothing about the right signature.
    pub(super) fn matches(&self, body: &[u8], is_form: bool, signed: &Signed) -> bool {
        let fields;
        let body = match (self.scheme, &signed.body_digest) {
            (SignatureScheme::GitLab, _) => &[],
            (SignatureScheme::Twilio, Some(digest)) => {
                match *digest == hex_of(&Sha256::digest(body)) {
                    true => &[],
                    false => return false,
                }
            }
            (SignatureScheme::Twilio, None) if is_form => {
                let Ok(parsed) = forms::parse(body) else {
                    return false;
                };
                fields = sorted_fields(parsed);
                fields.as_bytes()
            }
            // Neither the body nor its digest is signed.
            (SignatureScheme::Twilio, None) if !body.is_empty() => return false,
            _ => body,
        };
        self.keys.iter().any(|key| {
            let mut signatures = signed.signatures.iter();
            signatures.any(|signature| key.signs(&[&signed.before_body, body], signature))
        })
    }
}

/// The fields of a form as Twilio signs them: names and values in order, without duplicates.
fn sorted_fields(mut fields: forms::Fields) -> String {
    fields.sort();
    fields.dedup();
    fields.into_iter().flat_map(<[String; 2]>::from).collect()
}

fn mac<M: Mac + Clone>(key: &M, parts: &[&[u8]]) -> M {
    let mut mac = key.clone();
    parts.iter().for_each(|part| mac.update(part));
    mac
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The value of a header that occurs once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn base64(text: &str, length: usize) -> Option<Vec<u8>> {
    let bytes = STANDARD.decode(text).ok()?;
    (bytes.len() == length).then_some(bytes)
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let pairs = digits.chunks_exact(2);
    pairs
        .map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?))
        .collect()
}

#[cfg(test)]
mod tests;
