//! The phase of a connection, and its deadline.
//!
//! The stream and the service report events; the task of the connection asks for the
//! deadline. One timer per connection is enough. Hyper's own timer can't tell a slow head
//! from an idle client.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Time for the client to read a response.
const RESPONSE_WITHIN: Duration = Duration::from_secs(10);
/// Time for which a client may send nothing, or a part of a head, while others wait to be
/// accepted.
const CROWDED_WITHIN: Duration = Duration::from_secs(1);

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// No byte has arrived yet.
    New,
    /// The head of a request arrives.
    Head,
    /// The service handles a request, and keeps its own deadlines.
    Service,
    /// A response is being written.
    Response,
    /// No request and no response is pending.
    Idle,
}

/// Time limits of the phases.
#[derive(Debug, Clone, Copy)]
pub(super) struct PhaseLimits {
    pub(super) head: Duration,
    pub(super) idle: Duration,
}

impl PhaseLimits {
    /// The limit of a phase, if it has one.
    fn limit(&self, phase: Phase, crowded: bool) -> Option<Duration> {
        let limit = match phase {
            Phase::New | Phase::Head => self.head,
            Phase::Service => return None,
            Phase::Response => return Some(RESPONSE_WITHIN),
            Phase::Idle => self.idle,
        };
        Some(if crowded {
            limit.min(CROWDED_WITHIN)
        } else {
            limit
        })
    }

    /// The shortest limit: a check this often notices every exceeded one.
    pub(super) fn shortest(&self, crowded: bool) -> Duration {
        let silent = self.head.min(self.idle).min(RESPONSE_WITHIN);
        if crowded {
            silent.min(CROWDED_WITHIN)
        } else {
            silent
        }
    }
}

/// The phase of a connection, and since when.
#[derive(Debug)]
pub(super) struct ConnectionProgress {
    phase: Cell<Phase>,
    since: Cell<Instant>,
    ended: Cell<bool>,
}

impl ConnectionProgress {
    pub(super) fn new() -> Self {
        Self {
            phase: Cell::new(Phase::New),
            since: Cell::new(Instant::now()),
            ended: Cell::new(false),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Whether the client has closed its sending side.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// The end of the current phase's limit.
    pub(super) fn deadline(&self, limits: &PhaseLimits, crowded: bool) -> Option<Instant> {
        let limit = limits.limit(self.phase.get(), crowded)?;
        Some(self.since.get() + limit)
    }

    /// The head of a request is complete.
    pub(super) fn request_started(&self) {
        self.phase.set(Phase::Service);
    }

    /// The service has its response.
    pub(super) fn response_ready(&self) {
        self.enter(Phase::Response);
    }

    fn received(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.set(true);
        } else if matches!(self.phase.get(), Phase::Idle) {
            self.enter(Phase::Head);
        } else if self.phase.get() == Phase::New {
            // The time since the connection opened counts.
            self.phase.set(Phase::Head);
        }
    }

    fn flushed(&self) {
        if self.phase.get() == Phase::Response {
            self.enter(Phase::Idle);
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }
}

/// A stream that reports reads and flushes to a [`ConnectionProgress`].
#[derive(Debug)]
pub(super) struct TrackedStream {
    pub(super) stream: TcpStream,
    pub(super) progress: Rc<ConnectionProgress>,
}

impl AsyncRead for TrackedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, into);
        if matches!(read, Poll::Ready(Ok(()))) {
            self.progress.received(into.filled().len() - before);
        }
        read
    }
}

impl AsyncWrite for TrackedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if matches!(flushed, Poll::Ready(Ok(()))) {
            self.progress.flushed();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: PhaseLimits = PhaseLimits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    fn left(progress: &ConnectionProgress, crowded: bool) -> Option<u64> {
        let deadline = progress.deadline(&LIMITS, crowded)?;
        Some((deadline - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_limit() {
        let progress = ConnectionProgress::new();
        let second = || tokio::time::advance(Duration::from_secs(1));
        second().await;
        assert_eq!(left(&progress, false), Some(9));
        assert_eq!(left(&progress, true), Some(0), "others wait");
        progress.received(1);
        assert_eq!(
            left(&progress, false),
            Some(9),
            "the first byte does not restart the limit"
        );
        progress.request_started();
        assert_eq!(left(&progress, false), None);
        progress.flushed();
        assert_eq!(progress.phase(), Phase::Service, "that was a 100 Continue");
        progress.response_ready();
        assert_eq!(left(&progress, false), Some(10));
        progress.flushed();
        second().await;
        assert_eq!(left(&progress, false), Some(59));
        assert_eq!(left(&progress, true), Some(0));
        progress.received(1);
        assert_eq!(
            (progress.phase(), left(&progress, false)),
            (Phase::Head, Some(10))
        );
        assert!(!progress.is_ended());
        progress.received(0);
        assert!(progress.is_ended());
    }

    #[test]
    fn no_limit_is_shorter_than_the_time_between_two_checks() {
        for crowded in [false, true] {
            let shortest = LIMITS.shortest(crowded);
            for phase in [
                Phase::New,
                Phase::Head,
                Phase::Service,
                Phase::Response,
                Phase::Idle,
            ] {
                assert!(
                    LIMITS
                        .limit(phase, crowded)
                        .is_none_or(|limit| limit >= shortest)
                );
            }
        }
    }
}
