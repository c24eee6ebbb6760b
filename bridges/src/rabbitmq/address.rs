//! Broker addresses: `amqp://USER:PASSWORD@HOST:PORT,HOST:PORT/VHOST?heartbeat=10`.
//!
//! Owns the syntax of the URL, as in RabbitMQ's URI and URI query parameter specifications, and
//! the default values. Beyond those specifications a URL may name several hosts: the nodes of
//! one cluster. User, password, virtual host and parameter values are percent-decoded. Without
//! a virtual host, `/` is used.
//!
//! Errors never show a part of an unreadable URL, because that part could be the password.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lapin::uri::{
    AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo, SASLMechanism,
};

use parking_lot::Mutex;

use super::tls::Tls;

const FORM: &str = "write amqp://USER:PASSWORD@HOST:PORT/VHOST";
const ENCODED: &str = "in a user, password or virtual host write @ : / ? # , % as %40 %3A %2F %3F \
                       %23 %2C %25";

/// Parameters that may follow the `?`.
const PARAMETERS: [&str; 11] = [
    "heartbeat",
    "connection_timeout",
    "consumer_timeout",
    "frame_max",
    "channel_max",
    "auth_mechanism",
    "cacertfile",
    "certfile",
    "keyfile",
    "verify",
    "server_name_indication",
];
/// Parameters that need `amqps:`.
const TLS_PARAMETERS: [&str; 5] = [
    "cacertfile",
    "certfile",
    "keyfile",
    "verify",
    "server_name_indication",
];
/// Parameters that are file paths.
const PATH_PARAMETERS: [&str; 3] = ["cacertfile", "certfile", "keyfile"];

/// Heartbeat interval, in seconds. A dead peer is noticed after about two intervals.
const HEARTBEAT_S: u16 = 10;
/// Time limit to connect, including the TLS handshake.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// RabbitMQ's default for the time after which it closes a channel with an unacked delivery.
/// AMQP doesn't show the value of a broker.
const CONSUMER_TIMEOUT: Duration = Duration::from_secs(30 * 60);

/// The broker's hosts, the credentials and the connection settings.
///
/// Holds a password, and therefore doesn't implement `Debug`.
pub(super) struct Address {
    /// The settings that all hosts share.
    uri: AMQPUri,
    pub(super) hosts: Vec<Host>,
    pub(super) tls: Option<Tls>,
    pub(super) connect_timeout: Duration,
    /// The broker's `consumer_timeout`.
    pub(super) consumer_timeout: Duration,
    /// Index of the host of the last session.
    last: Mutex<Option<usize>>,
}

/// A host name and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) port: u16,
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.name.contains(':'), &self.name, self.port) {
            (true, name, port) => write!(f, "[{name}]:{port}"),
            (false, name, port) => write!(f, "{name}:{port}"),
        }
    }
}

impl Address {
    /// Returns the URI of one host for the client library.
    pub(super) fn uri(&self, host: &Host) -> AMQPUri {
        let mut uri = self.uri.clone();
        uri.authority.host.clone_from(&host.name);
        uri.authority.port = host.port;
        uri
    }

    /// Returns the time limit for deliveries: a margin before the broker's own.
    pub(super) fn settle_within(&self) -> Duration {
        self.consumer_timeout / 5 * 4
    }

    /// Returns every host in random order, so that apps spread over the nodes. The host of the
    /// session that just ended comes last.
    pub(super) fn in_try_order(&self) -> Vec<&Host> {
        let last = *self.last.lock();
        let mut places: Vec<usize> = (0..self.hosts.len()).collect();
        fastrand::shuffle(&mut places);
        places.sort_by_key(|place| Some(*place) == last);
        places.into_iter().map(|place| &self.hosts[place]).collect()
    }

    /// Takes over the host of the last session.
    pub(super) fn follow(&mut self, former: &Self) {
        *self.last.get_mut() = *former.last.lock();
    }

    /// Records the host of the new session.
    pub(super) fn connected_to(&self, host: &Host) {
        *self.last.lock() = self.hosts.iter().position(|other| other == host);
    }

    /// Parses a URL.
    ///
    /// # Errors
    /// The problem and the remedy, without secrets.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| FORM.to_owned())?;
        let scheme = match scheme {
            "amqp" => AMQPScheme::AMQP,
            "amqps" => AMQPScheme::AMQPS,
            _ => return Err(FORM.into()),
        };
        if rest.contains('#') {
            return Err(format!("the URL contains a `#`; {ENCODED}"));
        }
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, vhost) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, hosts) = match authority.rsplit_once('@') {
            Some((user, hosts)) => (Some(user), hosts),
            None => (None, authority),
        };
        let ambiguous = || format!("the end of the password is ambiguous; {ENCODED}");
        if user.is_none() && vhost.contains('@') {
            return Err(ambiguous());
        }
        let hosts: Result<_, _> = hosts
            .split(',')
            .map(|host| read_host(host, scheme.default_port()))
            .collect();
        let hosts = hosts.map_err(|why| match user {
            None if query.contains('@') => ambiguous(),
            _ => why,
        })?;
        if vhost.contains('/') {
            return Err(
                "write a slash in a virtual host as %2F, and leave out the default virtual host"
                    .into(),
            );
        }
        let parameters = Parameters::read(query)?;
        let tls = parameters.tls(&scheme)?;
        let auth_mechanism = parameters.mechanism(tls.as_ref())?;
        let connection_timeout = parameters.number("connection_timeout", 1..=3_600_000)?;
        Ok(Self {
            uri: AMQPUri {
                scheme,
                authority: AMQPAuthority {
                    userinfo: read_user(user)?,
                    // `uri` sets both for each host.
                    host: String::new(),
                    port: 0,
                },
                vhost: match vhost {
                    "" => "/".into(),
                    vhost => decoded(vhost, "virtual host")?,
                },
                query: AMQPQueryString {
                    frame_max: parameters.number("frame_max", 4096..=i32::MAX as u32)?,
                    channel_max: parameters.number("channel_max", 1..=u16::MAX)?,
                    heartbeat: Some(
                        parameters
                            .number("heartbeat", 1..=u16::MAX)?
                            .unwrap_or(HEARTBEAT_S),
                    ),
                    connection_timeout,
                    auth_mechanism,
                },
            },
            hosts,
            tls,
            last: Mutex::default(),
            connect_timeout: connection_timeout.map_or(CONNECT_TIMEOUT, Duration::from_millis),
            consumer_timeout: parameters
                .number("consumer_timeout", 1000..=u64::from(u32::MAX))?
                .map_or(CONSUMER_TIMEOUT, Duration::from_millis),
        })
    }
}

/// Returns the URL with its relative paths joined to `folder`.
pub(super) fn resolve(url: &str, folder: &Path) -> String {
    let Some((before, query)) = url.split_once('?') else {
        return url.to_owned();
    };
    let pairs: Vec<String> = query
        .split('&')
        .map(|pair| match pair.split_once('=') {
            Some((name, path)) if PATH_PARAMETERS.contains(&name) && !path.is_empty() => {
                match decoded(path, name) {
                    Ok(path) => format!("{name}={}", encoded(&folder.join(path))),
                    // `parse` reports the error.
                    Err(_) => pair.to_owned(),
                }
            }
            _ => pair.to_owned(),
        })
        .collect();
    format!("{before}?{}", pairs.join("&"))
}

/// Percent-encodes a path as a parameter value.
fn encoded(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        match character {
            '%' | '&' | '#' | '?' | '@' => text.push_str(&format!("%{:02X}", u32::from(character))),
            other => text.push(other),
        }
    }
    text
}

/// Decodes a percent-encoded part of the URL. `what` names the part in the error.
fn decoded(text: &str, what: &str) -> Result<String, String> {
    let wrong = || format!("its {what} is not percent-encoded; {ENCODED}");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        bytes.push(match first {
            b'%' => {
                let digits = after.get(..2).ok_or_else(wrong)?;
                rest = &after[2..];
                let digit = |digit: u8| char::from(digit).to_digit(16).ok_or_else(wrong);
                // Two digits of 16 make a byte.
                (digit(digits[0])? * 16 + digit(digits[1])?) as u8
            }
            plain => plain,
        });
    }
    String::from_utf8(bytes).map_err(|_| wrong())
}

/// Parses `USER:PASSWORD`.
fn read_user(text: Option<&str>) -> Result<AMQPUserInfo, String> {
    let Some(text) = text else {
        return Ok(AMQPUserInfo {
            username: "guest".into(),
            password: "guest".into(),
        });
    };
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    Ok(AMQPUserInfo {
        username: decoded(username, "user")?,
        password: decoded(password, "password")?,
    })
}

/// Parses `NAME`, `NAME:PORT`, `[IPV6]` or `[IPV6]:PORT`.
fn read_host(text: &str, default_port: u16) -> Result<Host, String> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (name, after) = rest
                .split_once(']')
                .ok_or("write an IPv6 address in brackets: [::1]:5672")?;
            match after {
                "" => (name, None),
                _ => (name, Some(after.strip_prefix(':').ok_or(FORM)?)),
            }
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    if name.is_empty() {
        return Err(format!(
            "it names no host, or one of several hosts is empty: {FORM}"
        ));
    }
    let port = match port {
        None => default_port,
        Some(port) => match port.parse() {
            Ok(port) if port > 0 => port,
            // The text could be a password: don't show it.
            _ => return Err(format!("a port is a number from 1 to 65535: {FORM}")),
        },
    };
    Ok(Host {
        name: name.to_owned(),
        port,
    })
}

/// The parameters after the `?`, decoded.
struct Parameters(Vec<(&'static str, String)>);

impl Parameters {
    fn read(query: &str) -> Result<Self, String> {
        let mut all: Vec<(&'static str, String)> = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(&name) = PARAMETERS.iter().find(|known| **known == name) else {
                let known = PARAMETERS.join(", ");
                // Show the name only if it can't be a part of a password.
                let name =
                    name.len() < 24 && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
                return Err(match (name, pair.split_once('=')) {
                    (true, Some((name, _))) => {
                        format!("there is no parameter {name:?}; known are {known}")
                    }
                    _ => format!("it has an unknown parameter; known are {known}"),
                });
            };
            if value.is_empty() {
                return Err(format!("its parameter {name} has no value"));
            }
            if all.iter().any(|(other, _)| *other == name) {
                return Err(format!("its parameter {name} is given twice"));
            }
            all.push((name, decoded(value, name)?));
        }
        Ok(Self(all))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let mut all = self.0.iter();
        all.find(|(other, _)| *other == name)
            .map(|(_, value)| &**value)
    }

    fn number<T: std::str::FromStr + PartialOrd + fmt::Display>(
        &self,
        name: &str,
        range: std::ops::RangeInclusive<T>,
    ) -> Result<Option<T>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        match value.parse() {
            Ok(number) if range.contains(&number) => Ok(Some(number)),
            _ => Err(format!(
                "its parameter {name} must be a number from {} to {}",
                range.start(),
                range.end()
            )),
        }
    }

    fn tls(&self, scheme: &AMQPScheme) -> Result<Option<Tls>, String> {
        if *scheme == AMQPScheme::AMQP {
            return match TLS_PARAMETERS
                .into_iter()
                .find(|name| self.get(name).is_some())
            {
                Some(name) => Err(format!("{name} needs TLS: write amqps://")),
                None => Ok(None),
            };
        }
        match self.get("verify") {
            None | Some("verify_peer") => {}
            Some("verify_none") => {
                return Err(
                    "verify=verify_none is refused: any impostor would get the password. Give the \
                     certificate of the authority that signed the broker's as cacertfile=PATH, and \
                     if that certificate has another name than the host, \
                     server_name_indication=NAME"
                        .into(),
                );
            }
            Some(_) => return Err("its parameter verify can only be verify_peer".into()),
        }
        let path = |name| self.get(name).map(PathBuf::from);
        let identity = match (path("certfile"), path("keyfile")) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            (Some(_), None) => {
                return Err("certfile needs keyfile, the key that belongs to it".into());
            }
            (None, Some(_)) => {
                return Err("keyfile needs certfile, the certificate that belongs to it".into());
            }
        };
        let name = self.get("server_name_indication");
        if name == Some("disable") {
            return Err(
                "server_name_indication=disable is refused: give the name in the broker's certificate"
                    .into(),
            );
        }
        Ok(Some(Tls {
            authorities: path("cacertfile"),
            identity,
            name: name.map(str::to_owned),
        }))
    }

    fn mechanism(&self, tls: Option<&Tls>) -> Result<Option<SASLMechanism>, String> {
        let Some(name) = self.get("auth_mechanism") else {
            return Ok(None);
        };
        match &*name.to_ascii_lowercase() {
            "plain" => Ok(Some(SASLMechanism::Plain)),
            "amqplain" => Ok(Some(SASLMechanism::AMQPlain)),
            "external" if tls.is_none_or(|tls| tls.identity.is_none()) => Err(
                "auth_mechanism=external needs amqps: with certfile and keyfile: the certificate \
                 identifies the user"
                    .into(),
            ),
            "external" => Ok(Some(SASLMechanism::External)),
            _ => Err("its parameter auth_mechanism can be plain, amqplain or external".into()),
        }
    }
}

#[cfg(test)]
mod tests;
