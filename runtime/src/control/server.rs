//! The side of the app: answers, one line for one line; work on dead letters is
//! [`bench`](super::dead_letters)'s.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::{
    Answer, ControlTargets, REQUEST_BYTES_MAX, Request, TIMEOUT, Verb, dead_letters, trace,
};
use crate::service_thread::StopSignal;

/// Whoever comes while so many are connected waits to be accepted.
const CONNECTIONS_MAX: usize = 16;
/// So many of them may work on dead letters, or follow a message, which takes memory, and time.
const BENCHES_MAX: usize = 4;
/// When accepting fails (out of file descriptors), trying again at once won't help.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);
/// A socket's path is not longer, on Linux and the BSDs.
const PATH_BYTES_MAX: usize = 103;

const BUSY: &str =
    "the app does such work for several others already: try again when they are done";

/// Makes the socket, for the owner alone. The caller holds the lock: what lies there is
/// of a process that is dead.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        let text = format!(
            "the path has {length} bytes, sockets allow {PATH_BYTES_MAX}; \
             give app.data a shorter path, or start the app from nearer to it"
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
    // Before it listens, so that there is no moment in which others could connect.
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    socket.listen(CONNECTIONS_MAX as u32)
}

/// Serves until told to stop.
pub(super) async fn serve(listener: UnixListener, reach: ControlTargets, mut stopping: StopSignal) {
    let reach = Arc::new((reach, Semaphore::new(BENCHES_MAX)));
    // Dropped at the end, which closes every connection: that says that the app stopped.
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
                let reach = reach.clone();
                connections.spawn(async move {
                    let (reach, benches) = &*reach;
                    if let Err(error) = answer(stream, reach, benches).await {
                        debug!(%error, "a control connection failed");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "the control socket can't accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Answers one request.
async fn answer(
    mut stream: UnixStream,
    reach: &ControlTargets,
    benches: &Semaphore,
) -> io::Result<()> {
    let answer = match timeout(TIMEOUT, read(&mut stream)).await?? {
        Ok(Verb::State) => serde_json::to_value(reach.view.snapshot())
            .map_or_else(|error| Answer::Error(error.to_string()), Answer::Ok),
        Ok(Verb::Stop) => return stop(stream, reach).await,
        Ok(Verb::Dlq(task)) => {
            return match benches.try_acquire() {
                Ok(_bench) => dead_letters::serve(stream, &reach.letters, &task).await,
                Err(_) => dead_letters::refuse(stream, BUSY).await,
            };
        }
        Ok(Verb::Trace(question)) => {
            return match benches.try_acquire() {
                Ok(_bench) => trace::serve(stream, &reach.tracer, &question).await,
                Err(_) => trace::refuse(stream, BUSY).await,
            };
        }
        Err(text) => Answer::Error(text),
    };
    write(&mut stream, &answer).await
}

async fn write(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    timeout(TIMEOUT, stream.write_all(&line)).await?
}

async fn stop(mut stream: UnixStream, reach: &ControlTargets) -> io::Result<()> {
    let written = write(&mut stream, &Answer::Ok(accepted())).await;
    info!("told to stop over the control socket");
    (reach.stop)();
    // The client, if it waits, sees the app's end in the end of the connection.
    let mut byte = [0; 1];
    while stream.read(&mut byte).await? > 0 {}
    written
}

fn accepted() -> Value {
    json!({ "process": std::process::id(), "phase": "stopping" })
}

/// The verb that is asked for, or what is wrong with the request.
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
