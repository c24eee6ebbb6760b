//! Tokens of OAuth 2, from an endpoint on the same server.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::{Value, json};

use super::super::super::credentials::AuthSettings;
use super::*;

fn with_tokens(address: &str, mut oauth2: Value) -> HttpClient {
    oauth2["token_url"] = format!("http://{address}/token").into();
    oauth2["client_id"] = "me".into();
    oauth2["client_secret"] = "a secret".into();
    let auth: AuthSettings = serde_json::from_value(json!({ "oauth2": oauth2 })).unwrap();
    assert!(auth.check().is_empty());
    client(address, |settings| settings.auth = Some(auth))
}

fn token(access: &str, refresh: Option<&str>) -> Option<Vec<u8>> {
    let mut body = json!({ "access_token": access, "expires_in": "3600" });
    if let Some(refresh) = refresh {
        body["refresh_token"] = refresh.into();
    }
    http("200 OK", body.to_string().as_bytes())
}

fn kept(file: &Path) -> Value {
    json!({ "refresh_token": "first", "refresh_token_file": file })
}

#[tokio::test]
async fn a_token_is_fetched_once_and_sent_with_each_request() {
    let ok = http("200 OK", b"");
    let server = server(vec![token("abc", None), ok.clone(), ok]).await;
    let client = with_tokens(&server.address, json!({ "scope": "a b" }));
    for _ in 0..2 {
        let answer = client.call(post(&server.address)).await.unwrap();
        assert_eq!(answer.status, 200);
    }
    let requests = server.requests.lock().unwrap();
    assert!(requests[0].starts_with("POST /token "), "{}", requests[0]);
    assert!(requests[0].contains("authorization: Basic bWU6YStzZWNyZXQ=\r\n"));
    assert!(requests[0].ends_with("grant_type=client_credentials&scope=a+b"));
    for request in &requests[1..] {
        assert!(
            request.contains("authorization: Bearer abc\r\n"),
            "{request}"
        );
    }
}

#[tokio::test]
async fn a_replaced_refresh_token_is_kept_and_used_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let ok = http("200 OK", b"");
    let answers = vec![token("a", Some("second")), ok.clone(), token("b", None), ok];
    let server = server(answers).await;
    for kept_before in ["first", "second"] {
        let client = with_tokens(&server.address, kept(&file));
        client.call(post(&server.address)).await.unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "second");
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let requests = server.requests.lock().unwrap();
        let asked = &requests[requests.len() - 2];
        let form = format!("grant_type=refresh_token&refresh_token={kept_before}");
        assert!(asked.ends_with(&form), "{asked}");
    }
}

#[tokio::test]
async fn a_refresh_token_that_another_process_has_replaced_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    let refused = http("400 Bad Request", br#"{"error":"invalid_grant"}"#);
    let server = server(vec![refused, token("a", None), http("200 OK", b"")]).await;
    let client = with_tokens(&server.address, kept(&file));
    std::fs::write(&file, "of another process\n").unwrap();
    client.call(post(&server.address)).await.unwrap();
    let requests = server.requests.lock().unwrap();
    assert!(
        requests[1].ends_with("refresh_token=of+another+process"),
        "{}",
        requests[1]
    );
}

#[tokio::test]
async fn an_endpoint_that_refuses_is_not_asked_by_every_request() {
    let refused = http("401 Unauthorized", br#"{"error":"invalid_client"}"#);
    let server = server(vec![refused]).await;
    let client = with_tokens(&server.address, json!({}));
    for _ in 0..3 {
        let error = client.call(post(&server.address)).await.unwrap_err();
        let CallError::NotSent(reason) = &error else {
            panic!("{error}");
        };
        assert!(reason.contains("status 401 (invalid_client)"), "{reason}");
    }
    assert_eq!(server.requests.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_token_that_an_answer_repeats_is_not_shown() {
    let echo = http("400 Bad Request", b"bad token: very-secret-token");
    let server = server(vec![token("very-secret-token", None), echo]).await;
    let client = with_tokens(&server.address, json!({}));
    let request = post(&server.address);
    let url = request.url.clone();
    let result = client.call(request).await;
    let verdict = client.judge(&url, "", &result, SystemTime::now());
    let Verdict::Rejected { reason } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(reason, "the answer has status 400: bad token: [redacted]");
}
