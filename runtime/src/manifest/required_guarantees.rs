//! Guarantees that a manifest needs and that not every transport gives.

use super::codes;
use super::report::Problems;
use super::source::Span;
use super::suggest::list;
use crate::transport::{Guarantees, Transports, scheme_of};

/// Compares needs of the manifest with the guarantees of its transport.
pub(super) struct RequiredGuarantees<'a> {
    transports: &'a Transports,
    scheme: &'a str,
    /// `None` if the transport is unknown, which has been reported.
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

    /// Returns whether messages outlive the process.
    pub(super) fn is_durable(&self) -> bool {
        self.guarantees.is_some_and(|g| g.durable)
    }

    /// Reports `subject` if the transport does not connect processes.
    pub(super) fn crossing(&self, subject: &str, span: Span, out: &mut Problems) {
        if self.guarantees.is_some_and(|g| !g.crosses_processes) {
            let message = format!(
                "{subject} needs a transport that connects processes, and `{}:` does not",
                self.scheme
            );
            self.report(message, |g| g.crosses_processes, span, out);
        }
    }

    /// Reports `subject` if the transport does not enforce queue limits.
    pub(super) fn limits(&self, subject: &str, span: Span, out: &mut Problems) {
        if self.guarantees.is_some_and(|g| !g.limits) {
            let message = format!(
                "{subject} is not supported yet by the transport `{}:`",
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
            [] => "remove it: no transport of this program supports it".to_owned(),
            _ => format!(
                "transports that support it: {}",
                list(fitting.iter().map(String::as_str))
            ),
        };
        out.add(codes::NEEDS_TRANSPORT, span, message, Some(help));
    }
}
