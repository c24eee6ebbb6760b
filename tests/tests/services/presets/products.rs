//! Requests and answers of the products, in the shape that their documentation has.

/// A product's request, and its answer.
pub(super) struct Product {
    /// The heading of its preset.
    pub(super) name: &'static str,
    pub(super) method: &'static str,
    /// With the query.
    pub(super) path: &'static str,
    /// Headers that the request must have.
    pub(super) headers: &'static [(&'static str, &'static str)],
    /// JSON, or a form.
    pub(super) body: &'static str,
    pub(super) is_form: bool,
    pub(super) status: u16,
    pub(super) answer_type: &'static str,
    pub(super) answer: &'static str,
    /// Topic of the preset's output, if the answer is JSON.
    pub(super) topic: Option<&'static str>,
}

/// Fields that most products share.
const USUAL: Product = Product {
    name: "",
    method: "POST",
    path: "",
    headers: &[("content-type", "application/json")],
    body: "",
    is_form: false,
    status: 200,
    answer_type: "application/json",
    answer: "",
    topic: None,
};

/// The products of the chapter.
pub(super) const PRODUCTS: &[Product] = &[
    Product {
        name: "Slack",
        path: "/services/T000/B000/XXXX",
        body: r#"{"text": "*Disk full*\nDisk /dev/sda1 is full"}"#,
        answer_type: "text/html",
        answer: "ok",
        ..USUAL
    },
    Product {
        name: "Discord",
        path: "/api/webhooks/1234/XXXX?wait=true",
        body: r#"{"content": "**Disk full**\nDisk /dev/sda1 is full",
            "allowed_mentions": {"parse": []}}"#,
        answer: r#"{"id": "1300000000000000001", "type": 0, "channel_id": "1200", "webhook_id": "1234",
            "content": "**Disk full**\nDisk /dev/sda1 is full", "attachments": [], "pinned": false}"#,
        topic: Some("discord.posts"),
        ..USUAL
    },
    Product {
        name: "Microsoft Teams",
        path: "/workflows/XXXX",
        body: r#"{"type": "message", "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {"type": "AdaptiveCard", "version": "1.4", "body": [
                {"type": "TextBlock", "text": "Disk full", "weight": "Bolder"},
                {"type": "TextBlock", "text": "Disk /dev/sda1 is full", "wrap": true}]}}]}"#,
        status: 202,
        answer_type: "text/plain",
        ..USUAL
    },
    Product {
        name: "GitHub",
        path: "/repos/OWNER/REPO/issues",
        headers: &[
            ("accept", "application/vnd.github+json"),
            ("x-github-api-version", "2022-11-28"),
            ("authorization", "Bearer github_pat_XXXX"),
        ],
        body: r#"{"title": "Disk full", "body": "Disk /dev/sda1 is full"}"#,
        status: 201,
        answer: r#"{"id": 1, "number": 1347, "state": "open", "title": "Disk full",
            "html_url": "https://github.com/OWNER/REPO/issues/1347"}"#,
        topic: Some("github.issues"),
        ..USUAL
    },
    Product {
        name: "GitLab",
        path: "/api/v4/projects/GROUP%2FPROJECT/issues",
        headers: &[("private-token", "glpat-XXXX")],
        body: r#"{"title": "Disk full", "description": "Disk /dev/sda1 is full"}"#,
        status: 201,
        answer: r#"{"id": 84, "iid": 14, "project_id": 4, "state": "opened", "title": "Disk full",
            "web_url": "https://gitlab.com/GROUP/PROJECT/-/issues/14"}"#,
        topic: Some("gitlab.issues"),
        ..USUAL
    },
    Product {
        name: "Jira",
        path: "/rest/api/3/issue",
        headers: &[("authorization", "Basic YWRhQGV4YW1wbGUuY29tOlhYWFg=")],
        body: r#"{"fields": {
            "project": {"key": "OPS"}, "issuetype": {"name": "Task"}, "summary": "Disk full",
            "description": {"type": "doc", "version": 1, "content": [{"type": "paragraph",
                "content": [{"type": "text", "text": "Disk /dev/sda1 is full"}]}]}}}"#,
        status: 201,
        answer: r#"{"id": "10000", "key": "OPS-24",
            "self": "https://NAME.atlassian.net/rest/api/3/issue/10000"}"#,
        topic: Some("jira.issues"),
        ..USUAL
    },
    Product {
        name: "Stripe",
        path: "/v1/customers",
        headers: &[
            ("authorization", "Bearer sk_test_XXXX"),
            ("content-type", "application/x-www-form-urlencoded"),
        ],
        body: "description=Disk+full&email=ada%40example.com",
        is_form: true,
        answer: r#"{"id": "cus_NffrFeUfNV2Hib", "object": "customer", "balance": 0,
            "description": "Disk full", "email": "ada@example.com", "livemode": false}"#,
        topic: Some("stripe.customers"),
        ..USUAL
    },
    Product {
        name: "HubSpot",
        path: "/crm/v3/objects/contacts/batch/upsert",
        headers: &[("authorization", "Bearer pat-XXXX")],
        body: r#"{"inputs": [{"idProperty": "email", "id": "ada@example.com",
            "properties": {"email": "ada@example.com", "jobtitle": "Disk full"}}]}"#,
        answer: r#"{"status": "COMPLETE", "results": [{"id": "512", "new": true, "archived": false,
            "properties": {"email": "ada@example.com"}}]}"#,
        topic: Some("hubspot.contacts"),
        ..USUAL
    },
    Product {
        name: "Notion",
        path: "/v1/pages",
        headers: &[
            ("authorization", "Bearer ntn_XXXX"),
            ("notion-version", "2025-09-03"),
        ],
        body: r#"{"parent": {"data_source_id": "DATA-SOURCE"}, "properties": {
            "Name": {"title": [{"text": {"content": "Disk full"}}]},
            "Text": {"rich_text": [{"text": {"content": "Disk /dev/sda1 is full"}}]}}}"#,
        answer: r#"{"object": "page", "id": "59833787-2cf9-4fdf-8782-e53db20768a5",
            "archived": false, "url": "https://www.notion.so/Disk-full-59833787"}"#,
        topic: Some("notion.pages"),
        ..USUAL
    },
    Product {
        name: "Airtable",
        method: "PATCH",
        path: "/v0/BASE/TABLE",
        headers: &[("authorization", "Bearer patXXXX")],
        body: r#"{"performUpsert": {"fieldsToMergeOn": ["Id"]}, "records": [{"fields":
            {"Id": "n-7", "Title": "Disk full", "Text": "Disk /dev/sda1 is full"}}]}"#,
        answer: r#"{"records": [{"id": "rec1", "createdTime": "2022-10-19T16:52:15.000Z", "fields":
            {"Id": "n-7", "Title": "Disk full"}}], "updatedRecords": [], "createdRecords": ["rec1"]}"#,
        topic: Some("airtable.records"),
        ..USUAL
    },
    Product {
        name: "Google Sheets",
        path: "/v4/spreadsheets/SHEET/values/Sheet1!A1:append?valueInputOption=RAW",
        headers: &[("authorization", "Bearer ya29")],
        body: r#"{"values": [["n-7", "Disk full", "Disk /dev/sda1 is full"]]}"#,
        answer: r#"{"spreadsheetId": "SHEET", "tableRange": "Sheet1!A1:C3", "updates": {
            "spreadsheetId": "SHEET", "updatedRange": "Sheet1!A4:C4", "updatedRows": 1,
            "updatedColumns": 3, "updatedCells": 3}}"#,
        topic: Some("sheets.rows"),
        ..USUAL
    },
];
