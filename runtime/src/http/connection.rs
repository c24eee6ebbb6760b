//! One connection, from its first byte to a close that loses no response.

use std::convert::Infallible;
use std::error::Error;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::debug;

use super::io_deadline::{ConnectionProgress, Phase, PhaseLimits, TrackedStream};

/// Maximum bytes of a request's head, and bytes per read.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Response to a client whose head did not arrive in time.
const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\n\
    content-type: application/problem+json\r\ncontent-length: 104\r\n\r\n\
    {\"type\":\"about:blank\",\"title\":\"Request Timeout\",\
    \"status\":408,\"detail\":\"the request didn't come in time\"}";
/// Time for which data after the last response is read and discarded. A socket that is closed
/// with unread data resets the connection, and the client loses the response.
const LINGER: Duration = Duration::from_secs(2);
/// Maximum bytes discarded after the last response.
const LINGER_BYTES_MAX: usize = 8 << 20;
const LINGER_BUFFER_BYTES: usize = 8 * 1024;

/// State of the server, which all connections watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShutdownState {
    /// More connections can be accepted.
    Open,
    /// The maximum of connections is reached: idle ones close soon.
    Crowded,
    /// Requests in progress are finished; no new ones are accepted.
    Stopping,
}

/// The service, and settings that all connections share.
pub(super) struct Shared<S> {
    pub(super) service: S,
    pub(super) limits: PhaseLimits,
    /// Whether a client that has closed its sending side still gets its response. If not, it
    /// counts as gone, and its request is cancelled.
    pub(super) half_close: bool,
}

/// Serves a connection to its end.
pub(super) async fn serve<S, B>(
    stream: TcpStream,
    shared: Rc<Shared<S>>,
    mut server: watch::Receiver<ShutdownState>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + 'static,
    B: Body<Data = Bytes> + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let progress = Rc::new(ConnectionProgress::new());
    let io = TokioIo::new(TrackedStream {
        stream,
        progress: progress.clone(),
    });
    let service = service_fn(|request| {
        let (shared, progress) = (shared.clone(), progress.clone());
        progress.request_started();
        async move {
            let answer = shared.service.call(request).await;
            progress.response_ready();
            answer
        }
    });
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .half_close(shared.half_close)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(io, service);
    let limits = shared.limits;
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
            _ = server.changed() => {}
        }
        let state = *server.borrow_and_update();
        if state == ShutdownState::Stopping {
            if matches!(progress.phase(), Phase::New | Phase::Idle) {
                cut = true;
                break;
            }
            Pin::new(&mut connection).graceful_shutdown();
        }
        let crowded = state != ShutdownState::Open;
        let now = Instant::now();
        let next_check = now + limits.shortest(crowded);
        match progress.deadline(&limits, crowded) {
            Some(deadline) if deadline <= now => {
                cut = true;
                break;
            }
            Some(deadline) => timer.as_mut().reset(deadline.min(next_check)),
            None => timer.as_mut().reset(next_check),
        }
    }
    let stream = connection.into_parts().io.into_inner().stream;
    close(stream, &progress, cut).await;
}

/// Closes the connection so that the client gets the last response. `cut` means that the
/// server ends the connection.
async fn close(mut stream: TcpStream, progress: &ConnectionProgress, cut: bool) {
    match progress.phase() {
        // No request and no response is pending.
        Phase::New | Phase::Idle if cut => return,
        // The client does not read its response.
        Phase::Response if cut => return,
        Phase::Head if cut => {
            // Nothing was written for this request yet. If the socket's buffer is full, the
            // client does not read: it is not worth waiting for.
            let _written = stream.try_write(TOO_SLOW);
        }
        _ => {}
    }
    let _gone = stream.shutdown().await;
    if progress.is_ended() {
        return;
    }
    let discard = async {
        let mut left = LINGER_BYTES_MAX;
        let mut buffer = vec![0; LINGER_BUFFER_BYTES];
        while left > 0 {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(read) => left = left.saturating_sub(read),
            }
        }
    };
    // The time, the bytes or the end of the stream ends it.
    let _either = timeout(LINGER, discard).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_content_length_of_the_response_to_slow_clients_is_right() {
        let text = std::str::from_utf8(TOO_SLOW).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let length = format!("content-length: {}", body.len());
        assert!(head.contains(&length), "{length}");
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
