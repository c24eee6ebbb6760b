//! OAuth 2 tokens: fetched when they are needed, renewed early, one request at a time.
//!
//! # Invariants
//! - At most one request to the token endpoint is in flight in a client.
//! - A token is renewed at about 80 % of its lifetime, by one of the requests that need it; the
//!   others go on with the old one until it expires.
//! - A token that a host has refused is renewed only if it is still the current one: a hundred
//!   requests with one refused token lead to one renewal.
//! - A refresh token that the endpoint has replaced is written to its file before the new access
//!   token is used.
//! - A refused renewal is not tried again at once.

use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Method, Uri};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use super::credentials::{Credential, OAuth2Settings, basic, bearer};
use super::exchange::{Outgoing, Pool};
use super::request::{Answer, CallError};

/// Lifetime of a token whose endpoint says nothing about it.
const LIFETIME_DEFAULT: Duration = Duration::from_secs(300);

/// Pause after a refused renewal.
const PAUSE: Duration = Duration::from_secs(2);

/// The tokens of a client.
pub(crate) struct TokenSource {
    settings: OAuth2Settings,
    uri: Uri,
    pool: Pool,
    timeout: Duration,
    state: Mutex<State>,
    /// The permission to ask the endpoint.
    turn: Semaphore,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    refresh_token: Option<String>,
    /// The last renewal failed: its error, and the end of the pause.
    failed: Option<(Instant, CallError)>,
}

#[derive(Clone)]
struct Token {
    credential: Credential,
    renew_at: Instant,
    expires_at: Instant,
}

/// The answer of a token endpoint.
#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    #[serde(default)]
    expires_in: Option<Seconds>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// Seconds as a number or, as some endpoints send them, as a text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seconds {
    Number(f64),
    Text(String),
}

impl TokenSource {
    /// Creates a source whose requests go over `pool`.
    ///
    /// # Errors
    /// The URL is not valid, or the file of the refresh token can't be read.
    pub(crate) fn new(
        settings: &OAuth2Settings,
        pool: Pool,
        timeout: Duration,
    ) -> Result<Self, String> {
        let uri = Uri::try_from(&settings.token_url)
            .map_err(|error| format!("auth.oauth2.token_url: {error}"))?;
        let configured = settings.refresh_token.as_ref();
        let configured = configured.map(|secret| secret.reveal().trim().to_owned());
        let kept = match &settings.refresh_token_file {
            Some(file) => read_file(file)?,
            None => None,
        };
        Ok(Self {
            settings: settings.clone(),
            uri,
            pool,
            timeout,
            state: Mutex::new(State {
                refresh_token: kept.or(configured),
                ..State::default()
            }),
            turn: Semaphore::new(1),
        })
    }

    /// Returns the current token, after a renewal if it needs one.
    ///
    /// # Errors
    /// The endpoint gives no token.
    pub(crate) async fn credential(&self, deadline: Instant) -> Result<Credential, CallError> {
        let now = Instant::now();
        let usable = self.current().filter(|token| now < token.expires_at);
        let turn = match usable {
            Some(token) if now < token.renew_at => return Ok(token.credential),
            // The token is still good: only one request renews it, the others use it.
            Some(token) => match self.turn.try_acquire() {
                Ok(turn) => {
                    let renewed = self.renew(Some(&token), deadline).await;
                    drop(turn);
                    return Ok(renewed.unwrap_or(token.credential));
                }
                Err(_) => return Ok(token.credential),
            },
            None => tokio::time::timeout_at(deadline, self.turn.acquire()).await,
        };
        let _turn = turn
            .map_err(|_| CallError::NotSent("no token came in time".to_owned()))?
            .expect("the semaphore is never closed");
        self.renew(None, deadline).await
    }

    /// Marks a token as refused by a host, if it is still the current one.
    pub(crate) fn refused(&self, value: &HeaderValue) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .token
            .as_ref()
            .is_some_and(|token| token.credential.1 == *value)
        {
            state.token = None;
        }
    }

    fn current(&self) -> Option<Token> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.token.clone()
    }

    /// Asks the endpoint, unless another request has just done it. `old` is a token that is to be
    /// replaced although it is still good.
    async fn renew(&self, old: Option<&Token>, deadline: Instant) -> Result<Credential, CallError> {
        let now = Instant::now();
        let refresh_token = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let is_old =
                |token: &Token| old.is_some_and(|old| old.credential.1 == token.credential.1);
            if let Some(token) = &state.token
                && now < token.expires_at
                && !is_old(token)
            {
                return Ok(token.credential.clone());
            }
            if let Some((until, error)) = &state.failed
                && now < *until
            {
                return Err(error.clone());
            }
            state.refresh_token.clone()
        };
        let deadline = deadline.min(now + self.timeout);
        let fetched = self.fetch(refresh_token, deadline).await;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match fetched {
            Ok((token, refresh_token)) => {
                let credential = token.credential.clone();
                state.token = Some(token);
                state.refresh_token = refresh_token;
                state.failed = None;
                Ok(credential)
            }
            Err(error) => {
                state.failed = Some((Instant::now() + PAUSE, error.clone()));
                Err(error)
            }
        }
    }

    /// Fetches a token. If the refresh token is refused, another process may have replaced it: the
    /// one in the file is tried once.
    async fn fetch(
        &self,
        refresh_token: Option<String>,
        deadline: Instant,
    ) -> Result<(Token, Option<String>), CallError> {
        let answer = self.ask(refresh_token.as_deref(), deadline).await?;
        if answer.status == 400
            && let Some(file) = &self.settings.refresh_token_file
            && let Ok(Some(kept)) = read_file(file)
            && Some(&kept) != refresh_token.as_ref()
        {
            let answer = self.ask(Some(&kept), deadline).await?;
            return self.accept(&answer, Some(kept));
        }
        self.accept(&answer, refresh_token)
    }

    async fn ask(
        &self,
        refresh_token: Option<&str>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let settings = &self.settings;
        let mut form = url::form_urlencoded::Serializer::new(String::new());
        match refresh_token {
            Some(token) => form
                .append_pair("grant_type", "refresh_token")
                .append_pair("refresh_token", token),
            None => form.append_pair("grant_type", "client_credentials"),
        };
        for (name, value) in [("scope", &settings.scope), ("audience", &settings.audience)] {
            if let Some(value) = value {
                form.append_pair(name, value);
            }
        }
        let mut headers = HeaderMap::new();
        let secret = settings.client_secret.reveal().trim();
        if settings.secret_in_body {
            form.append_pair("client_id", &settings.client_id);
            form.append_pair("client_secret", secret);
        } else {
            headers.insert(
                AUTHORIZATION,
                basic(&encoded(&settings.client_id), &encoded(secret)),
            );
        }
        let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
        headers.insert(CONTENT_TYPE, form_type);
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let outgoing = Outgoing {
            method: Method::POST,
            uri: self.uri.clone(),
            headers,
            body: Some(Bytes::from(form.finish())),
        };
        let answer = self.pool.exchange(outgoing, deadline).await;
        answer.map_err(|error| CallError::NotSent(format!("no token: {error}")))
    }

    /// Reads a token, and keeps a replaced refresh token.
    fn accept(
        &self,
        answer: &Answer,
        used: Option<String>,
    ) -> Result<(Token, Option<String>), CallError> {
        let failed = |text: String| CallError::NotSent(format!("no token: {text}"));
        let host = self.uri.host().unwrap_or_default();
        if answer.status != 200 {
            let code = error_code(&answer.body);
            return Err(failed(format!(
                "{host} answers with status {}{code}",
                answer.status
            )));
        }
        let read: TokenAnswer = serde_json::from_slice(&answer.body)
            .map_err(|_| failed(format!("{host} answers without an access_token")))?;
        let (name, value) = bearer(&read.access_token).map_err(failed)?;
        let lifetime = match read.expires_in {
            Some(Seconds::Number(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
            Some(Seconds::Text(text)) => text.parse().ok().map(Duration::from_secs),
            None => None,
        };
        let lifetime = lifetime
            .unwrap_or(LIFETIME_DEFAULT)
            .min(Duration::from_secs(86_400));
        let refresh_token = match read.refresh_token {
            Some(new) if used.is_some() && used.as_deref() != Some(new.as_str()) => {
                self.keep(&new).map_err(failed)?;
                Some(new)
            }
            _ => used,
        };
        let now = Instant::now();
        let token = Token {
            credential: (name, value),
            renew_at: now + lifetime.mul_f64(0.75 + 0.1 * fastrand::f64()),
            expires_at: now + lifetime,
        };
        Ok((token, refresh_token))
    }

    fn keep(&self, refresh_token: &str) -> Result<(), String> {
        let Some(file) = &self.settings.refresh_token_file else {
            tracing::warn!(
                host = self.uri.host(),
                "the token endpoint has replaced the refresh token: set oauth2.refresh_token_file, or the app can't start again"
            );
            return Ok(());
        };
        write_file(file, refresh_token).map_err(|error| {
            format!(
                "the refresh token can't be kept in {}: {error}",
                file.display()
            )
        })
    }
}

/// Returns the error code of an answer (RFC 6749, section 5.2), such as `invalid_grant`.
fn error_code(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct ErrorAnswer {
        error: String,
    }
    match serde_json::from_slice::<ErrorAnswer>(body) {
        Ok(answer) if answer.error.len() < 64 => format!(" ({})", answer.error.escape_default()),
        _ => String::new(),
    }
}

/// Encodes a client's id or secret for basic authentication (RFC 6749, section 2.3.1).
fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn read_file(file: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim().to_owned()).filter(|text| !text.is_empty())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!(
            "auth.oauth2.refresh_token_file: {}: {error}",
            file.display()
        )),
    }
}

/// Replaces the file in one step; only its owner can read it.
fn write_file(file: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;

    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = file.with_file_name(name);
    let mut options = std::fs::OpenOptions::new();
    let mut written = options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, file)
}
