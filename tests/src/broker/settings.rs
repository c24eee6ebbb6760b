//! Settings of a test broker.

use std::fs;
use std::path::Path;

/// Content of `advanced.config`, in milliseconds: how soon the broker tries again to move a delayed
/// message that found no way to its queue (the guide's chapter on RabbitMQ advises a shorter time
/// than the 3 minutes of the broker), and how often it counts the messages of a quorum queue.
pub(super) const ADVANCED: &str = "[{rabbit, [{dead_letter_worker_publisher_confirm_timeout, 1000}, {quorum_tick_interval, 1000}]}].\n";

/// Differences from a broker with default settings.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Also listen with TLS.
    pub tls: Option<Tls>,
    /// Require a client certificate over TLS.
    pub wants_certificates: bool,
    /// Enabled plugins.
    pub plugins: &'static [&'static str],
    /// Additional lines of `rabbitmq.conf`.
    pub more: &'static str,
}

/// The broker's TLS identity and the authorities that it trusts, all in PEM form.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Certificates of the authorities that sign client certificates.
    pub authorities: String,
    /// The broker's certificate.
    pub certificate: String,
    /// The private key of the certificate.
    pub key: String,
}

impl Tls {
    pub(super) fn write(&self, folder: &Path) {
        for (name, text) in [
            ("authorities.pem", &self.authorities),
            ("certificate.pem", &self.certificate),
            ("key.pem", &self.key),
        ] {
            fs::write(folder.join(name), text).expect("a file in it");
        }
    }
}

impl Settings {
    /// Returns the text of `rabbitmq.conf`. Writes the files that it names into `folder`, which
    /// the broker sees as `inside`.
    pub(super) fn configuration(
        &self,
        port: u16,
        tls_port: u16,
        folder: &Path,
        inside: &Path,
    ) -> String {
        let mut text = format!(
            "listeners.tcp.1 = 127.0.0.1:{port}\n\
             disk_free_limit.absolute = 10MB\n\
             raft.wal_max_size_bytes = 33554432\n\
             {}\n",
            self.more
        );
        if let Some(tls) = &self.tls {
            tls.write(folder);
            let path = |name: &str| inside.join(name).display().to_string();
            text += &format!(
                "listeners.ssl.1 = 127.0.0.1:{tls_port}\n\
                 ssl_options.cacertfile = {}\n\
                 ssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\n",
                path("authorities.pem"),
                path("certificate.pem"),
                path("key.pem"),
            );
            text += match self.wants_certificates {
                true => {
                    "ssl_options.verify = verify_peer\nssl_options.fail_if_no_peer_cert = true\n"
                }
                false => {
                    "ssl_options.verify = verify_none\nssl_options.fail_if_no_peer_cert = false\n"
                }
            };
        }
        text
    }

    pub(super) fn plugins(&self) -> String {
        format!("[{}].\n", self.plugins.join(","))
    }
}
