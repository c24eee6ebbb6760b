//! Addresses that may be called: the protection against server-side request forgery.
//!
//! # Invariants
//! - A URL is checked before its request: scheme, host and port must match an entry of the list.
//! - An address is checked after the resolution of its name, and the connection goes to the
//!   checked address: there is no second look-up.
//! - An address that is not public is refused unless an entry names it: names never make a
//!   private address reachable, so a name that an attacker controls can't either.
//! - The URL parser brings every spelling of an IPv4 address (decimal, octal, hexadecimal, short)
//!   into one form. IPv6 addresses that carry an IPv4 address are judged by that one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::{Host, Url};

/// Hosts and addresses that may be called.
///
/// | entry | meaning |
/// | --- | --- |
/// | `api.example.com` | `https` to this host, port 443 |
/// | `api.example.com:8443`, `api.example.com:*` | `https`, this port or any |
/// | `http://api.example.com` | `http` to this host, port 80 |
/// | `*.example.com` | all names below `example.com` |
/// | `*` | every public host by `https` |
/// | `10.1.2.3`, `[fd00::1]:8080` | `http` and `https` to this address, also if it is private |
/// | `10.0.0.0/8` | these addresses, also if a name that is allowed resolves to them |
/// | `localhost` | `http` and `https` to this computer |
#[derive(Debug, Clone, Default)]
pub(crate) struct AllowList(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    http: bool,
    https: bool,
    target: Target,
    port: Port,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Target {
    Any,
    Name(String),
    /// Names that end with this, which starts with a dot.
    Below(String),
    Network(IpAddr, u8),
    Localhost,
}

#[derive(Debug, Clone, Copy)]
enum Port {
    /// The port of the scheme.
    Default,
    Any,
    Number(u16),
}

impl AllowList {
    /// Reads the entries.
    ///
    /// # Errors
    /// The index of a wrong entry, and a text that says how it is wrong.
    pub(crate) fn parse(entries: &[String]) -> Result<Self, (usize, String)> {
        let entries = entries.iter().enumerate();
        entries
            .map(|(index, entry)| Entry::parse(entry).map_err(|text| (index, text)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Checks the URL of a request.
    ///
    /// # Errors
    /// A text that names the part that is not allowed.
    pub(crate) fn check_url(&self, url: &Url) -> Result<(), String> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err("a URL must start with http:// or https://".to_owned());
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("a URL must not contain user and password: use auth".to_owned());
        }
        let host = url.host().ok_or("the URL has no host")?;
        let port = url.port_or_known_default().ok_or("the URL has no port")?;
        let https = url.scheme() == "https";
        if self
            .0
            .iter()
            .any(|entry| entry.admits(&host, port, https, url.port().is_none()))
        {
            return Ok(());
        }
        let origin = url.origin().ascii_serialization();
        Err(format!(
            "{origin} is not in allow: add it to the list if it may be called"
        ))
    }

    /// Whether a connection to a resolved address may be made.
    pub(crate) fn admits_address(&self, address: IpAddr) -> bool {
        is_public(address) || self.names_address(address)
    }

    /// Whether an entry admits every host.
    pub(crate) fn is_open(&self) -> bool {
        self.0.iter().any(|entry| entry.target == Target::Any)
    }

    fn names_address(&self, address: IpAddr) -> bool {
        let address = unmapped(address);
        self.0.iter().any(|entry| match entry.target {
            Target::Network(network, bits) => contains(network, bits, address),
            Target::Localhost => address.is_loopback(),
            Target::Any | Target::Name(_) | Target::Below(_) => false,
        })
    }
}

impl Entry {
    fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme @ ("http" | "https"), rest)) => (Some(scheme), rest),
            Some(_) => return Err(format!("{text:?} must start with http:// or https://")),
            None => (None, text),
        };
        if let Some((network, bits)) = rest.split_once('/') {
            return Self::network(network, bits)
                .map(|target| Self::new(scheme, target, Port::Any))
                .ok_or_else(|| {
                    format!("{text:?} is neither a host nor a network such as 10.0.0.0/8")
                });
        }
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
            _ => (rest, None),
        };
        let port = match port {
            None => Port::Default,
            Some("*") => Port::Any,
            Some(number) => Port::Number(
                number
                    .parse()
                    .map_err(|_| format!("{text:?} has no valid port"))?,
            ),
        };
        Ok(Self::new(scheme, Self::target(host, text)?, port))
    }

    fn new(scheme: Option<&str>, target: Target, port: Port) -> Self {
        let by_address = matches!(target, Target::Network(..) | Target::Localhost);
        Self {
            http: scheme.map_or(by_address, |scheme| scheme == "http"),
            https: scheme.is_none_or(|scheme| scheme == "https"),
            target,
            port,
        }
    }

    fn target(host: &str, text: &str) -> Result<Target, String> {
        if host == "*" {
            return Ok(Target::Any);
        }
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        let bare_v6 = name.parse::<Ipv6Addr>().map(Host::Ipv6);
        let parsed = bare_v6.or_else(|_| Host::parse(name));
        match parsed.map_err(|_| format!("{text:?} is not a host such as api.example.com"))? {
            Host::Domain(name) if below => Ok(Target::Below(format!(".{}", bare(&name)))),
            _ if below => Err(format!("{text:?}: an address has no names below it")),
            Host::Domain(name) if bare(&name) == "localhost" => Ok(Target::Localhost),
            Host::Domain(name) => Ok(Target::Name(bare(&name).to_owned())),
            Host::Ipv4(address) => Ok(Target::Network(address.into(), 32)),
            Host::Ipv6(address) => match unmapped(address.into()) {
                IpAddr::V4(address) => Ok(Target::Network(address.into(), 32)),
                IpAddr::V6(address) => Ok(Target::Network(address.into(), 128)),
            },
        }
    }

    fn network(network: &str, bits: &str) -> Option<Target> {
        let network: IpAddr = network.trim_matches(['[', ']']).parse().ok()?;
        let bits: u8 = bits.parse().ok()?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        (bits <= most).then_some(Target::Network(network, bits))
    }

    fn admits(&self, host: &Host<&str>, port: u16, https: bool, default_port: bool) -> bool {
        let scheme = if https { self.https } else { self.http };
        let port = match self.port {
            Port::Default => default_port,
            Port::Any => true,
            Port::Number(number) => number == port,
        };
        scheme && port && self.target.admits(host)
    }
}

impl Target {
    fn admits(&self, host: &Host<&str>) -> bool {
        let address = match host {
            Host::Domain(name) => {
                let name = bare(name);
                return match self {
                    Self::Any => true,
                    Self::Name(own) => own == name,
                    Self::Below(end) => name.len() > end.len() && name.ends_with(end),
                    Self::Localhost => name == "localhost",
                    Self::Network(..) => false,
                };
            }
            Host::Ipv4(address) => IpAddr::V4(*address),
            Host::Ipv6(address) => unmapped(IpAddr::V6(*address)),
        };
        match self {
            Self::Any => is_public(address),
            Self::Network(network, bits) => contains(*network, *bits, address),
            Self::Localhost => address.is_loopback(),
            Self::Name(_) | Self::Below(_) => false,
        }
    }
}

/// Returns a name without the dot of its root.
fn bare(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Returns the IPv4 address that an IPv4-mapped IPv6 address is.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

fn contains(network: IpAddr, bits: u8, address: IpAddr) -> bool {
    let (network, address, width) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (
            u128::from(network.to_bits()),
            u128::from(address.to_bits()),
            32,
        ),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let shift = width - u32::from(bits);
    network.checked_shr(shift) == address.checked_shr(shift)
}

/// Whether an address is reachable from everywhere, by IANA's registries of special-purpose
/// addresses.
pub(crate) fn is_public(address: IpAddr) -> bool {
    match unmapped(address) {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match embedded_v4(address) {
            Some(inner) => is_public_v4(inner),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = match a {
        0 | 10 | 127 => true,
        100 => b & 0xc0 == 64,
        169 => b == 254,
        172 => b & 0xf0 == 16,
        192 => matches!((b, c), (168, _) | (0, 0 | 2) | (88, 99)),
        198 => b & 0xfe == 18 || (b, c) == (51, 100),
        203 => (b, c) == (0, 113),
        _ => a >= 224,
    };
    !special
}

/// Returns the IPv4 address that a NAT64 or a 6to4 address leads to.
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let parts = address.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match parts {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let global = parts[0] & 0xe000 == 0x2000;
    // Protocol assignments with Teredo, benchmarks and documentation.
    let special = (parts[0] == 0x2001 && (parts[1] < 0x200 || parts[1] == 0xdb8))
        || (parts[0] == 0x3fff && parts[1] < 0x1000);
    global && !special
}

#[cfg(test)]
mod tests;
