//! Whose fault the answer of an SMTP server is.

use std::time::Duration;

use lettre::transport::smtp::Error;

/// First delay of a mail that the server can't take yet. Servers that make new senders wait
/// accept after some minutes.
const LATER_MIN: Duration = Duration::from_secs(60);
/// Longest delay.
const LATER_MAX: Duration = Duration::from_secs(3600);

/// The consequence of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server can't be used: all mails wait.
    Away,
    /// The server may take this mail later.
    Later(Duration),
    /// The server never takes this mail.
    Refused,
}

/// Decides by the status, as RFC 5321 section 4.2.1 and RFC 4954 section 6 have them; `None` if
/// there was no valid answer.
pub(super) fn judge(status: Option<u16>, attempt: u32) -> Verdict {
    match status {
        // Shutdown; login needed or refused; unknown or misplaced commands.
        None | Some(421 | 454 | 500..=504 | 521 | 523 | 530..=538) => Verdict::Away,
        Some(400..=499) => {
            let doubled = LATER_MIN.saturating_mul(1 << attempt.saturating_sub(1).min(10));
            Verdict::Later(doubled.min(LATER_MAX))
        }
        Some(_) => Verdict::Refused,
    }
}

/// The status in an error, if the server gave one.
pub(super) fn status_of(error: &Error) -> Option<u16> {
    error.status().map(u16::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_mail_is_told_from_a_server_that_is_away() {
        for status in [None, Some(421), Some(502), Some(530), Some(535)] {
            assert_eq!(judge(status, 1), Verdict::Away, "{status:?}");
        }
        for status in [550, 551, 552, 553, 554, 556] {
            assert_eq!(judge(Some(status), 1), Verdict::Refused, "{status}");
        }
        for (attempt, minutes) in [(1, 1), (2, 2), (4, 8), (7, 60), (u32::MAX, 60)] {
            let later = Verdict::Later(Duration::from_secs(60 * minutes));
            assert_eq!(judge(Some(450), attempt), later);
        }
    }
}
