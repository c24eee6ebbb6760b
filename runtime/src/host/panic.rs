//! The panic hook: one line for a panic, without the cost of a backtrace.
//!
//! The default hook takes a backtrace when `RUST_BACKTRACE` is set, which makes a
//! panic twenty times dearer. Panics of services are caught and reported with their
//! message; a backtrace is taken only when asked for by name.

use std::panic::{self, PanicHookInfo};
use std::sync::Once;

/// Set it to anything to have a backtrace logged with every panic.
pub const BACKTRACE_VARIABLE: &str = "BRICKWORK_BACKTRACE";

/// Replaces the process's panic hook by one that logs the message and the place.
///
/// The command line and every app do this once; a second call changes nothing.
pub fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let with_backtrace = std::env::var_os(BACKTRACE_VARIABLE).is_some();
        panic::set_hook(Box::new(move |info| log(info, with_backtrace)));
    });
}

/// Whether panics unwind in this build, as everything here relies on.
pub fn unwinds() -> bool {
    cfg!(panic = "unwind")
}

fn log(info: &PanicHookInfo<'_>, with_backtrace: bool) {
    let text = info.payload_as_str().unwrap_or("a panic without a text");
    let (file, line) = info
        .location()
        .map_or(("", 0), |place| (place.file(), place.line()));
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    if with_backtrace {
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(panic = text, file, line, thread, %backtrace, "panicked");
    } else {
        tracing::error!(panic = text, file, line, thread, "panicked");
    }
    // Without anybody to log to, a panic must not pass unseen.
    if !tracing::dispatcher::has_been_set() && std::thread::panicking() {
        eprintln!("panicked at {file}:{line}: {text}");
    }
}
