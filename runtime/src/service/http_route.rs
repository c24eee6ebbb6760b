//! Routes that a source serves over HTTP, as plain data for descriptions such as OpenAPI.

use serde_json::Value;

/// A route of a source, with the requests that it takes and the answers that it gives.
#[derive(Debug, Clone)]
pub struct HttpRoute {
    /// Method, in upper case.
    pub method: String,
    /// Path; a name in braces stands for one segment: `/orders/{id}`.
    pub path: String,
    /// Output of its messages.
    pub output: String,
    /// Purpose, in one line.
    pub summary: Option<String>,
    /// Parameters of the query.
    pub query: Vec<String>,
    /// Headers that a request must have.
    pub headers: Vec<String>,
    /// Header with the signature or key that proves the caller.
    pub credential: Option<String>,
    /// Media types of the body. Empty if there is no body: then the payload of the message is an
    /// object of the parameters of path and query.
    pub content_types: Vec<String>,
    /// Answers.
    pub answers: Vec<HttpAnswer>,
}

/// An answer of a route.
#[derive(Debug, Clone)]
pub struct HttpAnswer {
    /// Status; `None` for all others.
    pub status: Option<u16>,
    /// Meaning, in one sentence.
    pub description: String,
    /// Body.
    pub content: HttpContent,
}

/// The body of an answer.
#[derive(Debug, Clone)]
pub enum HttpContent {
    /// No body.
    Nothing,
    /// The reply of the service that reads the output.
    Reply,
    /// A body of this media type with this JSON Schema.
    Body(String, Value),
}
