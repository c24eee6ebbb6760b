//! The largest message that the broker takes: known once it has refused a larger one.
//!
//! AMQP has no way to ask for it. The broker answers with the end of the channel, and so
//! of the session; a message that ends one each time it is handled would end them all. So
//! what it said is kept, and what is larger is refused here from then on.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use brickwork::transport::TransportError;

/// What stands before the number in the broker's answer.
const TOO_LARGE_TEXT: &str = "is larger than configured max size ";

/// In bytes of a message's payload. It outlives sessions.
#[derive(Debug)]
pub(super) struct MaxMessageSize(AtomicUsize);

impl Default for MaxMessageSize {
    fn default() -> Self {
        Self(AtomicUsize::new(usize::MAX))
    }
}

impl MaxMessageSize {
    /// What the broker said as it closed a channel: perhaps that something was too large.
    pub(super) fn learn(&self, text: &str) {
        let number = text
            .split_once(TOO_LARGE_TEXT)
            .map(|(_, number)| number.trim());
        if let Some(max) = number.and_then(|number| number.parse().ok()) {
            self.0.store(max, Relaxed);
        }
    }

    /// # Errors
    /// The broker doesn't take so many bytes.
    pub(super) fn check(&self, bytes: usize) -> Result<(), TransportError> {
        let max = self.0.load(Relaxed);
        if bytes <= max {
            return Ok(());
        }
        Err(TransportError::Unpublishable(format!(
            "its payload has {bytes} bytes, and the broker takes at most {max} bytes: lower \
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
        // It may be raised while we run.
        limit.learn(&said.replace("1048576", "2000000"));
        assert!(limit.check(2_000_000).is_ok());
    }
}
