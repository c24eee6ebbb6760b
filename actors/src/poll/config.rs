//! Config of `poll`: requests, records, cursor, pages.

use std::collections::BTreeMap;
use std::time::Duration;

use brickwork::config::{ByteSize, HumanDuration, Secret};
use brickwork::prelude::*;
use chrono::TimeDelta;
use http::Method;
use serde_json::Value;

use super::cursor::CursorForm;
use super::decision::{CursorSource, Rules};
use super::request::{self, Variables};
use crate::config_errors;
use crate::expression::Expression;
use crate::http_client::{AllowList, AuthSettings, ClientSettings, TlsSettings};
use crate::schedule::{CronText, Timing, Zone};

/// Minimum of `every`.
const EVERY_MIN: Duration = Duration::from_millis(100);
/// Maximum of `pages.max`.
const PAGES_MAX: u32 = 1_000_000;

/// Config of `poll`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PollConfig {
    /// Time between polls, at least 100ms: polls are at its multiples since 1970-01-01 UTC. The first
    /// poll is at once. After a stop, one poll makes up for all that were missed.
    pub every: Option<HumanDuration>,
    /// Cron expression instead of `every`, as in `schedule`.
    pub cron: Option<CronText>,
    /// Time zone of `cron` by its IANA name; the default is UTC.
    pub zone: Option<Zone>,
    /// Expression for the URL, such as `'https://api.example.com/orders'`. Expressions of requests
    /// read `msg`: `cursor` (lower bound: ask for records with this value or a greater one; null at
    /// first), `until` (upper bound, if the cursor is a time), `page` (from 1), `offset` (records
    /// of the pages before) and `token` (of the page before, or null).
    pub url: Option<Expression>,
    /// Expressions for parameters of the query, added to the URL. Those that are null are left
    /// out.
    pub query: BTreeMap<String, Expression>,
    /// Expressions for request headers.
    pub headers: BTreeMap<String, Expression>,
    /// Request headers with secret values, such as `Authorization`.
    pub secret_headers: BTreeMap<String, Secret>,
    /// GET, or POST with a `body`.
    pub method: Option<Verb>,
    /// Expression for the JSON body of a POST.
    pub body: Option<Expression>,
    /// Expression for the list of records, over `msg` (the answer's body) and
    /// `meta.headers` (its headers, in lower case). By default the body is the list, or the only
    /// record.
    pub records: Option<Expression>,
    /// Expression for the id of a record, over `msg` (the record). It becomes part of the message
    /// id, and the subject. The message id also has a hash of the record, so that a changed record
    /// is a new message and a repeated one is the same.
    pub id: Option<Expression>,
    /// Place of the cursor. Without one, each poll emits all records.
    pub cursor: CursorConfig,
    /// Way to the next page. By default an answer is the only page.
    pub pages: PagesConfig,
    /// Message type; by default `record`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Hosts that may be called, such as `api.example.com`. Private addresses only if they are
    /// named.
    pub allow: Vec<String>,
    /// Time for name resolution, connect, proxy and TLS handshake together.
    pub connect_timeout: HumanDuration,
    /// Time for a request with its whole answer.
    pub timeout: HumanDuration,
    /// Maximum size of an answer, before and after decompression.
    pub max_response: ByteSize,
    /// Maximum redirects of a request; 0 refuses them.
    pub max_redirects: u32,
    /// URL of an HTTP proxy, with user and password if it needs them.
    pub proxy: Option<Secret>,
    /// Certificates.
    pub tls: TlsSettings,
    /// Credentials, as those of `http-call`. Every host of `allow` gets them.
    pub auth: Option<AuthSettings>,
}

/// Place and form of the cursor: `field` or `answer`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CursorConfig {
    /// Expression over `msg` (a record) for a value that never decreases as records are added or
    /// changed, such as `msg.updated_at`. The cursor is the greatest value.
    pub field: Option<Expression>,
    /// Expression over `msg` (the body) and `meta.headers` for the cursor that the API itself
    /// returns: that of the last page counts.
    pub answer: Option<Expression>,
    /// The cursor of the first poll; by default null.
    pub start: Option<Value>,
    /// Meaning of the values of `field`: `plain` (default) are numbers or texts; `time` (RFC 3339),
    /// `seconds` and `milliseconds` (since 1970) are times. Times have an upper bound, the time at
    /// the start of the poll, and can have a lag.
    pub form: CursorForm,
    /// Time that a record may become visible late. Each poll asks again for records of this time
    /// before the cursor, and emits those that it has not emitted yet.
    pub lag: HumanDuration,
    /// The API returns records in ascending order of `field`. Then the position is saved after
    /// each page, so that a long first poll goes on after a stop. A record out of order is an error.
    pub ascending: bool,
}

/// Way to the next page: at most one of `link`, `next_url`, `token` and `numbered`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PagesConfig {
    /// The header Link with `rel="next"`.
    pub link: bool,
    /// Expression over `msg` (the body) and `meta.headers` for the URL of the next page, absolute
    /// or relative. The last page has none, an empty one or null.
    pub next_url: Option<Expression>,
    /// Expression for a token of the next page, which expressions of the request read as
    /// `msg.token`. The last page has none, an empty one or null.
    pub token: Option<Expression>,
    /// Expressions of the request use `msg.page` or `msg.offset`. The last page is empty.
    pub numbered: bool,
    /// Maximum pages of a poll. With `cursor.ascending` the next poll goes on there at once, else
    /// more pages are an error.
    pub max: u32,
}

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verb {
    /// Without a body.
    Get,
    /// With the body of `body`.
    Post,
}

impl Default for PagesConfig {
    fn default() -> Self {
        Self {
            link: false,
            next_url: None,
            token: None,
            numbered: false,
            max: 1_000,
        }
    }
}

impl Default for PollConfig {
    fn default() -> Self {
        let client = ClientSettings::default();
        Self {
            every: None,
            cron: None,
            zone: None,
            url: None,
            query: BTreeMap::new(),
            headers: BTreeMap::new(),
            secret_headers: BTreeMap::new(),
            method: None,
            body: None,
            records: None,
            id: None,
            cursor: CursorConfig::default(),
            pages: PagesConfig::default(),
            kind: None,
            allow: Vec::new(),
            connect_timeout: client.connect_timeout.into(),
            timeout: Duration::from_secs(30).into(),
            max_response: ByteSize(16 << 20),
            max_redirects: client.max_redirects,
            proxy: None,
            tls: client.tls,
            auth: None,
        }
    }
}

impl PollConfig {
    pub(super) fn check(&self) -> Result<(), Vec<ConfigError>> {
        let mut errors = Vec::new();
        let mut wrong = |at: &str, text: &str| errors.push(ConfigError::new(at, text));
        match (&self.cron, self.every) {
            (None, None) => wrong("", "it never polls: set every, such as \"1m\", or cron"),
            (Some(_), Some(_)) => wrong("", "cron and every exclude each other: leave one out"),
            (None, Some(every)) if every.0 < EVERY_MIN => wrong("every", "it is less than 100ms"),
            _ => {}
        }
        if self.zone.is_some() && self.cron.is_none() {
            wrong("zone", "only cron has a time zone");
        }
        self.check_cursor(&mut wrong);
        let pages = &self.pages;
        let ways = [
            pages.link,
            pages.next_url.is_some(),
            pages.token.is_some(),
            pages.numbered,
        ];
        if ways.into_iter().filter(|way| *way).count() > 1 {
            wrong(
                "pages",
                "link, next_url, token and numbered exclude each other: keep one",
            );
        }
        if !(1..=PAGES_MAX).contains(&pages.max) {
            wrong("pages.max", "it is between 1 and 1000000");
        }
        if self.body.is_some() && self.method != Some(Verb::Post) {
            wrong("body", "only a POST has a body: set method = \"POST\"");
        }
        match AllowList::parse(&self.allow) {
            Err((index, text)) => wrong("allow", &format!("entry {}: {text}", index + 1)),
            Ok(_) if self.allow.is_empty() => {
                wrong(
                    "allow",
                    "it names no host: name those of the URL, such as api.example.com",
                );
            }
            Ok(allow) => self.check_request(&allow, &mut wrong),
        }
        errors.extend(self.auth.iter().flat_map(AuthSettings::check));
        config_errors::result(errors)
    }

    fn check_cursor(&self, wrong: &mut impl FnMut(&str, &str)) {
        let cursor = &self.cursor;
        match (&cursor.field, &cursor.answer) {
            (Some(_), Some(_)) => wrong("cursor", "field and answer exclude each other: keep one"),
            (None, None) if cursor.start.is_some() => {
                wrong(
                    "cursor.start",
                    "there is no cursor: set cursor.field or cursor.answer",
                );
            }
            _ => {}
        }
        if cursor.field.is_none() && (cursor.ascending || cursor.form.is_time()) {
            wrong("cursor", "ascending and form belong to cursor.field");
        }
        if !cursor.lag.0.is_zero() && !cursor.form.is_time() {
            wrong("cursor.lag", "the cursor is no time: set cursor.form");
        }
        if let Some(start) = &cursor.start
            && cursor.field.is_some()
            && let Err(text) = cursor.form.read(start)
        {
            wrong("cursor.start", &text);
        }
    }

    /// Builds the first request.
    fn check_request(&self, allow: &AllowList, wrong: &mut impl FnMut(&str, &str)) {
        if self.url.is_none() {
            wrong(
                "url",
                "it is missing: set an expression, such as \"'https://api.example.com/orders'\"",
            );
            return;
        }
        let first = Variables {
            cursor: self.cursor.start.as_ref(),
            until: self.cursor.form.at(0).map(|until| until.json),
            ..Variables::default()
        };
        match request::build(self, &first, None) {
            Err((at, text)) => wrong(&at, &text),
            Ok(request) => {
                let url = url::Url::parse(&request.url).map_err(|error| error.to_string());
                if let Err(text) = url.and_then(|url| allow.check_url(&url)) {
                    wrong("url", &text);
                }
            }
        }
    }

    /// The times of a checked config.
    pub(super) fn timing(&self) -> Option<Timing> {
        match (&self.cron, self.every) {
            (Some(cron), _) => Some(Timing::Cron(cron.clone(), self.zone.unwrap_or_default())),
            (None, every) => Some(Timing::Every(every?.0)),
        }
    }

    pub(super) fn method(&self) -> Method {
        match self.method {
            Some(Verb::Post) => Method::POST,
            Some(Verb::Get) | None => Method::GET,
        }
    }

    pub(super) fn rules(&self) -> Rules {
        Rules {
            source: match (&self.cursor.field, &self.cursor.answer) {
                (Some(_), _) => CursorSource::Records,
                (None, Some(_)) => CursorSource::Answer,
                (None, None) => CursorSource::None,
            },
            form: self.cursor.form,
            lag: TimeDelta::from_std(self.cursor.lag.0).unwrap_or(TimeDelta::MAX),
            is_ascending: self.cursor.ascending,
        }
    }

    pub(super) fn client(&self) -> ClientSettings {
        ClientSettings {
            allow: self.allow.clone(),
            connect_timeout: self.connect_timeout.0,
            timeout: self.timeout.0,
            max_response: usize::try_from(self.max_response.0).unwrap_or(usize::MAX),
            max_redirects: self.max_redirects,
            proxy: self.proxy.clone(),
            tls: self.tls.clone(),
            auth: self.auth.clone(),
            // The source waits by itself: it has one request at a time.
            breaker: None,
            ..ClientSettings::default()
        }
    }
}
