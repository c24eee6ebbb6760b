//! One connection, from its first byte to a close that the client understands.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::io_deadline::{ConnectionProgress, Limits, Phase, TrackedStream};
use super::request::RequestHandler;

/// The largest head of a request; also what a connection reads at once.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// What a client gets whose head didn't come in time.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 43\r\n\r\n\
    {\"error\":\"the request didn't come in time\"}";
/// After the last answer what still comes is read and forgotten for so long, and no more
/// than so many bytes: a socket that is closed on data takes the answer with it.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES_MAX: usize = 8 << 20;
const LINGER_BUFFER_BYTES: usize = 8 * 1024;

/// What all connections are to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutdownState {
    /// There is room.
    Open,
    /// Places are rare: idle connections give theirs up.
    Crowded,
    /// What is under way is finished, nothing else is begun.
    Stopping,
}

/// What a connection needs to know.
pub(super) struct ConnectionLimits {
    pub(super) door: RequestHandler,
    pub(super) limits: Limits,
    /// Whether a client that says it will send no more still gets its answer. Otherwise
    /// it counts as gone, and what it asked for is given up.
    pub(super) half_close: bool,
}

/// Serves a connection to its end.
pub(super) async fn serve(
    stream: TcpStream,
    rules: Rc<ConnectionLimits>,
    mut mood: watch::Receiver<ShutdownState>,
) {
    let progress = Rc::new(ConnectionProgress::new());
    let io = TokioIo::new(TrackedStream {
        stream,
        progress: progress.clone(),
    });
    let service = service_fn(|request| {
        let (rules, progress) = (rules.clone(), progress.clone());
        progress.asked();
        async move {
            let answer = rules.door.answer(request).await;
            progress.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(rules.half_close)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service);
    let limits = rules.limits;
    let mut timer = pin!(sleep_until(Instant::now() + limits.shortest(false)));
    let mut cut = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(error) = ended {
                    debug!(%error, "a connection failed");
                }
                break;
            }
            () = timer.as_mut() => {}
            // The sender outlives all connections.
            _ = mood.changed() => {}
        }
        let now_mood = *mood.borrow_and_update();
        if now_mood == ShutdownState::Stopping {
            if matches!(progress.phase(), Phase::New | Phase::Idle) {
                cut = true;
                break;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
        let crowded = now_mood != ShutdownState::Open;
        let now = Instant::now();
        let look_again = now + limits.shortest(crowded);
        match progress.deadline(&limits, crowded) {
            Some(deadline) if deadline <= now => {
                cut = true;
                break;
            }
            Some(deadline) => timer.as_mut().reset(deadline.min(look_again)),
            None => timer.as_mut().reset(look_again),
        }
    }
    let stream = connection.into_parts().io.into_inner().stream;
    close(stream, &progress, cut).await;
}

/// Closes so that the client gets what was sent last. `cut`: the connection didn't come
/// to its end by itself.
async fn close(mut stream: TcpStream, progress: &ConnectionProgress, cut: bool) {
    match progress.phase() {
        // The client owes nothing and is owed nothing.
        Phase::New | Phase::Idle if cut => return,
        // It doesn't take its answer.
        Phase::Answer if cut => return,
        Phase::Head if cut => {
            // Nothing was written yet to this request; what a full buffer doesn't take
            // is not worth waiting for.
            let _written = stream.try_write(TOO_SLOW);
        }
        _ => {}
    }
    let _gone = stream.shutdown().await;
    if progress.is_ended() {
        return;
    }
    let forget = async {
        let mut left = LINGER_BYTES_MAX;
        let mut buffer = vec![0; LINGER_BUFFER_BYTES];
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // Whichever comes first ends it.
    let _either = timeout(LINGER, forget).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_of_the_answer_to_slow_clients_is_right() {
        let text = std::str::from_utf8(TOO_SLOW).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{length}");
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
