//! Panics: the process's panic hook, and catching a panic as a value.
//!
//! Rust's default hook takes a backtrace when `RUST_BACKTRACE` is set, which makes a panic
//! about twenty times slower. The hook here logs the message and the place in one line and
//! takes a backtrace only if [`BACKTRACE_VARIABLE`] is set.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

/// Environment variable that adds a backtrace to every logged panic; any value will do.
pub const BACKTRACE_VARIABLE: &str = "BRICKWORK_BACKTRACE";

/// Replaces the panic hook of the process by one that logs the message and the place.
///
/// The command line and every app call this at their start; a second call has no effect.
pub fn install_hook() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let with_backtrace = std::env::var_os(BACKTRACE_VARIABLE).is_some();
        panic::set_hook(Box::new(move |info| log(info, with_backtrace)));
    });
}

/// Returns whether panics unwind in this build. The runtime relies on it.
pub fn unwinds() -> bool {
    cfg!(panic = "unwind")
}

fn log(info: &PanicHookInfo<'_>, with_backtrace: bool) {
    let text = info.payload_as_str().unwrap_or(NO_TEXT);
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
    // Without a log subscriber the panic would leave no trace.
    if !tracing::dispatcher::has_been_set() && std::thread::panicking() {
        crate::stderr::error_line!("panicked at {file}:{line}: {text}");
    }
}

const NO_TEXT: &str = "a panic without a text";

/// Runs a closure and catches its panic.
///
/// # Errors
/// The text of the panic.
pub(crate) fn catch_panic<T>(run: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).map_err(panic_text)
}

/// Returns the text of a caught panic and drops its payload, which may panic itself.
pub(crate) fn panic_text(payload: Box<dyn Any + Send>) -> String {
    let text = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        NO_TEXT.to_owned()
    };
    if let Err(second) = catch_unwind(AssertUnwindSafe(move || drop(payload))) {
        // Dropping this payload could panic again, without end.
        #[expect(clippy::mem_forget, reason = "its destructor must not run")]
        std::mem::forget(second);
    }
    text
}
