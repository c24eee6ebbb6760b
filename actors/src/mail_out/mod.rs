//! `mail-out`: sends a mail for each message, by SMTP.
//!
//! The ack comes after the server took the mail over. After a crash in between, the mail is sent
//! again with the same Message-ID.

mod compose;
mod config;
mod verdict;

use std::sync::Mutex;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use brickwork::RateLimiter;
use brickwork::prelude::*;
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{
    Certificate, CertificateStore, Tls as SmtpTls, TlsParameters,
};
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Tokio1Executor};
use tokio::time::{Instant, sleep_until, timeout};

use crate::outage::Outage;
use crate::ports::{IN, OUT, current_message};
pub use config::{MailOutConfig, Tls as MailTls};
use verdict::{Verdict, judge, status_of};

/// Output of messages whose mail the server refused for good.
const REJECTED: Output<Raw> = Output::new("rejected");
/// Time for which an idle connection is kept.
const IDLE: Duration = Duration::from_secs(30);

type Transport = AsyncSmtpTransport<Tokio1Executor>;

/// Sends a mail for each message.
pub struct MailOut {
    config: MailOutConfig,
    /// `None` after a mail that did not come to its end: its connection is not used again.
    transport: Option<Transport>,
    outage: Outage,
    rate: Arc<Rate>,
}

/// The rate that all instances of a process share.
struct Rate(Mutex<RateLimiter>);

impl Rate {
    fn new(per_second: Option<f64>) -> Self {
        let interval =
            per_second.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        Self(Mutex::new(RateLimiter::new(interval, Duration::ZERO)))
    }

    fn next(&self) -> Instant {
        let mut limiter = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.next(Instant::now())
    }
}

impl Service for MailOut {
    const NAME: &'static str = "mail-out";
    const SUMMARY: &'static str = "sends a mail for each message, by SMTP";
    const EXAMPLE: &'static str = r#"[services.notify]
use = "mail-out"
in = "alerts"
[services.notify.config]
server = "smtp.example.com"
user = "shop"
password = "${SMTP_PASSWORD}"
from = "'Shop <shop@example.com>'"
to = "msg.recipients"
subject = "'Order ' + msg.order"
text = "msg.text"
"#;
    const FAILURES: &'static [&'static str] = &[
        "emits a message whose mail the server refuses for good (5xx) on rejected, or dead-letters it if rejected is not connected, with the server's answer",
        "retries a mail that the server can't take yet (4xx) after 1m, 2m, 4m, … up to 1h; each try is an attempt",
        "pauses while the server can't be reached, is slow, answers nonsense, shuts down (421) or refuses the login; messages wait and lose no attempt",
        "dead-letters a message with a wrong address, a line break in a header, an attachment that is no base64, or without a field that has() doesn't guard",
        "sends a mail again, with the same Message-ID, after a crash or a lost answer",
    ];
    type Config = MailOutConfig;

    fn ports(_: &MailOutConfig, ports: &mut Ports<Self>) {
        ports
            .input(&IN)
            .optional_output(&OUT)
            .optional_output(&REJECTED);
    }

    fn check(config: &MailOutConfig) -> Result<(), Vec<ConfigError>> {
        config.check()
    }

    async fn start(config: &MailOutConfig, cx: &mut Context) -> Result<Self, Failure> {
        let rate = config.rate;
        Ok(Self {
            transport: Some(transport(config).await?),
            config: config.clone(),
            outage: Outage::default(),
            rate: cx.shared(async || Ok(Rate::new(rate))).await?,
        })
    }
}

impl Handle<Raw> for MailOut {
    async fn handle(&mut self, raw: Raw, cx: &mut Context) -> Result<(), Failure> {
        let (message, attempt) = current_message(cx);
        let mail = compose::compose(&self.config, message, attempt)?;
        sleep_until(self.rate.next()).await;
        // A handler that is cancelled takes the connection with it.
        let transport = match self.transport.take() {
            Some(transport) => transport,
            None => transport(&self.config).await?,
        };
        let limit = self.config.timeout.0;
        let Ok(sent) = timeout(limit, transport.send(mail)).await else {
            let text = format!("the mail server did not take the mail within {limit:?}");
            return Err(self.outage.away(&text, cx));
        };
        self.transport = Some(transport);
        let error = match sent {
            Ok(_) => {
                self.outage.ended(cx.service());
                return emit_if_wired(cx, raw);
            }
            Err(error) => error,
        };
        let text = format!("{}: {}", self.config.server, Failure::from(&error));
        match judge(status_of(&error), attempt) {
            Verdict::Away => Err(self.outage.away(&text, cx)),
            Verdict::Later(delay) => Err(Failure::after(delay, text)),
            Verdict::Refused if cx.is_wired(&REJECTED) => {
                let refused = MessageBuilder::new(raw).header("mail-error", text);
                cx.emit(&REJECTED, refused)
            }
            Verdict::Refused => Err(Failure::reject(text)),
        }
    }
}

fn emit_if_wired(cx: &Context, raw: Raw) -> Result<(), Failure> {
    match cx.is_wired(&OUT) {
        true => cx.emit(&OUT, raw),
        false => Ok(()),
    }
}

/// Makes the client of one instance, which keeps one connection.
async fn transport(config: &MailOutConfig) -> Result<Transport, Failure> {
    let config = config.clone();
    tokio::task::spawn_blocking(move || build(&config)).await?
}

fn build(config: &MailOutConfig) -> Result<Transport, Failure> {
    let tls = match config.tls {
        MailTls::None => SmtpTls::None,
        MailTls::Required => SmtpTls::Wrapper(tls_parameters(config)?),
        MailTls::Starttls => SmtpTls::Required(tls_parameters(config)?),
    };
    let pool = PoolConfig::new().max_size(1).idle_timeout(IDLE);
    let mut builder = Transport::builder_dangerous(&config.server)
        .port(config.port())
        .tls(tls)
        .timeout(Some(config.timeout.0))
        .pool_config(pool);
    if let (Some(user), Some(password)) = (&config.user, &config.password) {
        let password = password.reveal().to_owned();
        builder = builder.credentials(Credentials::new(user.clone(), password));
    }
    Ok(builder.build())
}

fn tls_parameters(config: &MailOutConfig) -> Result<TlsParameters, Failure> {
    let mut builder = TlsParameters::builder(config.server.clone());
    if !config.ca.as_os_str().is_empty() {
        let path = config.ca.display();
        let pem = std::fs::read(&*config.ca)
            .map_err(|error| Failure::retry(format!("can't read {path}: {error}")))?;
        let ca = Certificate::from_pem(&pem)
            .map_err(|error| Failure::retry(format!("{path} has no certificate: {error}")))?;
        builder = builder
            .certificate_store(CertificateStore::None)
            .add_root_certificate(ca);
    }
    Ok(builder.build_rustls()?)
}
