//! What a manifest needs of its transport beyond what every transport does.

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::suggest::list;
use crate::transport::{Guarantees, Transports, scheme_of};

/// The transport that the manifest names, and those that it could name.
pub(super) struct RequiredGuarantees<'a> {
    transports: &'a Transports,
    scheme: &'a str,
    /// `None` if there is no such transport; that was reported.
    guarantees: Option<Guarantees>,
}

impl<'a> RequiredGuarantees<'a> {
    pub(super) fn new(url: &'a str, transports: &'a Transports) -> Self {
        let scheme = scheme_of(url);
        let connector = transports.for_url(url);
        Self {
            transports,
            scheme,
            guarantees: connector.map(|connector| connector.guarantees(scheme)),
        }
    }

    /// Whether what is sent outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        self.guarantees.is_some_and(|g| g.durable)
    }

    /// `what` needs a transport that crosses processes.
    pub(super) fn crossing(&self, what: &str, span: Span, out: &mut Problems) {
        if self.guarantees.is_some_and(|g| !g.crosses_processes) {
            let message = format!(
                "{what} needs a transport that crosses processes, `{}:` doesn't",
                self.scheme
            );
            self.report(message, |g| g.crosses_processes, span, out);
        }
    }

    /// `what` needs a transport that keeps limits.
    pub(super) fn limits(&self, what: &str, span: Span, out: &mut Problems) {
        if self.guarantees.is_some_and(|g| !g.limits) {
            let message = format!(
                "{what} is not supported yet by the transport `{}:`",
                self.scheme
            );
            self.report(message, |g| g.limits, span, out);
        }
    }

    fn report(
        &self,
        message: String,
        fits: fn(&Guarantees) -> bool,
        span: Span,
        out: &mut Problems,
    ) {
        let schemes = self.transports.schemes();
        let fitting: Vec<String> = schemes
            .map(|scheme| format!("{scheme}:"))
            .filter(|url| {
                let connector = self.transports.for_url(url);
                connector.is_some_and(|c| fits(&c.guarantees(scheme_of(url))))
            })
            .collect();
        let help = match fitting.as_slice() {
            [] => "leave it out: none of this program's transports could".to_owned(),
            _ => format!(
                "the transports that could: {}",
                list(fitting.iter().map(String::as_str))
            ),
        };
        out.add(codes::NEEDS_TRANSPORT, span, message, Some(help));
    }
}
