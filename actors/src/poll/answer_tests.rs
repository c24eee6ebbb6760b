//! Records, ids and next pages of answers.

use serde_json::json;

use super::*;

fn page(body: &str, links: &[&str]) -> Page {
    let mut headers = HeaderMap::new();
    for link in links {
        headers.append(LINK, link.parse().unwrap());
    }
    headers.insert("x-next", "17".parse().unwrap());
    Page::new(Answer {
        status: 200,
        headers,
        body: Bytes::copy_from_slice(body.as_bytes()),
    })
}

fn config(value: Value) -> PollConfig {
    serde_json::from_value(value).unwrap()
}

fn next(pages: Value, page: &Page) -> Result<Next, String> {
    let config = config(json!({ "pages": pages }));
    let url = Url::parse("https://api.example.com/orders?page=1").unwrap();
    page.next(&config.pages, &url, 1)
}

#[test]
fn records_are_found_with_exact_numbers_ids_and_cursors() {
    let config = config(json!({
        "records": "msg.items", "id": "msg.n", "cursor": { "field": "msg.at" },
    }));
    let page = page(
        r#"{"items":[{"n":12345678901234567890123,"at":5},{"at":6,"n":"b"}]}"#,
        &[],
    );
    let records = page.records(&config).unwrap();
    assert_eq!(
        &records[0].json[..],
        br#"{"at":5,"n":12345678901234567890123}"#
    );
    assert_eq!(records[0].id.as_deref(), Some("12345678901234567890123"));
    assert_eq!(
        (records[1].id.as_deref(), &records[1].cursor),
        (Some("b"), &Some(json!(6)))
    );
    let (id, subject) = records[1].names("orders", None);
    assert_eq!(
        (id, subject.as_deref()),
        (format!("orders/b@{}", records[1].hash), Some("b"))
    );
    assert_ne!(records[0].hash, records[1].hash);
}

#[test]
fn bodies_without_a_list_are_one_record_or_none_or_an_error() {
    let default = PollConfig::default();
    assert_eq!(page("[1,2]", &[]).records(&default).unwrap().len(), 2);
    assert_eq!(page(r#"{"a":1}"#, &[]).records(&default).unwrap().len(), 1);
    assert_eq!(page(" ", &[]).records(&default).unwrap().len(), 0);
    for (body, records) in [
        ("<html>", "msg"),
        ("5", "msg"),
        (r#"{"a":{}}"#, "msg.a"),
        ("{}", "msg.a"),
    ] {
        let config = config(json!({ "records": records }));
        page(body, &[]).records(&config).unwrap_err();
    }
}

#[test]
fn the_next_page_is_found_in_links_bodies_and_headers() {
    let url = |text: &str| Next::Url(Url::parse(text).unwrap());
    let linked = page(
        "[]",
        &[
            r#"</orders?page=1>; rel="prev", </orders?a=1,2&page=3>; title="x"; rel="last next""#,
            r#"</other>; rel=stylesheet"#,
        ],
    );
    let link = json!({ "link": true });
    assert_eq!(
        next(link.clone(), &linked),
        Ok(url("https://api.example.com/orders?a=1,2&page=3"))
    );
    assert_eq!(next(link, &page("[]", &["<x>; rel=prev"])), Ok(Next::End));
    let by_url = json!({ "next_url": "msg.paging.next" });
    let found = page(r#"{"paging":{"next":"?page=2"}}"#, &[]);
    assert_eq!(
        next(by_url.clone(), &found),
        Ok(url("https://api.example.com/orders?page=2"))
    );
    for body in [
        "{}",
        r#"{"paging":{"next":null}}"#,
        r#"{"paging":{"next":""}}"#,
    ] {
        assert_eq!(
            next(by_url.clone(), &page(body, &[])),
            Ok(Next::End),
            "{body}"
        );
    }
    let token = json!({ "token": "meta.headers['x-next']" });
    assert_eq!(next(token, &page("[]", &[])), Ok(Next::Token(json!("17"))));
    assert_eq!(next(json!({}), &page("[]", &[])), Ok(Next::End));
}

#[test]
fn a_next_page_on_another_server_is_refused() {
    for target in [
        "https://evil.example/x",
        "http://api.example.com/orders",
        "https://api.example.com:8443/",
    ] {
        let body = json!({ "next": target }).to_string();
        let error = next(json!({ "next_url": "msg.next" }), &page(&body, &[])).unwrap_err();
        assert!(error.contains("another server"), "{target}: {error}");
    }
}
