//! Signatures in GitHub's format: the sender knows the secret, and the body is unchanged.
//!
//! <https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries>

use brickwork::config::Secret;
use hmac::{Hmac, KeyInit, Mac};
use hyper::HeaderMap;
use sha2::Sha256;

/// Header with the signature.
const HEADER: &str = "x-hub-signature-256";
const PREFIX: &str = "sha256=";
/// Bytes of an HMAC-SHA256.
const BYTES: usize = 32;

/// The secret as an HMAC key.
#[derive(Clone)]
pub(super) struct HmacKey(Hmac<Sha256>);

/// The signature that a request carries.
#[derive(Debug, Clone, Copy)]
pub(super) struct SignatureHeader([u8; BYTES]);

impl SignatureHeader {
    /// The signature of a request, if it has exactly one in the right format.
    pub(super) fn read(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(HEADER).iter();
        let value = values.next()?;
        if values.next().is_some() {
            return None;
        }
        let digits = value.to_str().ok()?.strip_prefix(PREFIX)?.as_bytes();
        if digits.len() != 2 * BYTES {
            return None;
        }
        let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
        let mut bytes = [0; BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Some(Self(bytes))
    }
}

impl HmacKey {
    pub(super) fn new(secret: &Secret) -> Self {
        let key = Hmac::new_from_slice(secret.reveal().as_bytes());
        Self(key.expect("an HMAC key may have any length"))
    }

    /// Whether the body was signed with the secret. Compares in constant time, so that the
    /// duration reveals nothing about the right signature.
    pub(super) fn matches(&self, body: &[u8], signature: &SignatureHeader) -> bool {
        let mut mac = self.0.clone();
        mac.update(body);
        mac.verify_slice(&signature.0).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn key() -> HmacKey {
        let secret = serde_json::from_str("\"It's a Secret to Everybody\"").unwrap();
        HmacKey::new(&secret)
    }

    fn signature(text: &str) -> Option<SignatureHeader> {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, text.parse().unwrap());
        SignatureHeader::read(&headers)
    }

    #[test]
    fn the_example_in_the_documentation_of_github_matches() {
        for digits in [SIGNATURE.to_owned(), SIGNATURE.to_uppercase()] {
            let signature = signature(&format!("sha256={digits}")).unwrap();
            assert!(key().matches(b"Hello, World!", &signature));
        }
    }

    #[test]
    fn another_body_or_another_signature_is_refused() {
        let right = signature(&format!("sha256={SIGNATURE}")).unwrap();
        assert!(!key().matches(b"Hello, World?", &right));
        assert!(!key().matches(b"", &right));
        let other = SIGNATURE.replace('7', "8");
        let wrong = signature(&format!("sha256={other}")).unwrap();
        assert!(!key().matches(b"Hello, World!", &wrong));
    }

    #[test]
    fn a_malformed_signature_is_none() {
        let cut = &SIGNATURE[2..];
        for text in [
            "",
            "sha256=",
            SIGNATURE,
            &format!("sha1={SIGNATURE}"),
            &format!("sha256={cut}"),
            &format!("sha256={cut}zz"),
            &format!("sha256={SIGNATURE}00"),
            &format!("sha256=+{}", &SIGNATURE[1..]),
        ] {
            assert!(signature(text).is_none(), "{text}");
        }
        let mut headers = HeaderMap::new();
        assert!(SignatureHeader::read(&headers).is_none());
        for _ in 0..2 {
            headers.append(HEADER, format!("sha256={SIGNATURE}").parse().unwrap());
        }
        assert!(
            SignatureHeader::read(&headers).is_none(),
            "two are ambiguous"
        );
    }
}
