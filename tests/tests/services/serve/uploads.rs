//! Uploads: bodies in files that messages refer to.

use std::path::{Path, PathBuf};

use brickwork_tests::http::Response;
use brickwork_tests::process::until;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{App, PATIENCE};

const UPLOADS: &str = r#"
[services.front]
use = "http-in"
out = { files = "files", checks = "checks" }
[services.front.config]
listen = "ADDRESS"
body_max = "1KiB"
upload_max = "3MiB"
uploads_max = "4MiB"
routes."PUT /files/{name}" = { out = "files", upload = true, content_types = ["*/*"] }
[services.front.config.routes."POST /checks"]
out = "checks"
upload = true
content_types = ["*/*"]
reply = true
body = "msg.size"
[services.size]
use = "map"
in = "checks"
out = "sizes"
config.value = "{'size': msg.size}"
[services.envelope]
use = "map"
in = "files"
out = "kept"
config.to = { name = "meta.headers['http-param-name']", file = "msg" }
[services.keep]
use = "file-out"
in = ["kept", "sizes"]
config.path = "kept.jsonl"
"#;

fn put(app: &App, name: &str, body: &str) -> Response {
    let path = format!("/files/{name}");
    app.send(
        "PUT",
        &path,
        "Content-Type: text/csv; charset=utf-8\r\n",
        body,
    )
}

fn kept(app: &App) -> Value {
    until("a line is kept", PATIENCE, || {
        let text = std::fs::read_to_string(app.folder.path().join("kept.jsonl"));
        let text = text.map_err(|error| error.to_string())?;
        let line = text.lines().next().ok_or("no line yet")?;
        serde_json::from_str(line).map_err(|error| error.to_string())
    })
}

fn files(app: &App) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(app.folder.path().join("data/files/front"));
    let entries = entries.expect("the folder is there");
    entries
        .map(|entry| entry.expect("it can be read").path())
        .collect()
}

#[test]
fn an_upload_is_a_file_that_the_message_refers_to() {
    let app = App::start(UPLOADS);
    let body = "a,b\n".repeat(700_000);
    let sent = put(&app, "report", &body);
    assert_eq!(sent.code, 202, "{}", sent.body);
    let line = kept(&app);
    assert_eq!(line["name"], "report");
    let file = &line["file"];
    let path = file["path"].as_str().expect("a text");
    assert!(Path::new(path).is_absolute());
    assert_eq!(std::fs::read_to_string(path).expect("it is there"), body);
    assert_eq!(file["size"], body.len());
    assert_eq!(file["content_type"], "text/csv; charset=utf-8");
    let digest = Sha256::digest(body.as_bytes());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(file["sha256"], digest.as_str());
}

#[test]
fn uploads_are_bounded_each_and_together_and_leave_nothing_when_refused() {
    let app = App::start(UPLOADS);
    let large = "x".repeat((3 << 20) + 1);
    assert_eq!(put(&app, "large", &large).code, 413);
    // Without a length in advance.
    let chunk = "y".repeat(1 << 20);
    let chunked = format!("{:x}\r\n{chunk}\r\n", chunk.len()).repeat(4) + "0\r\n\r\n";
    let request = format!(
        "PUT /files/c HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Type: a/b\r\n\
         Transfer-Encoding: chunked\r\n\r\n{chunked}",
        app.address
    );
    // The connection may be cut before the client has sent everything.
    if let Ok(answer) = brickwork_tests::http::exchange(app.address, request.as_bytes()) {
        assert_eq!(answer.code, 413);
    }
    until("the part is removed", PATIENCE, || match files(&app) {
        files if files.is_empty() => Ok(()),
        files => Err(format!("{files:?}")),
    });
    let half = "z".repeat(5 << 19);
    assert_eq!(put(&app, "first", &half).code, 202);
    assert_eq!(put(&app, "second", &half).code, 507);
    assert_eq!(files(&app).len(), 1);
    // A service that removes a handled file makes room.
    std::fs::remove_file(&files(&app)[0]).expect("it is there");
    assert_eq!(put(&app, "third", &half).code, 202);
}

#[test]
fn an_upload_can_have_a_reply() {
    let app = App::start(UPLOADS);
    let sent = app.send("POST", "/checks", "Content-Type: a/b\r\n", "12345");
    assert_eq!((sent.code, &*sent.body), (200, "5"));
}
