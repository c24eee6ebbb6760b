//! Reads the URL of the transport again while the app runs: a password in `${file:PATH}` may have
//! been rotated.

use std::path::PathBuf;
use std::sync::Arc;

use super::source::SourceFile;
use super::spanned_toml::{Table, Value};
use super::{secrets, variables};
use crate::redact::Redactor;
use crate::transport::{RenewUrl, Transports};

/// The URL of the transport as the manifest has it, with variables.
pub(super) struct UrlTemplate {
    text: String,
    /// Folder of the file that has it.
    folder: PathBuf,
}

impl UrlTemplate {
    /// Returns the template of `app.transport` if it names a file.
    pub(super) fn find(merged: &Table, files: &[SourceFile]) -> Option<Self> {
        let Value::Table(app) = &merged.get("app")?.node.value else {
            return None;
        };
        let node = &app.get("transport")?.node;
        match &node.value {
            Value::String(text) if text.contains("${file:") => Some(Self {
                text: text.clone(),
                folder: files[node.span.file].folder.clone(),
            }),
            _ => None,
        }
    }

    /// Returns the function that reads the URL again. It adds new secrets to the redactor.
    pub(super) fn renew(self, transports: &Transports, redactor: Arc<Redactor>) -> RenewUrl {
        let transports = transports.clone();
        Arc::new(move || {
            let Self { text, folder } = &self;
            let env = |name: &str| std::env::var(name).ok();
            let url = variables::fill_again(text, &env, folder)?;
            for secret in secrets::of_transport(&url) {
                redactor.add(&secret);
            }
            Ok(match transports.for_url(&url) {
                Some(connector) => connector.resolve(&url, folder),
                None => url,
            })
        })
    }
}
