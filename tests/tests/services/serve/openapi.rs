//! `export openapi`: a valid document of the routes.

use std::process::Command;

use brickwork_tests::binary::{brickwork, shop, workspace};
use serde_json::{Value, json};

const MANIFEST: &str = r#"
[app]
name = "api"
transport = "memory:"
[services.front]
use = "http-in"
out = { orders = "orders", lookups = "lookups", hooks = "hooks" }
[services.front.config]
id_header = "X-Id"
[services.front.config.routes]
"/hooks/*" = "hooks"
[services.front.config.routes."POST /orders"]
out = "orders"
reply = true
status = "201"
summary = "Places an order"
[services.front.config.routes."GET /orders/{id}"]
out = "lookups"
reply = true
query = ["fields"]
status = "msg.found ? 200 : 404"
[services.signed]
use = "http-in"
out = "hooks"
config = { listen = "127.0.0.1:8081", path = "/signed", secret = "hidden" }
[services.work]
use = "map"
in = ["orders", "lookups", "hooks"]
out = "worked"
config.value = "msg"
[services.end]
use = "log"
in = "worked"
"#;

/// An API before a service with typed inputs.
const TYPED: &str = r#"
[app]
name = "shop"
transport = "memory:"
[services.front]
use = "http-in"
out = { reserve = "stock.reserve", release = "stock.release", both = "stock.reserve" }
[services.front.config.routes]
"/reservations" = "reserve"
"DELETE /reservations/{id}" = "release"
"/both" = "both"
[services.stock]
store = true
in = { reserve = "stock.reserve", release = "stock.release" }
out = "stock.answers"
config.shelves = { tea = 1 }
[services.end]
use = "log"
in = ["stock.answers", "stock.reserve"]
"#;

fn export(folder: &std::path::Path, more: &[&str]) -> (Option<i32>, String, String) {
    export_by(brickwork(), folder, more)
}

fn export_by(
    program: std::path::PathBuf,
    folder: &std::path::Path,
    more: &[&str],
) -> (Option<i32>, String, String) {
    let mut command = Command::new(program);
    command.args(["export", "openapi", "app.toml"]).args(more);
    let output = command.current_dir(folder).output().expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Checks a document with the public validator that `tests/run` installs.
///
/// # Panics
/// If the validator is missing or finds an error.
fn validate(document: &str) {
    let target = std::env::var_os("CARGO_TARGET_DIR");
    let target = target.map_or_else(|| workspace().join("target"), Into::into);
    let python = target.join("openapi/venv/bin/python");
    let folder = tempfile::tempdir().expect("a folder can be made");
    let file = folder.path().join("openapi.json");
    std::fs::write(&file, document).expect("it can be written");
    let mut command = Command::new(&python);
    command
        .args(["-m", "openapi_spec_validator", "--schema", "3.1"])
        .arg(&file);
    let output = command.output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{}: {error}: run tests/run, which installs it",
            python.display()
        )
    });
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}\n{document}");
}

#[test]
fn the_openapi_document_of_an_app_is_valid_and_has_every_route() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("app.toml"), MANIFEST).expect("it can be written");
    let (code, text, error) = export(folder.path(), &[]);
    assert_eq!(code, Some(0), "{error}");
    validate(&text);
    assert!(!text.contains("hidden"), "{text}");
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    let paths = document["paths"].as_object().expect("an object");
    let names: Vec<&str> = paths.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["/hooks/{below}", "/orders", "/orders/{id}", "/signed"]
    );
    let place = &paths["/orders"]["post"];
    assert_eq!(place["summary"], "Places an order");
    assert!(place["responses"]["201"].is_object(), "{place}");
    let get = &paths["/orders/{id}"]["get"];
    let names = |parameters: &Value| -> Vec<String> {
        let parameters = parameters.as_array().expect("a list").iter();
        parameters
            .map(|it| format!("{} {}", it["in"].as_str().unwrap_or(""), it["name"]))
            .collect()
    };
    let expected = ["path \"id\"", "query \"fields\"", "header \"X-Id\""];
    assert_eq!(names(&get["parameters"]), expected);
    assert!(get["responses"]["default"].is_object(), "{get}");
    let signed = &paths["/signed"]["post"];
    assert_eq!(signed["security"], json!([{ "signed": [] }]));
    assert_eq!(signed["servers"][0]["url"], "http://127.0.0.1:8081");
}

#[test]
fn one_service_can_be_chosen_and_one_without_routes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("app.toml"), MANIFEST).expect("it can be written");
    let more = [
        "--service",
        "signed",
        "--server",
        "https://api.example.com",
        "--api-version",
        "2.1",
    ];
    let (code, text, error) = export(folder.path(), &more);
    assert_eq!(code, Some(0), "{error}");
    validate(&text);
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    assert_eq!(
        document["info"],
        json!({ "title": "api", "version": "2.1" })
    );
    assert_eq!(
        document["servers"],
        json!([{ "url": "https://api.example.com" }])
    );
    assert_eq!(document["paths"].as_object().expect("an object").len(), 1);
    let (code, _, error) = export(folder.path(), &["--service", "work"]);
    assert_eq!(code, Some(2));
    assert!(
        error.contains("there is no service \"work\" with routes"),
        "{error}"
    );
}

#[test]
fn schemas_of_typed_inputs_are_in_the_document() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    std::fs::write(folder.path().join("app.toml"), TYPED).expect("it can be written");
    let (code, text, error) = export_by(shop(), folder.path(), &[]);
    assert_eq!(code, Some(0), "{error}");
    validate(&text);
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    let schemas = &document["components"]["schemas"];
    let post = &document["paths"]["/reservations"]["post"];
    let schema = &post["requestBody"]["content"]["application/json"]["schema"];
    let name = schema["$ref"].as_str().expect("a reference");
    let name = name
        .strip_prefix("#/components/schemas/")
        .expect("a schema");
    assert!(schemas[name].is_object(), "{schemas}");
    assert_eq!(schemas["Order"]["properties"]["cents"]["type"], "integer");
    // Without a body the payload is made of the parameters.
    let delete = &document["paths"]["/reservations/{id}"]["delete"];
    let parameters = delete["parameters"].as_array().expect("a list").iter();
    let names: Vec<String> = parameters
        .map(|it| {
            format!(
                "{} {}",
                it["in"].as_str().unwrap_or(""),
                it["name"].as_str().unwrap_or("")
            )
        })
        .collect();
    let expected = [
        "path id",
        "query cents",
        "query customer",
        "query item",
        "query quantity",
    ];
    assert_eq!(names, expected);
}
