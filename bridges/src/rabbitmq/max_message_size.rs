//! The largest message that the broker accepts: known after it has refused a larger one.
//!
//! AMQP can't query the limit. The broker answers a message that is too large by closing the
//! channel, which ends the session. If the message were published again each time, no session
//! would last. So the limit from the broker's answer is kept, and larger messages are refused
//! here.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use brickwork::transport::TransportError;

/// The text before the number in the broker's answer.
const TOO_LARGE_TEXT: &str = "is larger than configured max size ";

/// The limit in payload bytes. Outlives sessions.
#[derive(Debug)]
pub(super) struct MaxMessageSize(AtomicUsize);

impl Default for MaxMessageSize {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl MaxMessageSize {
    /// Reads the limit from the text with which the broker closed a channel, if it is in there.
    pub(super) fn learn(&self, text: &str) {
        let number = text
            .split_once(TOO_LARGE_TEXT)
            .map(|(_, number)| number.trim());
        if let Some(max) = number.and_then(|number| number.parse().ok()) {
            self.0.store(max, Relaxed);
        }
    }

    /// Checks a payload of this size.
    ///
    /// # Errors
    /// The broker accepts no payload of this size.
    pub(super) fn check(&self, bytes: usize) -> Result<(), TransportError> {
        let max = self.0.load(Relaxed);
        if bytes <= max {
            return Ok(());
        }
        Err(TransportError::Unpublishable(format!(
            "its payload has {bytes} bytes, and the broker accepts at most {max} bytes: lower \
             app.max_message, or raise max_message_size there"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_over_the_limit_that_the_broker_named_is_refused() {
        let limit = MaxMessageSize::default();
        limit.learn("NOT_FOUND - no exchange 'shop' in vhost '/'");
        assert!(limit.check(usize::MAX).is_ok());
        let said = "message size 1399992 is larger than configured max size 1048576";
        limit.learn(&format!("PRECONDITION_FAILED - {said}"));
        assert!(limit.check(1_048_576).is_ok());
        let error = limit.check(1_048_577).unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("1048576"));
        // The limit may be raised at run time.
        limit.learn(&said.replace("1048576", "2000000"));
        assert!(limit.check(2_000_000).is_ok());
    }
}
