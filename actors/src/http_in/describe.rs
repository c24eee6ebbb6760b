//! The routes of `http-in` as plain data, for OpenAPI.

use brickwork::{HttpAnswer, HttpContent, HttpRoute};
use hyper::Method;
use serde_json::json;

use super::HttpInConfig;
use super::endpoint::{Endpoint, Endpoints};

/// The routes of a config that was checked.
pub(super) fn routes(config: &HttpInConfig) -> Vec<HttpRoute> {
    let Ok(endpoints) = Endpoints::new(config) else {
        return Vec::new();
    };
    endpoints.iter().map(|it| route(config, it)).collect()
}

fn route(config: &HttpInConfig, endpoint: &Endpoint) -> HttpRoute {
    let has_body = !matches!(endpoint.key.method, Method::GET | Method::DELETE);
    let headers = [&config.id_header, &config.type_header];
    let path = match endpoint.key.path.strip_suffix("/*") {
        Some(folder) => format!("{folder}/{{below}}"),
        None => endpoint.key.path.clone(),
    };
    HttpRoute {
        method: endpoint.key.method.to_string(),
        path,
        output: endpoint.output.clone(),
        summary: endpoint.summary.clone(),
        query: endpoint.query.clone(),
        headers: headers.into_iter().flatten().cloned().collect(),
        credential: config
            .secret
            .is_some()
            .then(|| config.signature.header().to_owned()),
        content_types: match has_body {
            true => endpoint.content_types.names().to_vec(),
            false => Vec::new(),
        },
        answers: answers(config, endpoint, has_body),
    }
}

fn answers(config: &HttpInConfig, endpoint: &Endpoint, has_body: bool) -> Vec<HttpAnswer> {
    let mut answers = vec![success(endpoint)];
    let mut refusal = |status: u16, description: &str| {
        answers.push(problem(status, description));
    };
    refusal(400, "The request is malformed.");
    if config.secret.is_some() {
        refusal(401, "The signature is missing or wrong.");
    }
    if endpoint.replies && !endpoint.template.sets_content_type() {
        refusal(406, "Accept excludes JSON.");
    }
    if has_body {
        refusal(408, "The body did not arrive in time.");
        refusal(413, "The body is too large.");
        refusal(415, "The content type is not accepted.");
    }
    if endpoint.replies {
        refusal(502, "The service failed.");
    }
    if endpoint.uploads {
        refusal(507, "There is no room for more files.");
    }
    refusal(503, "The app can't take the request now: try again later.");
    if endpoint.replies {
        refusal(504, "No reply came in time.");
    }
    answers
}

fn success(endpoint: &Endpoint) -> HttpAnswer {
    if !endpoint.replies {
        let id = json!({
            "type": "object",
            "properties": { "id": { "type": "string" } },
            "required": ["id"],
        });
        return HttpAnswer {
            status: Some(202),
            description: "The message is accepted.".to_owned(),
            content: HttpContent::Body("application/json".to_owned(), id),
        };
    }
    let status = endpoint.template.fixed_status();
    let content = match status {
        Some(204 | 304) => HttpContent::Nothing,
        _ if endpoint.template.keeps_body() => HttpContent::Reply,
        _ => {
            let media_type = match endpoint.template.sets_content_type() {
                true => "*/*",
                false => "application/json",
            };
            HttpContent::Body(media_type.to_owned(), json!({}))
        }
    };
    HttpAnswer {
        status,
        description: "The reply.".to_owned(),
        content,
    }
}

fn problem(status: u16, description: &str) -> HttpAnswer {
    let schema = json!({
        "type": "object",
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
        },
    });
    HttpAnswer {
        status: Some(status),
        description: description.to_owned(),
        content: HttpContent::Body("application/problem+json".to_owned(), schema),
    }
}
