//! What a connection is at, and until when it may be.
//!
//! The stream says what it sees, the service says what it does, and whoever drives the
//! connection asks for the deadline: one timer a connection is enough. Hyper's own timer
//! can't tell a slow head from a client that has nothing to ask.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// How long an answer may take to be taken by the client.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection may be idle while others wait for its place.
const CROWDED_IDLE: Duration = Duration::from_secs(1);

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing has come yet.
    New,
    /// A head is under way.
    Head,
    /// A request is in the hands of the service, which watches the time itself.
    Service,
    /// An answer is under way.
    Answer,
    /// Everything is answered, and nothing asked.
    Idle,
}

/// How long a connection may be at what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) head: Duration,
    pub(super) idle: Duration,
}

impl Limits {
    /// How long a phase may last, if it is bounded here.
    fn of(&self, phase: Phase, crowded: bool) -> Option<Duration> {
        match phase {
            Phase::New | Phase::Head => Some(self.head),
            Phase::Service => None,
            Phase::Answer => Some(ANSWER_WITHIN),
            Phase::Idle if crowded => Some(self.idle.min(CROWDED_IDLE)),
            Phase::Idle => Some(self.idle),
        }
    }

    /// The shortest: looked at this often, no phase lasts longer than it may.
    pub(super) fn shortest(&self, crowded: bool) -> Duration {
        let idle = if crowded { CROWDED_IDLE } else { self.idle };
        self.head.min(idle).min(ANSWER_WITHIN)
    }
}

/// A connection's way through its phases.
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

    /// Whether the client has said that nothing more will come.
    pub(super) fn is_ended(&self) -> bool {
        self.ended.get()
    }

    /// When the connection has been at it for too long.
    pub(super) fn deadline(&self, limits: &Limits, crowded: bool) -> Option<Instant> {
        let limit = limits.of(self.phase.get(), crowded)?;
        Some(self.since.get() + limit)
    }

    /// A request is whole but for its body.
    pub(super) fn asked(&self) {
        self.phase.set(Phase::Service);
    }

    /// The service has its answer.
    pub(super) fn answered(&self) {
        self.enter(Phase::Answer);
    }

    fn received(&self, bytes: usize) {
        if bytes == 0 {
            self.ended.set(true);
        } else if matches!(self.phase.get(), Phase::Idle) {
            self.enter(Phase::Head);
        } else if self.phase.get() == Phase::New {
            // The time since it came counts.
            self.phase.set(Phase::Head);
        }
    }

    fn flushed(&self) {
        if self.phase.get() == Phase::Answer {
            self.enter(Phase::Idle);
        }
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.since.set(Instant::now());
    }
}

/// A stream that tells what it sees.
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

    const LIMITS: Limits = Limits {
        head: Duration::from_secs(10),
        idle: Duration::from_secs(60),
    };

    fn left(progress: &ConnectionProgress, crowded: bool) -> Option<u64> {
        let deadline = progress.deadline(&LIMITS, crowded)?;
        Some((deadline - Instant::now()).as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn each_phase_has_its_time() {
        let progress = ConnectionProgress::new();
        let second = || tokio::time::advance(Duration::from_secs(1));
        second().await;
        assert_eq!(left(&progress, false), Some(9));
        progress.received(1);
        assert_eq!(
            left(&progress, false),
            Some(9),
            "the first byte is no new start"
        );
        progress.asked();
        assert_eq!(left(&progress, false), None);
        progress.flushed();
        assert_eq!(progress.phase(), Phase::Service, "that was a 100 Continue");
        progress.answered();
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
    fn no_phase_is_shorter_than_the_time_between_two_looks() {
        for crowded in [false, true] {
            let shortest = LIMITS.shortest(crowded);
            for phase in [
                Phase::New,
                Phase::Head,
                Phase::Service,
                Phase::Answer,
                Phase::Idle,
            ] {
                assert!(
                    LIMITS
                        .of(phase, crowded)
                        .is_none_or(|limit| limit >= shortest)
                );
            }
        }
    }
}
