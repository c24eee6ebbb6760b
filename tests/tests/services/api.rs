//! `examples/7-api` end to end: a client creates, reads, lists, changes and deletes todos, also
//! after a kill, and the routes are described as OpenAPI.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use brickwork_tests::binary::{todos, workspace};
use brickwork_tests::http::{self, Response};
use brickwork_tests::process::{Process, free_address, until};
use serde_json::{Value, json};
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(60);

struct Api {
    folder: TempDir,
    address: SocketAddr,
}

impl Api {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let example = workspace().join("examples/7-api/api.toml");
        std::fs::copy(example, folder.path().join("api.toml")).expect("it can be copied");
        let overlay = "[admin]\nlisten = \"off\"\n";
        std::fs::write(folder.path().join("test.toml"), overlay).expect("it can be written");
        let address = free_address();
        Self { folder, address }
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(todos());
        command
            .args(verb)
            .args(["api.toml", "--with", "test.toml"])
            .env("PORT", self.address.port().to_string())
            .current_dir(self.folder.path());
        command
    }

    fn start(&self) -> Process {
        let process = Process::start(
            self.command(&["run"]),
            self.folder.path(),
            "it was just built",
        );
        until("the API answers", PATIENCE, || {
            match self.send("GET", "/todos", None) {
                Ok(answer) if answer.code == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        process
    }

    fn send(&self, method: &str, path: &str, body: Option<&Value>) -> std::io::Result<Response> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let content = match body.is_empty() {
            true => String::new(),
            false => format!(
                "Content-Type: application/json\r\nContent-Length: {}\r\n",
                body.len()
            ),
        };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{content}\r\n{body}",
            self.address
        );
        http::exchange(self.address, request.as_bytes())
    }

    /// Returns status and body of an answer; the body is null if there is none.
    fn ask(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let answer = self.send(method, path, body.as_ref());
        let answer = answer.expect("the API answers");
        match answer.body.is_empty() {
            true => (answer.code, Value::Null),
            false => (answer.code, answer.json()),
        }
    }
}

#[test]
fn a_client_creates_reads_lists_changes_and_deletes_todos_also_after_a_kill() {
    let api = Api::new();
    let process = api.start();
    for (id, title) in [(1, "tea"), (2, "cup")] {
        let body = json!({ "title": title });
        let answer = api.send("POST", "/todos", Some(&body)).expect("an answer");
        assert_eq!(answer.code, 201, "{}", answer.body);
        let location = format!("/todos/{id}");
        assert_eq!(answer.header("location"), Some(&*location));
        let todo = json!({ "id": id, "title": title, "done": false });
        assert_eq!(answer.json(), todo);
        assert_eq!(api.ask("GET", &location, None), (200, todo));
    }
    let done = json!({ "title": "tea", "done": true });
    let tea = json!({ "id": 1, "title": "tea", "done": true });
    assert_eq!(api.ask("PUT", "/todos/1", Some(done)), (200, tea.clone()));
    // The drop kills it.
    drop(process);
    let _process = api.start();
    let cup = json!({ "id": 2, "title": "cup", "done": false });
    let list = json!({ "todos": [tea, cup], "after": null });
    assert_eq!(api.ask("GET", "/todos", None), (200, list));
    let rest = json!({ "todos": [cup], "after": null });
    assert_eq!(api.ask("GET", "/todos?after=1", None), (200, rest));
    assert_eq!(api.ask("DELETE", "/todos/1", None), (204, Value::Null));
    let missing = json!({ "error": "no such todo" });
    for (method, body) in [
        ("GET", None),
        ("DELETE", None),
        ("PUT", Some(json!({ "title": "late" }))),
    ] {
        assert_eq!(api.ask(method, "/todos/1", body), (404, missing.clone()));
    }
    assert_eq!(api.ask("GET", "/todos/tea", None), (404, missing));
    let untitled = json!({ "error": "the title is missing" });
    assert_eq!(api.ask("POST", "/todos", Some(json!({}))), (422, untitled));
    assert_eq!(api.ask("GET", "/elsewhere", None).0, 404);
    assert_eq!(api.ask("PATCH", "/todos/2", Some(json!({}))).0, 405);
}

#[test]
fn the_routes_are_exported_as_openapi_with_the_schemas_of_the_service() {
    let api = Api::new();
    let output = api.command(&["export", "openapi"]).output();
    let output = output.expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let exported: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let version = exported["openapi"].as_str().expect("a version");
    assert!(version.starts_with("3.1"), "{version}");
    let create = &exported["paths"]["/todos"]["post"];
    assert_eq!(create["summary"], "Creates a todo");
    // The schemas of the service's messages.
    assert!(exported.to_string().contains(r#""done":{"#), "{exported}");
    for method in ["get", "put", "delete"] {
        let parameters = &exported["paths"]["/todos/{id}"][method]["parameters"];
        assert_eq!(parameters[0]["name"], "id", "{method}: {parameters}");
    }
}
