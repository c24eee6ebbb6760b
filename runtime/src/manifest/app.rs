//! Reads `[app]` and `[admin]`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::codes;
use super::report::Problems;
use super::source::SourceFile;
use super::suggest::{list, quote};
use super::table_reader::Section;
use crate::log::LogSettings;
use crate::names::check_name;
use crate::transport::{Transports, scheme_of};

/// Maximum worker threads: more than any supported machine has cores.
const WORKERS_MAX: u64 = 1024;
const MESSAGE_BYTES_DEFAULT: u64 = 1 << 20;
/// Brokers accept less than this.
const MESSAGE_BYTES_MAX: u64 = 1 << 30;
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(10);
const ADMIN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 9464);

const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

/// The values of `[app]`.
pub(super) struct App {
    pub(super) name: Arc<str>,
    pub(super) transport: String,
    pub(super) data: PathBuf,
    pub(super) workers: usize,
    pub(super) shutdown_timeout: Duration,
    pub(super) message_bytes_max: usize,
    pub(super) log: LogSettings,
}

pub(super) fn read_app(
    top: &Section<'_>,
    files: &[SourceFile],
    transports: &Transports,
    out: &mut Problems,
) -> App {
    let app = top.section("app", out);
    let known = [
        "name",
        "transport",
        "data",
        "workers",
        "shutdown_timeout",
        "max_message",
        "log",
    ];
    app.check_keys(&known, &[], out);
    let data = match app.text("data", out) {
        Some((text, entry)) => {
            if text.is_empty() {
                app.bad(entry, "must name a folder, and is empty", out);
            }
            files[entry.node.span.file].folder.join(text)
        }
        None => files[0].folder.join("data"),
    };
    App {
        name: name(&app, out),
        transport: transport(&app, &data, files, transports, out),
        data,
        workers: match app.integer("workers", 1..=WORKERS_MAX, out) {
            Some(workers) => workers as usize,
            None => std::thread::available_parallelism().map_or(1, usize::from),
        },
        shutdown_timeout: app
            .duration("shutdown_timeout", Duration::ZERO, out)
            .unwrap_or(SHUTDOWN_TIMEOUT),
        message_bytes_max: app
            .size("max_message", 1..=MESSAGE_BYTES_MAX, out)
            .unwrap_or(MESSAGE_BYTES_DEFAULT) as usize,
        log: log(&app.section("log", out), out),
    }
}

fn name(app: &Section<'_>, out: &mut Problems) -> Arc<str> {
    match app.text("name", out) {
        Some((name, entry)) => {
            if let Err(why) = check_name(name) {
                let message = format!("{} can't be an app's name: {why}", quote(name));
                out.add(codes::BAD_NAME, entry.node.span, message, None);
            }
            name.into()
        }
        None => {
            if app.table.get("name").is_none() {
                app.missing("name", "add it: `[app]` with `name = \"...\"`", out);
            }
            "".into()
        }
    }
}

fn transport(
    app: &Section<'_>,
    data: &Path,
    files: &[SourceFile],
    transports: &Transports,
    out: &mut Problems,
) -> String {
    let Some((url, entry)) = app.text("transport", out) else {
        return match app.table.get("transport") {
            // A wrong value was reported. No transport, so no need is held against one.
            Some(_) => String::new(),
            None => transports.default_url(data),
        };
    };
    let span = entry.node.span;
    match transports.for_url(url) {
        Some(connector) => {
            let url = connector.resolve(url, &files[span.file].folder);
            if let Err(why) = connector.check(&url) {
                let message = format!("the transport refuses its URL: {why}");
                out.add(codes::BAD_URL, span, message, None);
            }
            return url;
        }
        None => {
            // Only the scheme is shown: the rest may hold a password.
            let message = match scheme_of(url) {
                scheme if is_scheme(scheme) => {
                    format!("no transport has the URL scheme `{scheme}:`")
                }
                _ => "the transport must be a URL".to_owned(),
            };
            let schemes: Vec<String> = transports.schemes().map(|s| format!("{s}:")).collect();
            let schemes = list(schemes.iter().map(String::as_str));
            let help = Some(format!("the schemes of this program: {schemes}"));
            out.add(codes::UNKNOWN_SCHEME, span, message, help);
        }
    }
    url.to_owned()
}

/// Returns whether a text looks like a URL scheme. A longer text may be a password.
fn is_scheme(text: &str) -> bool {
    (1..=12).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'+')
}

fn log(log: &Section<'_>, out: &mut Problems) -> LogSettings {
    log.check_keys(&["level", "format"], &[], out);
    let names = LEVELS.map(|(name, _)| name);
    LogSettings {
        level: log
            .one_of("level", &names, out)
            .map_or(tracing::Level::INFO, |index| LEVELS[index].1),
        json: log.one_of("format", &["text", "json"], out) == Some(1),
    }
}

pub(super) fn read_admin(top: &Section<'_>, out: &mut Problems) -> Option<SocketAddr> {
    let admin = top.section("admin", out);
    admin.check_keys(&["listen"], &[], out);
    let Some((text, entry)) = admin.text("listen", out) else {
        return cfg!(feature = "admin").then_some(ADMIN);
    };
    if text == "off" {
        return None;
    }
    let address = text.parse().ok();
    if address.is_none() {
        let message = format!(
            "`admin.listen`: {} is not an address with a port",
            quote(text)
        );
        let help = Some(format!("write an address such as \"{ADMIN}\", or \"off\""));
        out.add(codes::BAD_VALUE, entry.node.span, message, help);
    }
    address
}
