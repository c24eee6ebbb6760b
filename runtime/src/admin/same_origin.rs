//! Protects an endpoint on loopback against DNS rebinding.
//!
//! A web page can make its own host name resolve to this machine, and then read answers in spite
//! of the browser's same-origin policy. Its requests carry that host name, so requests with other
//! names than those of loopback are refused.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;

/// Whether the request has a loopback name as its host, or no host. Browsers always send one.
pub(super) fn is_meant_for_loopback(request: &Request) -> bool {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let mut in_headers = request.headers().get_all(HOST).iter();
    in_uri.is_none_or(is_loopback) && in_headers.all(|host| host.to_str().is_ok_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // `host` has the brackets of an IPv6 address.
    let name = authority.host().trim_matches(['[', ']']);
    name.eq_ignore_ascii_case("localhost")
        || name
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_are_accepted() {
        for own in [
            "localhost",
            "LOCALHOST:9464",
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]",
            "[::1]:9464",
        ] {
            assert!(is_loopback(own), "{own}");
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
            assert!(!is_loopback(foreign), "{foreign}");
        }
    }
}
