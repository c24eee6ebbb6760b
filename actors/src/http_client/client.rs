//! The client: checks a request, sends it with a credential, and follows redirects if they are
//! allowed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use brickwork::Failure;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use tokio::time::Instant;
use url::Url;

use super::address::AllowList;
use super::connector::Connector;
use super::credentials::{Credential, OAuth2Settings, SentSecrets};
use super::exchange::{Outgoing, Pool};
use super::headers;
use super::hosts::{HostSettings, Hosts};
use super::oauth::TokenSource;
use super::proxy::Proxy;
use super::request::{Answer, CallError, OutsideRequest};
use super::settings::ClientSettings;
use super::tls;
use super::verdict::{Verdict, host_result, verdict};

/// A client for outside services. Clones share connections, breakers, limits and tokens.
#[derive(Clone)]
pub(crate) struct HttpClient {
    pool: Pool,
    allow: Arc<AllowList>,
    settings: Arc<ClientSettings>,
    hosts: Arc<Hosts>,
    /// Credential that does not change.
    fixed: Option<Credential>,
    tokens: Option<Arc<TokenSource>>,
    sent: SentSecrets,
}

/// A request whose URL and headers were checked.
#[derive(Clone)]
struct Checked {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Option<Bytes>,
}

impl HttpClient {
    /// Creates a client.
    ///
    /// # Errors
    /// Wrong settings, or files that can't be read.
    pub(crate) fn new(settings: &ClientSettings) -> Result<Self, Failure> {
        let settings = Arc::new(settings.clone());
        let connector = Connector {
            allow: Arc::new(allow_list(&settings.allow)?),
            tls: tls::client_config(&settings.tls)?,
            proxy: proxy(&settings)?.map(Arc::new),
            connect_timeout: settings.connect_timeout,
        };
        let auth = settings.auth.clone().unwrap_or_default();
        let fixed = auth.fixed().map_err(Failure::retry)?;
        let tokens = auth.oauth2.as_ref();
        let tokens = tokens.map(|oauth2| tokens_of(oauth2, &connector, &settings));
        Ok(Self {
            allow: connector.allow.clone(),
            pool: Pool::new(connector, settings.clone()),
            hosts: Arc::new(Hosts::new(HostSettings {
                breaker: settings.breaker,
                max_in_flight: settings.max_in_flight,
                adaptive: settings.adaptive,
                // A token may be fetched, and the request sent again.
                probe_within: settings.timeout * 2 + Duration::from_secs(1),
            })),
            settings,
            fixed,
            tokens: tokens.transpose()?.map(Arc::new),
            sent: SentSecrets::default(),
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// No complete answer arrived. An answer with any status is `Ok`: see
    /// [`judge`](Self::judge).
    pub(crate) async fn call(&self, request: OutsideRequest) -> Result<Answer, CallError> {
        let url = self.checked_url(&request.url)?;
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            let text = format!("the method {} can't be used", request.method);
            return Err(CallError::Refused(text));
        }
        let checked = Checked {
            headers: headers::build(&request.headers).map_err(CallError::Refused)?,
            method: request.method,
            body: request.body,
            url,
        };
        let timeout = self.settings.timeout;
        let arrived = Instant::now();
        let within = request.within.unwrap_or(timeout * 2);
        let end = arrived + within;
        // The wait for a place must leave time for the request.
        let patience = within.checked_sub(timeout).unwrap_or(within / 2);
        let waits_until = arrived + patience.min(timeout / 2);
        // A token endpoint that fails is no failure of the host.
        let credential = self.credential(end.min(arrived + timeout)).await?;
        let host = host_key(&checked.url, &request.partition);
        let permit = self.hosts.enter(&host, request.message, waits_until);
        let permit = permit.await?;
        let started = Instant::now();
        let deadline = end.min(started + timeout);
        let result = self.authorised(checked, credential, deadline).await;
        let elapsed = started.elapsed();
        log_call(&host, &result, elapsed);
        permit.finish(host_result(&result, elapsed, SystemTime::now()));
        result
    }

    /// Returns the consequence of a call: [`verdict`](super::verdict), but a message whose host
    /// has an open breaker now spends no attempt. Credentials are removed from the reason.
    pub(crate) fn judge(
        &self,
        url: &str,
        partition: &str,
        result: &Result<Answer, CallError>,
        now: SystemTime,
    ) -> Verdict {
        match verdict(result, now) {
            Verdict::Succeeded => Verdict::Succeeded,
            Verdict::Rejected { reason } => Verdict::Rejected {
                reason: self.sent.clean(reason),
            },
            Verdict::Later {
                mut after,
                mut spends_attempt,
                reason,
            } => {
                let host = Url::parse(url).map(|url| host_key(&url, partition));
                if spends_attempt
                    && let Some(pause) = host.ok().and_then(|host| self.hosts.outage(&host))
                {
                    spends_attempt = false;
                    after = Some(after.unwrap_or_default().max(pause));
                }
                Verdict::Later {
                    after,
                    spends_attempt,
                    reason: self.sent.clean(reason),
                }
            }
        }
    }

    /// Returns the error that a request would have now, because its host has an open breaker or has
    /// asked to wait.
    pub(crate) fn held(&self, request: &OutsideRequest) -> Option<CallError> {
        let url = Url::parse(&request.url).ok()?;
        self.hosts.held(&host_key(&url, &request.partition))
    }

    /// Returns the shortest wait, if all hosts that are in use wait: their breakers are open, or
    /// they have asked for it. The caller then pauses its input.
    pub(crate) fn all_held(&self) -> Option<Duration> {
        self.hosts.all_held()
    }

    async fn credential(&self, deadline: Instant) -> Result<Option<Credential>, CallError> {
        let credential = match &self.tokens {
            Some(tokens) => Some(tokens.credential(deadline).await?),
            None => self.fixed.clone(),
        };
        if let Some((_, value)) = &credential {
            self.sent.add(value);
        }
        Ok(credential)
    }

    /// Sends a request with a credential. After a 401 with a token, renews the token and sends the
    /// request once more: a refused request was not carried out.
    async fn authorised(
        &self,
        request: Checked,
        credential: Option<Credential>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let answer = self.follow(request.clone(), credential.as_ref(), deadline);
        let answer = answer.await?;
        let (401, Some(tokens), Some((_, used))) = (answer.status, &self.tokens, &credential)
        else {
            return Ok(answer);
        };
        tokens.refused(used);
        let renewed = self.credential(deadline).await?;
        if renewed.as_ref().is_some_and(|(_, value)| value == used) {
            return Ok(answer);
        }
        self.follow(request, renewed.as_ref(), deadline).await
    }

    /// Sends a request, and follows its redirects up to `max_redirects`.
    async fn follow(
        &self,
        request: Checked,
        credential: Option<&Credential>,
        deadline: Instant,
    ) -> Result<Answer, CallError> {
        let Checked {
            mut method,
            mut url,
            mut headers,
            mut body,
        } = request;
        if let Some((name, value)) = credential {
            headers.insert(name, value.clone());
        }
        let mut redirects = 0;
        loop {
            let outgoing = Outgoing {
                method: method.clone(),
                uri: uri_of(&url)?,
                headers: headers.clone(),
                body: body.clone(),
            };
            let answer = self.pool.exchange(outgoing, deadline).await?;
            let Some(target) = redirect_target(&answer) else {
                return Ok(answer);
            };
            if redirects == self.settings.max_redirects {
                let host = url.host_str().unwrap_or_default();
                return Err(CallError::Refused(match redirects {
                    0 => format!(
                        "{host} answers with a redirect (status {}), and max_redirects is 0",
                        answer.status
                    ),
                    most => format!("{host} answers with more than {most} redirects"),
                }));
            }
            redirects += 1;
            let next = url.join(&target);
            let next = next.map_err(|_| CallError::Refused("a redirect to no URL".to_owned()))?;
            let checked = self.allow.check_url(&next);
            checked.map_err(|text| CallError::Refused(format!("a redirect: {text}")))?;
            if next.origin() != url.origin() {
                // Credentials are for one host.
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
                if let Some((name, _)) = credential {
                    headers.remove(name);
                }
            }
            if changes_method(answer.status, &method) {
                method = Method::GET;
                body = None;
                headers.remove(header::CONTENT_TYPE);
            }
            url = next;
        }
    }

    fn checked_url(&self, url: &str) -> Result<Url, CallError> {
        let url = Url::parse(url)
            .map_err(|error| CallError::Refused(format!("the URL is not valid: {error}")))?;
        self.allow.check_url(&url).map_err(CallError::Refused)?;
        Ok(url)
    }
}

/// Logs a call, with the names of OpenTelemetry's conventions for HTTP clients.
fn log_call(host: &str, result: &Result<Answer, CallError>, elapsed: Duration) {
    let address = host.split('|').next();
    let status = result.as_ref().ok().map(|answer| answer.status);
    let error = result.as_ref().err().map(tracing::field::display);
    tracing::debug!(
        server.address = address,
        http.response.status_code = status,
        duration_ms = elapsed.as_millis() as u64,
        error,
        "called outside host"
    );
}

/// Returns the target of a redirect.
fn redirect_target(answer: &Answer) -> Option<String> {
    if !matches!(answer.status, 301 | 302 | 303 | 307 | 308) {
        return None;
    }
    let location = answer.headers.get(header::LOCATION)?;
    Some(String::from_utf8_lossy(location.as_bytes()).into_owned())
}

/// Whether the request to the target of a redirect is a `GET`, as browsers do it.
fn changes_method(status: u16, method: &Method) -> bool {
    match status {
        303 => method != Method::HEAD,
        301 | 302 => method == Method::POST,
        _ => false,
    }
}

fn allow_list(entries: &[String]) -> Result<AllowList, Failure> {
    AllowList::parse(entries)
        .map_err(|(index, text)| Failure::retry(format!("allow[{index}]: {text}")))
}

fn proxy(settings: &ClientSettings) -> Result<Option<Proxy>, Failure> {
    let proxy = settings
        .proxy
        .as_ref()
        .map(|url| Proxy::parse(url.reveal()));
    let proxy = proxy.transpose();
    proxy.map_err(|text| Failure::retry(format!("proxy: {text}")))
}

/// Creates the source of tokens, whose connections may go to the endpoint of tokens.
fn tokens_of(
    oauth2: &OAuth2Settings,
    connector: &Connector,
    settings: &Arc<ClientSettings>,
) -> Result<TokenSource, Failure> {
    let url = Url::parse(&oauth2.token_url)?;
    let origin = url.origin().ascii_serialization();
    let allow: Vec<String> = settings.allow.iter().cloned().chain([origin]).collect();
    let connector = Connector {
        allow: Arc::new(allow_list(&allow)?),
        ..connector.clone()
    };
    let pool = Pool::new(connector, settings.clone());
    TokenSource::new(oauth2, pool, settings.timeout).map_err(Failure::retry)
}

/// Returns the name under which a host has its breaker and its limit.
fn host_key(url: &Url, partition: &str) -> String {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{host}:{port}|{partition}")
}

fn uri_of(url: &Url) -> Result<Uri, CallError> {
    let mut url = url.clone();
    url.set_fragment(None);
    Uri::try_from(url.as_str())
        .map_err(|error| CallError::Refused(format!("the URL is not valid: {error}")))
}

#[cfg(test)]
mod tests;
