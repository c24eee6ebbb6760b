//! Addresses of brokers: `amqp://USER:PASSWORD@HOST:PORT/VHOST?heartbeat=10`.
//!
//! Owns what may stand in a URL and the defaults of what doesn't. User, password and
//! virtual host are percent-decoded; no virtual host, and an empty one, mean `/`.

use brickwork::without_password;
use lapin::uri::AMQPUri;

/// What may stand after the `?`.
const PARAMETERS: [&str; 5] = [
    "heartbeat",
    "connection_timeout",
    "frame_max",
    "channel_max",
    "auth_mechanism",
];

/// A dead peer is noticed after about twice as many seconds.
const HEARTBEAT_S: u16 = 10;
/// For the TCP connection; nothing waits for ever.
const CONNECT_TIMEOUT_MS: u64 = 10_000;

/// Reads a URL.
///
/// # Errors
/// What is wrong with it, without its password.
pub(super) fn parse(url: &str) -> Result<AMQPUri, String> {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split('=').next().unwrap_or_default();
        if !PARAMETERS.contains(&name) {
            let known = PARAMETERS.join(", ");
            return Err(format!("there is no parameter {name:?}; known are {known}"));
        }
    }
    let mut uri: AMQPUri = url
        .parse()
        .map_err(|error: String| error.replace(url, &without_password(url)))?;
    let authority = path.split_once("://").map_or("", |(_, rest)| rest);
    let (authority, vhost) = authority.split_once('/').unwrap_or((authority, ""));
    let host = authority.rsplit_once('@').map_or(authority, |(_, h)| h);
    if host.is_empty() {
        return Err("it names no host: amqp://USER:PASSWORD@HOST:PORT/VHOST".into());
    }
    if let Some((address, _)) = host.strip_prefix('[').and_then(|h| h.split_once(']')) {
        // The parser knows names and IPv4 only.
        uri.authority.host = address.to_owned();
    }
    if vhost.is_empty() {
        uri.vhost = "/".into();
    }
    uri.query.heartbeat.get_or_insert(HEARTBEAT_S);
    uri.query
        .connection_timeout
        .get_or_insert(CONNECT_TIMEOUT_MS);
    Ok(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_and_virtual_host_are_decoded() {
        let uri = parse("amqp://us%40er:p%2Fss%3A@broker:5673/my%2fhost").unwrap();
        assert_eq!(uri.authority.userinfo.username, "us@er");
        assert_eq!(uri.authority.userinfo.password, "p/ss:");
        assert_eq!((&*uri.authority.host, uri.authority.port), ("broker", 5673));
        assert_eq!(uri.vhost, "my/host");
    }

    #[test]
    fn what_is_left_out_has_safe_defaults() {
        for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
            let uri = parse(url).unwrap();
            assert_eq!(uri.vhost, "/");
            assert_eq!(uri.query.heartbeat, Some(10));
            assert_eq!(uri.query.connection_timeout, Some(10_000));
        }
        assert_eq!(parse("amqps://broker").unwrap().authority.port, 5671);
        let uri = parse("amqp://u:p@[::1]:5673").unwrap();
        assert_eq!((&*uri.authority.host, uri.authority.port), ("::1", 5673));
        let uri = parse("amqp://broker?heartbeat=60").unwrap();
        assert_eq!(uri.query.heartbeat, Some(60));
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        for url in [
            "amqp:hunter2",
            "amqp://",
            "amqp:///vhost",
            "amqp://u:hunter2@",
            "amqp://u:hunter2@broker:port",
            "amqp://u:hunter2@broker?heartbeat=often",
            "amqp://u:hunter2@broker?hartbeat=10",
            "http://u:hunter2@broker",
        ] {
            let why = parse(url).unwrap_err();
            assert!(url == "amqp:hunter2" || !why.contains("hunter2"), "{why}");
        }
    }
}
