//! Certificates: trusted, unknown, of another host, and of the client.

use std::net::SocketAddr;

use brickwork::config::ManifestPath;
use http::Method;
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::super::client::HttpClient;
use super::super::request::{CallError, OutsideRequest};
use super::super::settings::ClientSettings;
use super::*;

/// An authority, its files, and a server that it has certified for `127.0.0.1`.
struct Server {
    folder: TempDir,
    address: SocketAddr,
}

impl Server {
    /// Starts a server. `mutual` servers want a certificate of the same authority.
    async fn start(host: &str, mutual: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        let (certificate, key) = certified(&authority, host);
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        let (client, client_key) = certified(&authority, "client");
        std::fs::write(folder.path().join("client.pem"), client.pem()).unwrap();
        std::fs::write(folder.path().join("client.key"), client_key.serialize_pem()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap();
        let builder = if mutual {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let config = builder.with_single_cert(vec![certificate.der().clone()], key);
        let acceptor = TlsAcceptor::from(Arc::new(config.unwrap()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    continue;
                };
                let mut request = vec![0; 1024];
                if stream.read(&mut request).await.is_ok_and(|read| read > 0) {
                    let answer = b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n";
                    stream.write_all(answer).await.unwrap();
                }
            }
        });
        Self { folder, address }
    }

    fn file(&self, name: &str) -> Option<ManifestPath> {
        Some(ManifestPath(self.folder.path().join(name)))
    }

    async fn call(&self, tls: TlsSettings) -> Result<u16, CallError> {
        let settings = ClientSettings {
            allow: vec![self.address.to_string()],
            tls,
            ..ClientSettings::default()
        };
        let client = HttpClient::new(&settings).unwrap();
        let url = format!("https://{}/", self.address);
        let answer = client.call(OutsideRequest::new(Method::GET, url)).await;
        answer.map(|answer| answer.status)
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut parameters = CertificateParams::new(Vec::new()).unwrap();
    parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap()
}

fn certified(
    authority: &CertifiedIssuer<'static, KeyPair>,
    host: &str,
) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let parameters = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = parameters.signed_by(&key, authority).unwrap();
    (certificate, key)
}

#[tokio::test]
async fn an_authority_from_a_file_is_trusted_and_others_are_not() {
    let server = Server::start("127.0.0.1", false).await;
    let trusting = TlsSettings {
        ca: server.file("ca.pem"),
        ..TlsSettings::default()
    };
    assert_eq!(server.call(trusting).await, Ok(204));
    let error = server.call(TlsSettings::default()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::NotSent(text) if text.contains("TLS")),
        "{error}"
    );
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused() {
    let server = Server::start("other.example", false).await;
    let trusting = TlsSettings {
        ca: server.file("ca.pem"),
        ..TlsSettings::default()
    };
    let error = server.call(trusting).await.unwrap_err();
    assert!(
        matches!(&error, CallError::NotSent(text) if text.contains("TLS")),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_wants_a_certificate_gets_that_of_the_config() {
    let server = Server::start("127.0.0.1", true).await;
    let mut settings = TlsSettings {
        ca: server.file("ca.pem"),
        ..TlsSettings::default()
    };
    assert!(server.call(settings.clone()).await.is_err());
    settings.certificate = server.file("client.pem");
    settings.key = server.file("client.key");
    assert_eq!(server.call(settings).await, Ok(204));
}

#[test]
fn a_file_that_can_t_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = ManifestPath(folder.path().join("empty.pem"));
    let settings = TlsSettings {
        ca: Some(file.clone()),
        ..TlsSettings::default()
    };
    for content in [None, Some("no certificate")] {
        if let Some(content) = content {
            std::fs::write(&*file, content).unwrap();
        }
        let failure = client_config(&settings).unwrap_err();
        assert!(failure.text().starts_with("tls.ca: "), "{failure}");
        assert!(failure.text().contains("empty.pem"), "{failure}");
    }
}
