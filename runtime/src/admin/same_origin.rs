//! Who may ask, while the endpoint is on loopback: only who knows that it is.
//!
//! A page from elsewhere can have its own name resolve to this machine (DNS rebinding)
//! and then read what is here, past the browser's rules. Its requests carry that name
//! as host, so other names than this machine's own are refused.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::HOST;
use axum::http::uri::Authority;

/// Whether a request names this machine as its host, or none: browsers name one.
pub(super) fn is_meant_for_loopback(request: &Request) -> bool {
    let in_uri = request.uri().authority().map(Authority::as_str);
    let mut in_headers = request.headers().get_all(HOST).iter();
    in_uri.is_none_or(is_loopback) && in_headers.all(|host| host.to_str().is_ok_and(is_loopback))
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    // It keeps the brackets of an IPv6 address.
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
    fn only_names_of_this_machine_are_its_own() {
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
