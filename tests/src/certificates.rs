//! Certificates made for a test: authorities, and what they sign.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, SanType,
    date_time_ymd,
};

/// Somebody who signs certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, in PEM form.
    pub certificate: String,
}

/// A certificate and its key, in PEM form.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The key that belongs to it.
    pub key: String,
}

/// When a certificate is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Valid {
    /// For a long time to come.
    Now,
    /// No more.
    Before,
}

impl Authority {
    /// A new one, with a key of its own.
    ///
    /// # Panics
    /// It can't be made.
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

    /// A certificate for somebody of this name, for the hosts, with a new key.
    ///
    /// # Panics
    /// It can't be made.
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
    /// One that is its own authority.
    ///
    /// # Panics
    /// It can't be made.
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
