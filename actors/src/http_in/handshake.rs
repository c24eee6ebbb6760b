//! Handshakes: a provider that sends a challenge to a new endpoint expects it back.
//!
//! | provider | request | described at |
//! | --- | --- | --- |
//! | Slack | POST of `url_verification` | <https://docs.slack.dev/reference/events/url_verification> |
//! | Meta, WebSub | GET with `hub.challenge` | <https://developers.facebook.com/docs/graph-api/webhooks/getting-started> |

use brickwork::config::Secret;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::forms;

/// The outcome of a handshake by GET.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Handshake {
    /// The challenge to send back.
    Challenge(String),
    /// The token is wrong, or a part of the handshake is missing.
    Refused,
}

/// Returns the challenge of Slack's `url_verification`; `None` for another body.
pub(super) fn slack_challenge(body: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Verification {
        r#type: String,
        challenge: String,
    }
    const TYPE: &[u8] = b"url_verification";
    // Fast path: events are many, and a handshake is rare.
    if !body.windows(TYPE.len()).any(|bytes| bytes == TYPE) {
        return None;
    }
    let parsed: Verification = serde_json::from_slice(body).ok()?;
    (parsed.r#type.as_bytes() == TYPE).then_some(parsed.challenge)
}

/// Answers a GET with this query; `None` if the query begins no handshake.
pub(super) fn by_get(query: &str, token: &Secret) -> Option<Handshake> {
    let fields = forms::parse(query.as_bytes()).ok()?;
    let field = |name: &str| {
        let mut values = fields.iter().filter(|(known, _)| known == name);
        let (_, value) = values.next()?;
        values.next().is_none().then_some(value)
    };
    let mode = field("hub.mode")?;
    // Equal digests mean equal tokens; the duration reveals nothing about the right one.
    let digest = |text: &str| Sha256::digest(text.as_bytes());
    let is_right =
        field("hub.verify_token").map(|sent| digest(sent)) == Some(digest(token.reveal()));
    Some(match field("hub.challenge") {
        Some(challenge) if is_right && mode == "subscribe" => {
            Handshake::Challenge(challenge.clone())
        }
        _ => Handshake::Refused,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_verification_of_slack_has_a_challenge() {
        let body = br#"{"token":"x","challenge":"3eZbrw1a","type":"url_verification"}"#;
        assert_eq!(slack_challenge(body).as_deref(), Some("3eZbrw1a"));
        for other in [
            &br#"{"type":"event_callback","challenge":"url_verification"}"#[..],
            br#"{"type":"url_verification"}"#,
            b"url_verification",
            b"",
        ] {
            assert_eq!(slack_challenge(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_challenge_is_sent_back_to_those_with_the_token() {
        let token: Secret = serde_json::from_str("\"meatyhamhock\"").unwrap();
        let right = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meatyhamhock";
        let challenge = Handshake::Challenge("1158201444".to_owned());
        assert_eq!(by_get(right, &token), Some(challenge));
        for wrong in [
            right.replace("hock", "hack"),
            right.replace("=subscribe", "=unsubscribe"),
            right.replace("hub.challenge", "challenge"),
            right.replace("hub.verify_token", "token"),
            format!("{right}&hub.verify_token=x"),
        ] {
            assert_eq!(by_get(&wrong, &token), Some(Handshake::Refused), "{wrong}");
        }
        for other in ["", "a=b", "hub.challenge=1"] {
            assert_eq!(by_get(other, &token), None, "{other}");
        }
    }
}
