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

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brickwork::config::Secret;
use brickwork::prelude::*;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use serde::Deserialize;
use sha2::Sha256;

/// Signatures that are tried per request. A sender whose secret changes sends two.
const SIGNATURES_MAX: usize = 8;
/// Bytes of an HMAC-SHA256.
const BYTES: usize = 32;

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
}

/// The signatures of a request, and the bytes that were signed before the body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Signed {
    signatures: Vec<[u8; BYTES]>,
    before_body: Vec<u8>,
}

/// Checks requests against the secret and the one before it.
#[derive(Clone)]
pub(super) struct SignatureCheck {
    scheme: SignatureScheme,
    keys: Vec<Hmac<Sha256>>,
    /// The MACs of the secrets themselves, for schemes that send the secret.
    own: Vec<[u8; BYTES]>,
    tolerance: Duration,
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
        }
    }

    /// The bytes of a secret's key.
    ///
    /// # Errors
    /// The secret is empty, or it does not have the form that the scheme needs.
    pub(super) fn key_of(self, secret: &Secret) -> Result<Vec<u8>, &'static str> {
        let text = secret.reveal();
        let key = match (self, text.strip_prefix("whsec_")) {
            (Self::Standard, Some(rest)) => STANDARD
                .decode(rest)
                .map_err(|_| "it is not base64 after whsec_")?,
            _ => text.as_bytes().to_vec(),
        };
        if key.is_empty() {
            return Err("it is empty: anyone could sign with it");
        }
        Ok(key)
    }
}

impl SignatureCheck {
    /// # Errors
    /// A secret does not fit the scheme.
    pub(super) fn new<'a>(
        scheme: SignatureScheme,
        secrets: impl IntoIterator<Item = &'a Secret>,
        tolerance: Duration,
    ) -> Result<Self, &'static str> {
        let mut check = Self {
            scheme,
            keys: Vec::new(),
            own: Vec::new(),
            tolerance,
        };
        for secret in secrets {
            let bytes = scheme.key_of(secret)?;
            let key = Hmac::new_from_slice(&bytes).expect("an HMAC key may have any length");
            check
                .own
                .push(mac(&key, &[&bytes]).finalize().into_bytes().into());
            check.keys.push(key);
        }
        Ok(check)
    }

    /// Reads the signatures of a request.
    ///
    /// # Errors
    /// The header is missing, occurs twice or is malformed, or the signed time is too far from
    /// `now_s`, in seconds since 1970-01-01 UTC.
    pub(super) fn read(&self, headers: &HeaderMap, now_s: u64) -> Result<Signed, String> {
        let signed = self.parse(headers).ok_or_else(|| {
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

    fn parse(&self, headers: &HeaderMap) -> Option<(Signed, Option<u64>)> {
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
        let signatures: Option<Vec<_>> = match self.scheme {
            SignatureScheme::GitHub => Some(vec![hex(value.strip_prefix("sha256=")?)?]),
            // Compared as MACs, so that the duration reveals nothing about the secret.
            SignatureScheme::GitLab => {
                before_body = value.as_bytes().to_vec();
                Some(self.own.clone())
            }
            SignatureScheme::PagerDuty => tagged("v1").collect(),
            SignatureScheme::Sentry => Some(vec![hex(value)?]),
            SignatureScheme::Shopify => Some(vec![base64(value)?]),
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
                all.map(base64).take(SIGNATURES_MAX).collect()
            }
            SignatureScheme::Stripe => {
                let (_, sent) = pairs().find(|(name, _)| *name == "t")?;
                time = Some(sent.parse().ok()?);
                before_body = format!("{sent}.").into_bytes();
                tagged("v1").collect()
            }
        };
        let signatures = signatures.filter(|all| !all.is_empty())?;
        let signed = Signed {
            signatures,
            before_body,
        };
        Some((signed, time))
    }

    /// Whether one of the signatures was made with one of the secrets. Compares in constant
    /// time, so that the duration reveals nothing about the right signature.
    pub(super) fn matches(&self, body: &[u8], signed: &Signed) -> bool {
        let body = match self.scheme {
            SignatureScheme::GitLab => &[],
            _ => body,
        };
        self.keys.iter().any(|key| {
            let mac = mac(key, &[&signed.before_body, body]);
            let mut signatures = signed.signatures.iter();
            signatures.any(|signature| mac.clone().verify_slice(signature).is_ok())
        })
    }
}

fn mac(key: &Hmac<Sha256>, parts: &[&[u8]]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    parts.iter().for_each(|part| mac.update(part));
    mac
}

/// The value of a header that occurs once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn base64(text: &str) -> Option<[u8; BYTES]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

fn hex(text: &str) -> Option<[u8; BYTES]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * BYTES {
        return None;
    }
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let mut bytes = [0; BYTES];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
