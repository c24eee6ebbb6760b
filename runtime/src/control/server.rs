//! The app side of the control socket.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::streaming::{Line, send};
use super::{
    Answer, ControlTargets, REQUEST_BYTES_MAX, Request, TIMEOUT, Verb, dead_letters, end_of, trace,
};
use crate::service_thread::StopSignal;

/// Maximum connections. Further clients wait to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// Maximum requests that take time and memory: work on dead letters, and traces.
const LONG_REQUESTS_MAX: usize = 4;
/// Pause after a failed accept, such as without file descriptors: a retry at once would fail.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Maximum length of a socket's path on Linux and the BSDs, in bytes.
const PATH_BYTES_MAX: usize = 103;

const BUSY: &str = "the app does such work for several other clients: try again when they are done";

/// Creates the socket, for the owner alone. The caller holds the lock, so a socket that is there
/// already was left by a dead process.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        let text = format!(
            "the path has {length} bytes, sockets allow {PATH_BYTES_MAX}; \
             give app.data a shorter path, or start the app in a folder nearer to it"
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    match std::fs::remove_file(path) {
        Ok(()) => debug!("replaced the control socket of a process that is gone"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let socket = UnixSocket::new_stream()?;
    socket.bind(path)?;
    // Before listening, so that other users can never connect.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(CONNECTIONS_MAX as u32)
}

/// Answers requests until stopped.
pub(super) async fn serve(
    listener: UnixListener,
    targets: ControlTargets,
    mut stopping: StopSignal,
) {
    let shared = Arc::new((targets, Semaphore::new(LONG_REQUESTS_MAX)));
    // Dropped at the end, which closes every connection: clients see that the app has stopped.
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let accepted = tokio::select! {
            () = stopping.asked() => return,
            Some(_) = connections.join_next(), if connections.len() >= CONNECTIONS_MAX => continue,
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    let (targets, long_requests) = &*shared;
                    if let Err(error) = answer(stream, targets, long_requests).await {
                        debug!(%error, "control connection failed");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "control socket can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(
    mut stream: UnixStream,
    targets: &ControlTargets,
    long_requests: &Semaphore,
) -> io::Result<()> {
    let verb = match timeout(TIMEOUT, read(&mut stream)).await?? {
        Ok(verb) => verb,
        Err(text) => return write(&mut stream, &Answer::Error(text)).await,
    };
    match verb {
        Verb::State => {
            let answer = (targets.state)();
            let answer = answer.map_or_else(|error| Answer::Error(error.to_string()), Answer::Ok);
            return write(&mut stream, &answer).await;
        }
        Verb::Stop => return stop(stream, targets).await,
        Verb::Evict(entity) => {
            let evicted = (targets.evict)(entity).await;
            let answer = evicted.map_or_else(Answer::Error, |evicted| Answer::Ok(evicted.into()));
            return write(&mut stream, &answer).await;
        }
        Verb::Dlq(_) | Verb::Trace(_) => {}
    }
    let Ok(_permit) = long_requests.try_acquire() else {
        return send(&mut stream, &Line::<()>::Error(BUSY.to_owned())).await;
    };
    match verb {
        Verb::Dlq(request) => dead_letters::serve(stream, &targets.letters, &request).await,
        Verb::Trace(query) => trace::serve(stream, &targets.tracer, &query).await,
        Verb::State | Verb::Stop | Verb::Evict(_) => Ok(()),
    }
}

async fn write(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(TIMEOUT, stream.write_all(&line)).await?
}

async fn stop(mut stream: UnixStream, targets: &ControlTargets) -> io::Result<()> {
    let accepted = json!({ "process": std::process::id(), "phase": "stopping" });
    let written = write(&mut stream, &Answer::Ok(accepted)).await;
    info!("stop requested over the control socket");
    (targets.stop)();
    // The client sees the end of the app in the end of the connection.
    end_of(&mut stream).await;
    written
}

/// Reads the request. The inner error is the answer to a request in a wrong form.
async fn read(stream: &mut UnixStream) -> io::Result<Result<Verb, String>> {
    let mut line = Vec::new();
    let mut limited = BufReader::new(stream.take(REQUEST_BYTES_MAX));
    limited.read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Ok(Err(format!(
            "a request is one line of at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    let request: Result<Request, _> = serde_json::from_slice(&line);
    Ok(request
        .map(|request| request.verb)
        .map_err(|error| format!("a request has the form {{\"verb\":\"stop\"}}: {error}")))
}
