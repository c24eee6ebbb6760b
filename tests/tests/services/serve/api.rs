//! Routes with answers.

use serde_json::json;

use super::App;

const API: &str = r#"
[services.front]
use = "http-in"
out = { orders = "orders", lookups = "lookups", pages = "pages", hooks = "hooks" }
[services.front.config]
listen = "ADDRESS"
[services.front.config.routes]
"GET /hooks" = "hooks"
[services.front.config.routes."POST /orders"]
out = "orders"
reply = true
status = "has(msg.error) ? 422 : 201"
headers.Location = "has(msg.id) ? '/orders/' + msg.id : null"
[services.front.config.routes."GET /orders/{id}"]
out = "lookups"
reply = true
query = ["fields"]
status = "msg.found ? 200 : 404"
body = "msg.found ? msg.order : {'error': 'there is no order ' + meta.headers['http-param-id']}"
[services.front.config.routes."GET /pages/{name}"]
out = "pages"
reply = true
headers.Content-Type = "'text/html; charset=utf-8'"
body = "'<h1>' + msg.name + '</h1>'"

[services.place]
use = "map"
in = "orders"
out = "placed"
config.value = "has(msg.sku) ? {'id': 'o-' + msg.sku} : {'error': 'sku is missing'}"

[services.find]
use = "map"
in = "lookups"
out = "found"
[services.find.config]
to.found = "msg.id != 'none'"
to.order = "{'id': meta.headers['http-param-id'], 'msg': msg, 'fields': 'http-query-fields' in meta.headers ? meta.headers['http-query-fields'] : ''}"

[services.show]
use = "map"
in = ["pages", "hooks"]
out = "shown"
config.value = "msg"

[services.end]
use = "log"
in = ["placed", "found", "shown"]
"#;

#[test]
fn an_api_answers_with_status_headers_and_body_from_the_reply() {
    let app = App::start(API);
    let placed = app.post("/orders", r#"{"sku":"a b"}"#);
    assert_eq!(
        (placed.code, placed.header("location")),
        (201, Some("/orders/o-a b"))
    );
    assert_eq!(placed.json(), json!({"id": "o-a b"}));
    let refused = app.post("/orders", "{}");
    assert_eq!((refused.code, refused.header("location")), (422, None));

    let found = app.get("/orders/7%2F8?fields=id,sku&fields=x&id=9");
    let msg = json!({"id": "7/8", "fields": ["id,sku", "x"]});
    let order = json!({"id": "7/8", "msg": msg, "fields": "id,sku"});
    assert_eq!((found.code, found.json()), (200, order));
    let missing = app.get("/orders/none");
    assert_eq!(missing.code, 404);
    assert_eq!(missing.json(), json!({"error": "there is no order none"}));

    let page = app.send("GET", "/pages/home", "Accept: text/html\r\n", "");
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    assert_eq!((page.code, &*page.body), (200, "<h1>home</h1>"));
}

#[test]
fn methods_and_types_that_a_route_lacks_are_refused_with_problem_details() {
    let app = App::start(API);
    let options = app.send("OPTIONS", "/orders/7", "", "");
    assert_eq!(
        (options.code, options.header("allow")),
        (204, Some("GET, HEAD, OPTIONS"))
    );
    assert_eq!(app.send("OPTIONS", "/none", "", "").code, 404);

    let head = app.send("HEAD", "/orders/7", "", "");
    let full = app.get("/orders/7");
    assert_eq!((head.code, &*head.body), (200, ""));
    assert_eq!(head.header("content-length"), full.header("content-length"));
    // A HEAD of a route that emits would emit: it is refused.
    let emits = app.send("HEAD", "/hooks", "", "");
    assert_eq!(
        (emits.code, emits.header("allow")),
        (405, Some("GET, OPTIONS"))
    );
    assert_eq!(app.get("/hooks").code, 202);

    let xml = app.send("GET", "/orders/7", "Accept: application/xml\r\n", "");
    assert_eq!(xml.header("content-type"), Some("application/problem+json"));
    let problem = json!({
        "type": "about:blank",
        "title": "Not Acceptable",
        "status": 406,
        "detail": "the answer is application/json, which Accept excludes",
    });
    assert_eq!((xml.code, xml.json()), (406, problem));
    assert_eq!(app.get("/orders/%ff").code, 400);
    assert_eq!(app.get("/orders/a%0Ab").code, 400);
}
