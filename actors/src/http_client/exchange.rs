//! One request with its answer, over a pool of connections.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri};
use http_body_util::Full;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{Client, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::{Instant, timeout_at};

use super::body;
use super::connector::{ConnectError, Connector, OpenedAt};
use super::request::{Answer, CallError};
use super::settings::ClientSettings;

/// Maximum idle connections to one host.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// Maximum size of an answer's head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A pool of connections.
#[derive(Clone)]
pub(crate) struct Pool {
    client: Client<Connector, Full<Bytes>>,
    settings: Arc<ClientSettings>,
}

/// A request that is ready to be sent.
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Option<Bytes>,
}

impl Pool {
    pub(crate) fn new(connector: Connector, settings: Arc<ClientSettings>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(settings.idle_timeout)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http1_max_buf_size(HEAD_BYTES_MAX)
            .build(connector);
        Self { client, settings }
    }

    /// Sends a request and reads the answer.
    ///
    /// # Errors
    /// No connection, no complete answer until the deadline, or one that is too large.
    pub(crate) async fn exchange(
        &self,
        outgoing: Outgoing,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let host = outgoing.uri.host().unwrap_or_default().to_owned();
        let mut request = Request::new(Full::new(outgoing.body.unwrap_or_default()));
        *request.method_mut() = outgoing.method;
        *request.uri_mut() = outgoing.uri;
        *request.headers_mut() = outgoing.headers;
        let connection = capture_connection(&mut request);
        let answering = self.client.request(request);
        let answer = match timeout_at(deadline, answering).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(&host, &error)),
            Err(_) if connection.connection_metadata().is_none() => {
                return Err(CallError::NotSent(format!(
                    "{host} has not accepted a connection within timeout ({:?})",
                    self.settings.timeout
                )));
            }
            Err(_) => return Err(self.late(&host)),
        };
        let (parts, incoming) = answer.into_parts();
        let opened = parts.extensions.get::<OpenedAt>();
        if opened.is_some_and(|opened| self.is_old(opened.0.elapsed()))
            && let Some(connected) = &*connection.connection_metadata()
        {
            connected.poison();
        }
        let bytes_max = self.settings.max_response;
        let reading = body::read(incoming, bytes_max);
        let read = timeout_at(deadline, reading).await;
        let body = read.map_err(|_| self.late(&host))??;
        let mut headers = parts.headers;
        let body = body::decoded(&mut headers, body, bytes_max)?;
        Ok(Answer {
            status: parts.status.as_u16(),
            headers,
            body,
        })
    }

    fn late(&self, host: &str) -> CallError {
        CallError::Unknown(format!(
            "{host} has not answered within timeout ({:?})",
            self.settings.timeout
        ))
    }

    fn is_old(&self, age: Duration) -> bool {
        age >= self.settings.connection_lifetime
    }
}

/// Decides whether a request that failed was sent.
fn failed(host: &str, error: &PoolError) -> CallError {
    if let Some(refused) = cause::<ConnectError>(error) {
        return match refused {
            ConnectError::Failed(text) => CallError::NotSent(text.clone()),
            ConnectError::Refused(text) => CallError::Refused(text.clone()),
        };
    }
    let text = format!("{host}: {}", last_cause(error));
    let canceled = cause::<hyper::Error>(error).is_some_and(hyper::Error::is_canceled);
    if error.is_connect() || canceled {
        CallError::NotSent(text)
    } else {
        CallError::Unknown(text)
    }
}

fn cause<'e, E: Error + 'static>(error: &'e (dyn Error + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn last_cause(error: &dyn Error) -> String {
    let mut last = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        last = error.to_string();
        next = error.source();
    }
    last
}
