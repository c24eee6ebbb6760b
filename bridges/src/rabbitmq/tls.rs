//! TLS to a broker: the trusted authorities, the client certificate, and explanations of
//! failures.
//!
//! Owns the files that a URL names. They are read again for every session, so the next
//! connection uses renewed ones. The broker's certificate is always verified. No error text
//! contains the content of a file.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lapin::tcp::RustlsConnector;
use rustls_connector::rustls::crypto::ring::default_provider;
use rustls_connector::rustls::pki_types::pem::PemObject;
use rustls_connector::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_connector::rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, InconsistentKeys, InvalidMessage,
    RootCertStore,
};
use rustls_connector::rustls_native_certs::load_native_certs;

/// Maximum size of a certificate or key file.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// The TLS settings of a URL.
#[derive(Debug)]
pub(super) struct Tls {
    /// Certificates of the trusted authorities. `None` means the machine's.
    pub(super) authorities: Option<PathBuf>,
    /// The client certificate and its key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
    /// The name in the broker's certificate. `None` means the host name.
    pub(super) name: Option<String>,
}

impl Tls {
    /// Loads the files.
    ///
    /// # Errors
    /// The unusable file and the remedy.
    pub(super) fn load(&self) -> Result<RustlsConnector, String> {
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key)) = &self.identity else {
            return Ok(builder.with_no_client_auth().into());
        };
        let chain = certificates("certfile", certificate)?;
        let config = builder.with_client_auth_cert(chain, private_key(key)?);
        config.map(RustlsConnector::from).map_err(|error| {
            let (certificate, key) = (certificate.display(), key.display());
            match error {
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => format!(
                    "the keyfile {key} is not the key of the first certificate in the certfile \
                     {certificate}"
                ),
                Error::InvalidCertificate(_) => {
                    format!("the first certificate in the certfile {certificate} can't be used")
                }
                // The reason concerns the key's format, not its content.
                _ => format!(
                    "the key in the keyfile {key} can't be used: RSA, ECDSA and Ed25519 can"
                ),
            }
        })
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut roots = RootCertStore::empty();
        let Some(path) = &self.authorities else {
            let found = load_native_certs();
            roots.add_parsable_certificates(found.certs);
            if roots.is_empty() {
                return Err(
                    "this machine trusts no authority: install the package ca-certificates, or \
                     give the certificate of the broker's authority as cacertfile=PATH"
                        .into(),
                );
            }
            return Ok(roots);
        };
        for certificate in certificates("cacertfile", path)? {
            roots.add(certificate).map_err(|_| {
                let path = path.display();
                format!("a certificate in the cacertfile {path} can't be used: it is damaged")
            })?;
        }
        Ok(roots)
    }

    /// Explains a TLS failure. Returns `None` for any other error.
    pub(super) fn explain(&self, error: &io::Error) -> Option<String> {
        let error = error.get_ref()?.downcast_ref::<Error>()?;
        Some(match error {
            Error::InvalidCertificate(error) => self.explain_certificate(error),
            Error::AlertReceived(alert) => self.explain_alert(*alert),
            Error::InvalidMessage(InvalidMessage::InvalidContentType) => NO_TLS.into(),
            error => format!("TLS failed: {error}"),
        })
    }

    fn explain_certificate(&self, error: &CertificateError) -> String {
        match error {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                format!("the broker's certificate has expired: renew it there ({error})")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => format!(
                "the broker's certificate is not valid yet: compare the clocks of both machines \
                 ({error})"
            ),
            CertificateError::UnknownIssuer => match &self.authorities {
                Some(path) => format!(
                    "the broker's certificate is not signed by any in the cacertfile {}: give the \
                     certificate of its authority",
                    path.display()
                ),
                None => "the broker's certificate is not signed by an authority that this machine \
                         trusts: give that authority's certificate as cacertfile=PATH"
                    .into(),
            },
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!(
                    "the broker's certificate is for another name ({error}): connect by a name \
                     that it contains, or give that name as server_name_indication=NAME"
                )
            }
            // This case has no variant of its own.
            error if error.to_string().contains("CaUsedAsEndEntity") => {
                "the broker shows an authority's certificate as its own: it needs one for itself, \
                 signed by that"
                    .into()
            }
            error => format!("the broker's certificate is refused: {error}"),
        }
    }

    /// Explains the broker's refusal: a client certificate may be missing.
    fn explain_alert(&self, alert: AlertDescription) -> String {
        let Some((certificate, _)) = &self.identity else {
            return match alert {
                AlertDescription::CertificateRequired
                | AlertDescription::HandshakeFailure
                | AlertDescription::BadCertificate => {
                    "the broker wants a client certificate: give one with its key as \
                     certfile=PATH&keyfile=PATH"
                        .into()
                }
                alert => format!("the broker refused TLS with us: {alert:?}"),
            };
        };
        let certificate = certificate.display();
        match alert {
            AlertDescription::CertificateExpired => {
                format!(
                    "the broker refuses the certificate in the certfile {certificate}: it has expired"
                )
            }
            AlertDescription::UnknownCA => format!(
                "the broker refuses the certificate in the certfile {certificate}: it isn't signed \
                 by an authority that the broker trusts"
            ),
            alert => format!(
                "the broker refused TLS with us and the certificate in the certfile {certificate}: \
                 {alert:?}"
            ),
        }
    }
}

/// The explanation if the peer doesn't use TLS.
pub(super) const NO_TLS: &str = "the server there doesn't speak TLS: write amqp://, or the \
                                 broker's port for amqps:";

fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(what, path)?;
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        // The error would show the file's content.
        Ok(_) | Err(_) => Err(format!(
            "the {what} {} holds no certificate in PEM form (-----BEGIN CERTIFICATE-----), or a \
             damaged one",
            path.display()
        )),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    let pem = read("keyfile", path)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| {
        let path = path.display();
        let has = |words: &[u8]| pem.windows(words.len()).any(|window| window == words);
        if has(b"ENCRYPTED") {
            format!("the key in the keyfile {path} is encrypted: give it without a passphrase")
        } else {
            format!(
                "the keyfile {path} holds no private key in PEM form (-----BEGIN PRIVATE KEY-----), \
                 or a damaged one"
            )
        }
    })
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| format!("can't read the {what} {}: {error}", path.display()))?;
    Ok(bytes)
}
