//! The parent's end of the link: sends requests, one at a time.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use super::{Answer, LINE_BYTES_MAX, Request, Verb};
use crate::process::{BoundedLine, BoundedLines};

/// The connection to a child. Dropping it tells the child to stop.
///
/// Every method is cancel safe: the next request skips the answer of a dropped one.
#[derive(Debug)]
pub(crate) struct Link {
    stream: BoundedLines<UnixStream>,
    /// Number of the last request.
    asked: u64,
    /// Number of the last request that was answered.
    answered: u64,
}

impl Link {
    pub(super) fn new(stream: StdUnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: BoundedLines::new(UnixStream::from_std(stream)?, LINE_BYTES_MAX),
            asked: 0,
            answered: 0,
        })
    }

    /// Asks for statistics. If an earlier request has no answer yet, waits for that answer:
    /// a silent child does not get request after request.
    ///
    /// # Errors
    /// The child is gone or breaks the protocol.
    pub(crate) async fn stats(&mut self) -> io::Result<Answer> {
        if self.asked == self.answered {
            self.send(Verb::Stats).await?;
        }
        self.answer(self.asked).await
    }

    /// Asks whether the service is idle.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub(crate) async fn idle(&mut self) -> io::Result<Answer> {
        self.send(Verb::Idle).await?;
        self.answer(self.asked).await
    }

    /// Tells the child to stop; resolves with the final answer when it has stopped.
    ///
    /// # Errors
    /// As [`stats`](Self::stats).
    pub(crate) async fn stop(&mut self, within: Duration) -> io::Result<Answer> {
        self.send(Verb::Stop { within }).await?;
        self.answer(self.asked).await
    }

    async fn send(&mut self, verb: Verb) -> io::Result<()> {
        self.asked += 1;
        let number = self.asked;
        let mut line = serde_json::to_vec(&Request { number, verb })?;
        line.push(b'\n');
        // The socket holds at most a few short lines, so this write is never partial.
        self.stream.get_mut().write_all(&line).await
    }

    async fn answer(&mut self, number: u64) -> io::Result<Answer> {
        loop {
            let answer: Answer = match self.stream.next().await? {
                BoundedLine::Line(line) => serde_json::from_slice(line)?,
                BoundedLine::Part(part) if part.len() > LINE_BYTES_MAX => {
                    let text = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                BoundedLine::Part(_) | BoundedLine::End => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            };
            self.answered = self.answered.max(answer.number);
            if answer.number >= number {
                return Ok(answer);
            }
        }
    }
}
