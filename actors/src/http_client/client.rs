//! The client: checks a request, sends it, and follows redirects if they are allowed.

use std::sync::Arc;

use brickwork::Failure;
use bytes::Bytes;
use http::{HeaderMap, Method, Uri, header};
use tokio::time::Instant;
use url::Url;

use super::address::AllowList;
use super::connector::Connector;
use super::exchange::{Incoming, Outgoing, Pool};
use super::headers;
use super::proxy::Proxy;
use super::request::{Answer, CallError, OutsideRequest};
use super::settings::ClientSettings;
use super::tls;

/// A client for outside services. Clones share connections, breakers and limits.
#[derive(Clone)]
pub(crate) struct HttpClient {
    pool: Pool,
    allow: Arc<AllowList>,
    settings: Arc<ClientSettings>,
}

impl HttpClient {
    /// Creates a client.
    ///
    /// # Errors
    /// Wrong settings, or files that can't be read.
    pub(crate) fn new(settings: &ClientSettings) -> Result<Self, Failure> {
        let allow = AllowList::parse(&settings.allow)
            .map_err(|(index, text)| Failure::retry(format!("allow[{index}]: {text}")))?;
        let allow = Arc::new(allow);
        let proxy = settings
            .proxy
            .as_ref()
            .map(|url| Proxy::parse(url.reveal()));
        let proxy = proxy
            .transpose()
            .map_err(|text| Failure::retry(format!("proxy: {text}")))?;
        let settings = Arc::new(settings.clone());
        let connector = Connector {
            allow: allow.clone(),
            tls: tls::client_config(&settings.tls)?,
            proxy: proxy.map(Arc::new),
            connect_timeout: settings.connect_timeout,
        };
        Ok(Self {
            pool: Pool::new(connector, settings.clone()),
            allow,
            settings,
        })
    }

    /// Sends a request and reads the whole answer.
    ///
    /// # Errors
    /// There is no complete answer. An answer with any status is `Ok`: see
    /// [`verdict`](super::verdict).
    pub(crate) async fn call(&self, request: OutsideRequest) -> Result<Answer, CallError> {
        let url = self.checked_url(&request.url)?;
        if matches!(request.method, Method::CONNECT | Method::TRACE) {
            let text = format!("the method {} can't be used", request.method);
            return Err(CallError::Refused(text));
        }
        let headers = headers::build(&request.headers).map_err(CallError::Refused)?;
        let started = Instant::now();
        let answer = self
            .follow(request.method, url, headers, request.body, started)
            .await?;
        Ok(Answer {
            status: answer.status,
            headers: answer.headers,
            body: answer.body,
            elapsed: started.elapsed(),
        })
    }

    /// Sends a request, and follows its redirects up to `max_redirects`.
    async fn follow(
        &self,
        mut method: Method,
        mut url: Url,
        mut headers: HeaderMap,
        mut body: Option<Bytes>,
        started: Instant,
    ) -> Result<Incoming, CallError> {
        let deadline = started + self.settings.timeout;
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

/// Returns the target of a redirect.
fn redirect_target(answer: &Incoming) -> Option<String> {
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

fn uri_of(url: &Url) -> Result<Uri, CallError> {
    let mut url = url.clone();
    url.set_fragment(None);
    Uri::try_from(url.as_str())
        .map_err(|error| CallError::Refused(format!("the URL is not valid: {error}")))
}

#[cfg(test)]
mod tests;
