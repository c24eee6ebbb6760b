//! TLS for connections to the outside: rustls with ring, the authorities of the system, and
//! certificates from files.

use std::path::Path;
use std::sync::Arc;

use brickwork::Failure;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::settings::TlsSettings;

/// Creates the configuration of all connections of a client.
///
/// # Errors
/// A retry, if a file can't be read or has no certificates or key.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, Failure> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(settings)?);
    let mut config = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => {
            let key = PrivateKeyDer::from_pem_file(&**key)
                .map_err(|error| unreadable("key", key, &error))?;
            let chain = certificates("certificate", certificate)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| unreadable("key", certificate, &error))?
        }
        _ => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn roots(settings: &TlsSettings) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    // Files that can't be read, and certificates that are too old to be parsed, are left out: a
    // system has many.
    let native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(native.certs);
    if let Some(ca) = &settings.ca {
        for certificate in certificates("ca", ca)? {
            roots
                .add(certificate)
                .map_err(|error| unreadable("ca", ca, &error))?;
        }
    }
    Ok(roots)
}

fn certificates(key: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Failure> {
    let read = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(key, path, &error))?;
    if read.is_empty() {
        return Err(unreadable(key, path, &"it has no certificate in PEM form"));
    }
    Ok(read)
}

fn unreadable(key: &str, path: &Path, error: &dyn std::fmt::Display) -> Failure {
    Failure::retry(format!("tls.{key}: {}: {error}", path.display()))
}

#[cfg(test)]
mod tests;
