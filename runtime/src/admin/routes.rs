//! The routes and their answers.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderName, StatusCode};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, Registry, TextEncoder};
use serde::Serialize;
use tracing::error;

use super::page;
use crate::http::{HostProblem, IsAccepted, check_host};
use crate::message::JSON;
use crate::status::AppStatus;

const PLAIN: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";

/// Allows our own style sheet only; no frames, no forms.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// The headers of every answer.
const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
    (CONTENT_SECURITY_POLICY, POLICY),
];

const NOT_FOUND: &str = "not found: see / for the app, /metrics for Prometheus, \
                         /health/live, /health/ready and /api/app\n";
const READ_ONLY: &str = "the admin endpoint is read-only: use GET; \
                         commands go over the control socket\n";
const FOREIGN: &str = "this endpoint listens on loopback and answers to localhost, 127.0.0.1 \
                       and [::1] only\n";

/// On loopback no name is accepted besides those of loopback.
const NO_OTHER: IsAccepted<'static> = &|_| false;
const ONE_HOST: &str = "a request has exactly one header Host\n";

/// The sources of answers.
struct Sources {
    view: Arc<AppStatus>,
    registry: Registry,
}

/// The router. On loopback, it refuses requests that name another host.
pub(super) fn router(view: Arc<AppStatus>, registry: Registry, on_loopback: bool) -> Router {
    let guard = move |request: Request, next: Next| async move {
        let mut response = match check_host(&request, on_loopback.then_some(NO_OTHER)) {
            Ok(()) => next.run(request).await,
            Err(problem @ HostProblem::Foreign) => text(problem.status(), PLAIN, FOREIGN),
            Err(problem) => text(problem.status(), PLAIN, ONE_HOST),
        };
        response.headers_mut().extend(HEADERS);
        response
    };
    Router::new()
        .route("/", get(index))
        .route(page::STYLE_PATH, get(style))
        .route("/metrics", get(metrics))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .route("/api/app", get(app))
        .fallback(async || text(StatusCode::NOT_FOUND, PLAIN, NOT_FOUND))
        .method_not_allowed_fallback(async || {
            text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, READ_ONLY)
        })
        .layer(from_fn(guard))
        .with_state(Arc::new(Sources { view, registry }))
}

async fn index(State(sources): State<Arc<Sources>>) -> Response {
    text(StatusCode::OK, HTML, page::render(&sources.view.snapshot()))
}

async fn style() -> Response {
    text(StatusCode::OK, CSS, page::STYLE)
}

async fn metrics(State(sources): State<Arc<Sources>>) -> Response {
    let encoder = TextEncoder::new();
    let mut body = Vec::with_capacity(16 * 1024);
    match encoder.encode(&sources.registry.gather(), &mut body) {
        Ok(()) => text(StatusCode::OK, encoder.format_type(), body),
        Err(error) => {
            error!(%error, "can't encode metrics");
            let body = format!("can't encode metrics: {error}\n");
            text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, body)
        }
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    reasons: Vec<String>,
    /// Sources that wait.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

async fn live(State(sources): State<Arc<Sources>>) -> Response {
    health("live", "stuck", sources.view.liveness(), Vec::new())
}

async fn ready(State(sources): State<Arc<Sources>>) -> Response {
    let view = &sources.view;
    health("ready", "not ready", view.readiness(), view.notes())
}

fn health(
    good: &'static str,
    bad: &'static str,
    (well, reasons): (bool, Vec<String>),
    notes: Vec<String>,
) -> Response {
    let (code, status) = match well {
        true => (StatusCode::OK, good),
        false => (StatusCode::SERVICE_UNAVAILABLE, bad),
    };
    let health = Health {
        status,
        reasons,
        notes,
    };
    json(code, &health)
}

async fn app(State(sources): State<Arc<Sources>>) -> Response {
    json(StatusCode::OK, &sources.view.snapshot())
}

fn json(code: StatusCode, body: &impl Serialize) -> Response {
    match serde_json::to_vec(body) {
        Ok(body) => text(code, JSON, body),
        Err(error) => {
            error!(%error, "can't write an answer as JSON");
            let body = format!("can't write the answer as JSON: {error}\n");
            text(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, body)
        }
    }
}

fn text(code: StatusCode, content_type: &str, body: impl IntoResponse) -> Response {
    let mut response = (code, body).into_response();
    let content_type = HeaderValue::from_str(content_type).expect("content types are plain text");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}
