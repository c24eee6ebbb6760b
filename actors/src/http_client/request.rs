//! Requests to the outside, their answers and their errors.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, Method};

/// A request to an outside service.
#[derive(Clone)]
pub(crate) struct OutsideRequest {
    /// HTTP method.
    pub(crate) method: Method,
    /// Absolute URL, with `http` or `https`.
    pub(crate) url: String,
    /// Headers, in order.
    pub(crate) headers: Vec<(String, String)>,
    /// Body; `None` sends no body and no content length.
    pub(crate) body: Option<Bytes>,
    /// Whether the request may be sent again after an unknown outcome.
    pub(crate) idempotent: bool,
    /// Part of the host with a circuit breaker and limits of its own, such as a customer; empty
    /// for the host as a whole.
    pub(crate) partition: String,
    /// Number by which a breaker knows the message again, such as a hash of its id: while the
    /// breaker is closed, a message counts as failed once. By default each request counts.
    pub(crate) message: u64,
    /// Time that the caller has for the call; the client's `timeout` applies, too.
    pub(crate) within: Option<Duration>,
}

/// A complete answer.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) status: u16,
    /// Headers.
    pub(crate) headers: HeaderMap,
    /// Body, decompressed.
    pub(crate) body: Bytes,
}

/// The reason for which a request has no complete answer. The texts name the host, never the
/// path or the query of a URL, which may contain secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CallError {
    /// No connection: no part of the request was sent.
    NotSent(String),
    /// The request was sent, at least in part, and there is no complete answer.
    Unknown(String),
    /// The request is not allowed: the URL, a header, the address, or a redirect.
    Refused(String),
    /// The answer's body is larger than this many bytes.
    TooLarge(usize),
    /// The circuit breaker of the host is open, or the host has asked to wait. Nothing was sent.
    Open {
        /// End of the pause.
        until: SystemTime,
        /// Host, and the reason.
        reason: String,
    },
    /// As many requests to the host run as may run at once. Nothing was sent.
    Busy(String),
}

impl OutsideRequest {
    /// Creates a request without headers and body. The method decides whether it is idempotent.
    pub(crate) fn new(method: Method, url: impl Into<String>) -> Self {
        Self {
            idempotent: method.is_idempotent(),
            method,
            url: url.into(),
            headers: Vec::new(),
            body: None,
            partition: String::new(),
            message: fastrand::u64(..),
            within: None,
        }
    }
}

impl fmt::Debug for OutsideRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // URL and headers may contain secrets.
        f.debug_struct("OutsideRequest")
            .field("method", &self.method)
            .field("body_bytes", &self.body.as_ref().map(Bytes::len))
            .finish_non_exhaustive()
    }
}

impl Answer {
    /// Returns the first value of a header, if it is readable text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotSent(reason) => write!(f, "the request was not sent: {reason}"),
            Self::Unknown(reason) => write!(f, "the outcome of the request is unknown: {reason}"),
            Self::Refused(reason) => write!(f, "the request is not allowed: {reason}"),
            Self::TooLarge(bytes_max) => write!(
                f,
                "the answer is larger than max_response ({bytes_max} bytes)"
            ),
            Self::Open { reason, .. } => write!(f, "the request waits: {reason}"),
            Self::Busy(host) => write!(
                f,
                "the request waits: {host} has as many requests in flight as are allowed"
            ),
        }
    }
}

impl std::error::Error for CallError {}
