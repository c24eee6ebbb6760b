//! Config and requests of `poll`.

use std::time::Duration;

use brickwork::prelude::*;
use serde_json::{Value, json};

use super::request::{self, Variables};
use super::*;

/// A config with the required settings and others.
fn config(more: Value) -> PollConfig {
    let mut config = json!({
        "every": "1m", "url": "'https://api.example.com/orders'", "allow": ["api.example.com"],
    });
    let settings = config.as_object_mut().unwrap();
    settings.extend(more.as_object().unwrap().clone());
    settings.retain(|_, value| !value.is_null());
    serde_json::from_value(config).unwrap()
}

#[test]
fn a_request_is_made_of_expressions_and_secret_headers() {
    let config = config(json!({
        "method": "POST",
        "query": { "since": "msg.cursor", "page": "msg.page", "none": "msg.token" },
        "headers": { "X-Until": "msg.until", "X-None": "null" },
        "secret_headers": { "Authorization": "Bearer t0p" },
        "body": "{'after': msg.cursor}",
    }));
    Poll::check(&config).unwrap();
    let cursor = json!("a b");
    let variables = Variables {
        cursor: Some(&cursor),
        until: Some(json!(7)),
        page: 3,
        ..Variables::default()
    };
    let request = request::build(&config, &variables, None).unwrap();
    assert_eq!(
        (
            request.method.as_str(),
            request.url.as_str(),
            request.body.as_deref()
        ),
        (
            "POST",
            "https://api.example.com/orders?page=3&since=a+b",
            Some(&br#"{"after":"a b"}"#[..])
        )
    );
    let headers: Vec<(&str, &str)> = request
        .headers
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    let expected = [
        ("X-Until", "7"),
        ("Authorization", "Bearer t0p"),
        ("Accept", "application/json"),
        ("Content-Type", "application/json"),
    ];
    assert_eq!(headers, expected);
    assert!(!format!("{config:?}").contains("t0p"), "a secret is hidden");
}

#[test]
fn limits_of_the_config_are_those_of_the_client() {
    let config = config(json!({
        "connect_timeout": "2s", "timeout": "3s", "max_response": "1MiB", "max_redirects": 4,
        "proxy": "http://proxy.example:3128", "tls": { "ca": "ca.pem" },
    }));
    Poll::check(&config).unwrap();
    let client = config.client();
    assert_eq!(client.connect_timeout, Duration::from_secs(2));
    assert_eq!(client.timeout, Duration::from_secs(3));
    assert_eq!((client.max_response, client.max_redirects), (1 << 20, 4));
    assert_eq!(client.proxy.unwrap().reveal(), "http://proxy.example:3128");
    assert!(client.tls.ca.is_some());
}

#[test]
fn wrong_settings_are_reported_where_they_stand() {
    for (value, part) in [
        (json!({ "every": null }), "it never polls"),
        (json!({ "cron": "@daily" }), "exclude each other"),
        (json!({ "every": "1ms" }), "less than 100ms"),
        (json!({ "zone": "UTC" }), "only cron"),
        (json!({ "url": null }), "url"),
        (json!({ "url": "'orders'" }), "not a URL"),
        (json!({ "url": "msg.wrong" }), "wrong"),
        (
            json!({ "url": "'https://other.example/'" }),
            "other.example",
        ),
        (json!({ "query": { "a": "[1]" } }), "query.a"),
        (json!({ "allow": [] }), "no host"),
        (json!({ "body": "1" }), "method"),
        (
            json!({ "pages": { "link": true, "numbered": true } }),
            "keep one",
        ),
        (json!({ "pages": { "max": 0 } }), "pages.max"),
        (json!({ "auth": { "user": "me" } }), "auth"),
        (
            json!({ "cursor": { "field": "msg.a", "answer": "msg.b" } }),
            "keep one",
        ),
        (json!({ "cursor": { "start": 1 } }), "cursor.start"),
        (
            json!({ "cursor": { "field": "msg.a", "lag": "1s" } }),
            "cursor.lag",
        ),
        (
            json!({ "cursor": { "field": "msg.a", "form": "time", "start": "x" } }),
            "cursor.start",
        ),
        (
            json!({ "cursor": { "answer": "msg.a", "ascending": true } }),
            "cursor.field",
        ),
    ] {
        let errors = Poll::check(&config(value.clone())).unwrap_err();
        let texts: Vec<String> = errors.iter().map(|error| format!("{error:?}")).collect();
        assert!(
            texts.iter().any(|text| text.contains(part)),
            "{value}: {texts:?}"
        );
    }
}
