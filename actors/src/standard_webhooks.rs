//! Signatures by Standard Webhooks 1.0 (<https://www.standardwebhooks.com>): HMAC-SHA256 over
//! id, time and body. `webhook-out` makes them, `http-in` checks them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use brickwork::MessageId;
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// Prefix of a secret whose rest is base64.
const SECRET_PREFIX: &str = "whsec_";

/// A key that signs.
#[derive(Clone)]
pub(crate) struct SigningKey(Hmac<Sha256>);

/// The bytes of a secret's key. A secret may begin with `whsec_`; the rest is base64.
///
/// # Errors
/// The secret is empty or not base64 after the prefix.
pub(crate) fn key_of(secret: &str) -> Result<Vec<u8>, &'static str> {
    let key = match secret.strip_prefix(SECRET_PREFIX) {
        Some(rest) => STANDARD
            .decode(rest)
            .map_err(|_| "it is not base64 after whsec_")?,
        None => secret.as_bytes().to_vec(),
    };
    match key.is_empty() {
        true => Err("it is empty: anyone could sign with it"),
        false => Ok(key),
    }
}

impl SigningKey {
    /// # Errors
    /// As [`key_of`].
    pub(crate) fn new(secret: &str) -> Result<Self, &'static str> {
        let key = key_of(secret)?;
        let mac = Hmac::new_from_slice(&key).expect("an HMAC key may have any length");
        Ok(Self(mac))
    }
}

/// The value of `webhook-signature`: one signature for each key, so that the receiver may know any
/// of them.
pub(crate) fn sign(keys: &[SigningKey], id: &str, time_s: u64, body: &[u8]) -> String {
    let before = format!("{id}.{time_s}.");
    let signatures = keys.iter().map(|key| {
        let mut mac = key.0.clone();
        mac.update(before.as_bytes());
        mac.update(body);
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

/// The value of `webhook-id` for a message: its id, or a hash of an id that no header can have, or
/// that has the dot which separates the id from the time.
pub(crate) fn webhook_id(id: &MessageId) -> String {
    let id = id.to_string();
    if id
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'.')
    {
        return id;
    }
    let digest = Sha256::digest(id.as_bytes());
    let digits: String = digest[..16].iter().map(|it| format!("{it:02x}")).collect();
    format!("msg_{digits}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_specification_has_its_signature() {
        // https://github.com/standard-webhooks/standard-webhooks, spec and libraries
        let key = SigningKey::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
        let signature = sign(
            &[key],
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn each_secret_has_a_signature_and_a_bad_secret_none() {
        let keys = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "plain"];
        let keys = keys.map(|secret| SigningKey::new(secret).unwrap());
        let both = sign(&keys, "a", 1, b"{}");
        let single = keys.map(|key| sign(&[key], "a", 1, b"{}"));
        assert_eq!(both, single.join(" "));
        for bad in ["", "whsec_", "whsec_%"] {
            assert!(SigningKey::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_that_no_header_can_have_is_hashed() {
        let id = |text: &str| webhook_id(&text.parse().unwrap());
        assert_eq!(id("order-17"), "order-17");
        for odd in ["a.b", "a b", "ü"] {
            assert!(id(odd).starts_with("msg_"), "{odd}");
            assert_eq!(id(odd).len(), 36);
        }
        assert_ne!(id("a.b"), id("a.c"));
    }
}
