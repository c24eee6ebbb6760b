//! The header Host: protects an endpoint on loopback against DNS rebinding.
//!
//! A web page can make its own host name resolve to this machine, and then read answers in spite
//! of the browser's same-origin policy. Its requests carry that host name, so an endpoint on
//! loopback refuses requests with other names than those of this machine.

use std::net::IpAddr;

use hyper::header::HOST;
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode, Version};

/// Why a request is refused for its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostProblem {
    /// HTTP/1.1 without a header Host (RFC 9112, section 3.2).
    Missing,
    /// Several headers Host: two programs could read different ones.
    Repeated,
    /// Another name than those that are accepted.
    Foreign,
}

impl HostProblem {
    /// The status of the answer.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Missing | Self::Repeated => StatusCode::BAD_REQUEST,
            Self::Foreign => StatusCode::FORBIDDEN,
        }
    }
}

/// Decides whether a host is accepted, by its name without the port.
pub type IsAccepted<'a> = &'a dyn Fn(&str) -> bool;

/// Checks that a request names its host once. With `accepted`, the host is a name of loopback,
/// or another name that is accepted.
///
/// # Errors
/// The host is missing, repeated or foreign.
pub fn check_host<B>(
    request: &Request<B>,
    accepted: Option<IsAccepted<'_>>,
) -> Result<(), HostProblem> {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let mut in_headers = request.headers().get_all(HOST).iter();
    let host = in_headers.next();
    if in_headers.next().is_some() {
        return Err(HostProblem::Repeated);
    }
    if host.is_none() && request.version() >= Version::HTTP_11 {
        return Err(HostProblem::Missing);
    }
    let Some(accepted) = accepted else {
        return Ok(());
    };
    let is_own =
        |host: &str| name_of(host).is_some_and(|name| is_loopback(&name) || accepted(&name));
    let header_is_own = host.is_none_or(|host| host.to_str().is_ok_and(is_own));
    match in_uri.is_none_or(is_own) && header_is_own {
        true => Ok(()),
        false => Err(HostProblem::Foreign),
    }
}

/// The name in a host, without the port and the brackets of an IPv6 address.
fn name_of(host: &str) -> Option<String> {
    let authority: Authority = host.parse().ok()?;
    Some(authority.host().trim_matches(['[', ']']).to_owned())
}

fn is_loopback(name: &str) -> bool {
    let is_address = |address: IpAddr| address.is_loopback();
    name.eq_ignore_ascii_case("localhost") || name.parse().is_ok_and(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: IsAccepted<'static> = &|_| false;

    fn check(hosts: &[&str], accepted: Option<IsAccepted<'_>>) -> Result<(), HostProblem> {
        let mut request = Request::builder().uri("/");
        for host in hosts {
            request = request.header(HOST, *host);
        }
        check_host(&request.body(()).unwrap(), accepted)
    }

    #[test]
    fn only_names_of_loopback_and_accepted_names_pass() {
        let accepted: IsAccepted<'_> = &|name| name.eq_ignore_ascii_case("hooks.example.com");
        for own in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]",
            "[::1]:9464",
            "hooks.example.com",
            "Hooks.Example.com:443",
        ] {
            assert_eq!(check(&[own], Some(accepted)), Ok(()), "{own}");
        }
        for foreign in [
            "",
            "evil.example",
            "evil.example:9464",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "192.168.0.1:9464",
            "[::2]:9464",
            "0.0.0.0:9464",
            "localhost:9464/x",
        ] {
            let checked = check(&[foreign], Some(accepted));
            assert_eq!(checked, Err(HostProblem::Foreign), "{foreign}");
            assert_eq!(check(&[foreign], None), Ok(()), "{foreign}");
        }
    }

    #[test]
    fn a_request_names_its_host_once() {
        assert_eq!(check(&[], None), Err(HostProblem::Missing));
        let twice = check(&["localhost"; 2], None);
        assert_eq!(twice, Err(HostProblem::Repeated));
        let old = Request::builder().version(Version::HTTP_10).body(());
        assert_eq!(check_host(&old.unwrap(), Some(NONE)), Ok(()));
    }

    #[test]
    fn the_host_of_an_absolute_uri_counts_too() {
        for (uri, expected) in [
            ("http://localhost:1/", Ok(())),
            ("http://evil.example/", Err(HostProblem::Foreign)),
        ] {
            let request = Request::builder().uri(uri).header(HOST, "localhost");
            let checked = check_host(&request.body(()).unwrap(), Some(NONE));
            assert_eq!(checked, expected, "{uri}");
        }
    }
}
