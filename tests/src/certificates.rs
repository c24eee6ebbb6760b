//! Certificate authorities and certificates for TLS tests.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// The authority's certificate, in PEM form.
    pub certificate: String,
}

/// A certificate and its key, in PEM form.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key of the certificate.
    pub key: String,
}

/// Validity of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// Valid from now on.
    Now,
    /// Expired.
    Before,
}

impl Authority {
    /// Creates an authority with a new key.
    ///
    /// # Panics
    /// If the certificate can't be made.
    pub fn new(name: &str) -> Self {
        let mut params = named(name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
        }
    }

    /// Signs a certificate with this common name, valid for these hosts, with a new key.
    ///
    /// # Panics
    /// If the certificate can't be made.
    pub fn sign(&self, name: &str, hosts: &[&str], valid: Valid) -> Identity {
        let mut params = named(name);
        params.subject_alt_names = names(hosts);
        if valid == Valid::Before {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer);
        Identity {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}

impl Identity {
    /// Creates a self-signed certificate.
    ///
    /// # Panics
    /// If the certificate can't be made.
    pub fn by_itself(name: &str, hosts: &[&str]) -> Self {
        let mut params = named(name);
        params.subject_alt_names = names(hosts);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key);
        Self {
            certificate: certificate.expect("a certificate").pem(),
            key: key.serialize_pem(),
        }
    }
}

fn names(hosts: &[&str]) -> Vec<SanType> {
    let hosts = hosts.iter();
    hosts
        .map(|host| SanType::DnsName((*host).try_into().expect("a host's name")))
        .collect()
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    params.distinguished_name = distinguished;
    params
}
