//! The parent's end of the socket: asks, one question at a time.

use std::io;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;

use super::{Answer, LINE_BYTES_MAX, Request, Verb};

/// A conversation with a child. Dropping it tells the child to stop.
///
/// A question may be dropped before its answer has come: the next one passes over that.
#[derive(Debug)]
pub(crate) struct Link {
    stream: BufReader<UnixStream>,
    /// What has come of the next line.
    line: Vec<u8>,
    asked: u64,
    /// The last question that was answered.
    answered: u64,
}

impl Link {
    pub(super) fn new(stream: StdUnixStream) -> io::Result<Self> {
        Ok(Self {
            stream: BufReader::new(UnixStream::from_std(stream)?),
            line: Vec::new(),
            asked: 0,
            answered: 0,
        })
    }

    /// What can be seen. While an earlier question waits for its answer, that one counts:
    /// a child that is silent isn't asked again and again.
    ///
    /// # Errors
    /// The child is gone, or talks nonsense.
    pub(crate) async fn figures(&mut self) -> io::Result<Answer> {
        if self.asked == self.answered {
            self.send(Verb::Figures).await?;
        }
        self.answer(self.asked).await
    }

    /// Whether there is nothing left to do there, as of now.
    ///
    /// # Errors
    /// As [`figures`](Self::figures).
    pub(crate) async fn idle(&mut self) -> io::Result<Answer> {
        self.send(Verb::Idle).await?;
        self.answer(self.asked).await
    }

    /// Has it stop in order; resolves with the last that can be seen when it has.
    ///
    /// # Errors
    /// As [`figures`](Self::figures).
    pub(crate) async fn stop(&mut self, within: Duration) -> io::Result<Answer> {
        self.send(Verb::Stop { within }).await?;
        self.answer(self.asked).await
    }

    async fn send(&mut self, verb: Verb) -> io::Result<()> {
        self.asked += 1;
        let number = self.asked;
        let mut line = serde_json::to_vec(&Request { number, verb })?;
        line.push(b'\n');
        // At most a few short lines wait there at any time: they are taken in one piece.
        self.stream.get_mut().write_all(&line).await
    }

    async fn answer(&mut self, number: u64) -> io::Result<Answer> {
        loop {
            self.fill_line().await?;
            let answer: Answer = serde_json::from_slice(&self.line)?;
            self.line.clear();
            self.answered = self.answered.max(answer.number);
            if answer.number >= number {
                return Ok(answer);
            }
        }
    }

    /// Reads on to the end of the line. May be dropped and called again.
    async fn fill_line(&mut self) -> io::Result<()> {
        loop {
            let come = self.stream.fill_buf().await?;
            if come.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = come.iter().position(|byte| *byte == b'\n');
            let length = end.map_or(come.len(), |end| end + 1);
            self.line.extend_from_slice(&come[..length]);
            self.stream.consume(length);
            if end.is_some() {
                return Ok(());
            }
            if self.line.len() > LINE_BYTES_MAX {
                let text = format!("a line is longer than {LINE_BYTES_MAX} bytes");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
        }
    }
}
