//! The scheme `amqps:`: the broker's certificate is verified, a client certificate is presented
//! where required, and errors help without a password or a key.

use brickwork_tests::binary::brickwork;
use brickwork_tests::broker::{Broker, Settings, Tls};
use brickwork_tests::certificates::{Authority, Identity, Valid};
use brickwork_tests::http;
use brickwork_tests::process::{Process, free_address, until};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::OnceLock;
use std::time::{Duration, Instant};
use tempfile::TempDir;

mod refused;
mod rotated;

const PATIENCE: Duration = Duration::from_secs(60);

/// A refusal comes at once; the rest is a margin for a busy machine.
const SOON: Duration = Duration::from_secs(8);

const LINES: usize = 2000;

/// A password as a user types it.
const PASSWORD: &str = "h:u/n@t%e r2,#?&";

const PASSWORD_ENCODED: &str = "h%3Au%2Fn%40t%25e%20r2%2C%23%3F%26";

/// The authorities and the brokers of all tests.
struct World {
    ours: Authority,
    /// An untrusted authority.
    others: Authority,
    broker: Identity,
    /// A broker that accepts passwords.
    lenient: Broker,
    /// A broker that also requires a client certificate.
    strict: Broker,
}

impl World {
    fn the() -> &'static Self {
        static THE: OnceLock<World> = OnceLock::new();
        THE.get_or_init(|| {
            let (ours, others) = (Authority::new("ours"), Authority::new("others"));
            let broker = ours.sign("broker", &["localhost"], Valid::Now);
            let settings = Settings {
                tls: Some(shown(&ours, &broker)),
                ..Settings::default()
            };
            let lenient = Broker::with(&settings);
            let strict = Broker::with(&Settings {
                wants_certificates: true,
                plugins: &["rabbitmq_auth_mechanism_ssl"],
                more: "auth_mechanisms.1 = PLAIN\n\
                       auth_mechanisms.2 = EXTERNAL\n\
                       ssl_cert_login_from = common_name",
                ..settings
            });
            for broker in [&lenient, &strict] {
                add_user(broker, "user", "/");
            }
            // Identified by the certificate alone.
            strict.ctl(&["add_user", "shipper", "never-used-7f3a"]);
            strict.ctl(&["set_permissions", "shipper", ".*", ".*", ".*"]);
            Self {
                ours,
                others,
                broker,
                lenient,
                strict,
            }
        })
    }

    /// Creates a folder with an app, and in `tls` every file that a URL may name.
    fn app(&self, name: &str, transport: &str) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder can be made");
        app(folder.path(), name, transport, None);
        let tls = folder.path().join("tls");
        std::fs::create_dir(&tls).expect("a folder can be made");
        let shipper = self.ours.sign("shipper", &[], Valid::Now);
        let stranger = self.others.sign("shipper", &[], Valid::Now);
        let expired = self.ours.sign("shipper", &[], Valid::Before);
        for (file, text) in [
            ("ours.pem", &self.ours.certificate),
            ("others.pem", &self.others.certificate),
            ("shipper.pem", &shipper.certificate),
            ("shipper-key.pem", &shipper.key),
            ("stranger.pem", &stranger.certificate),
            ("stranger-key.pem", &stranger.key),
            ("expired.pem", &expired.certificate),
            ("expired-key.pem", &expired.key),
        ] {
            std::fs::write(tls.join(file), text).expect("it can be written");
        }
        folder
    }

    fn url(&self, broker: &Broker, parameters: &str) -> String {
        let port = broker.tls_port();
        format!("amqps://user:{PASSWORD_ENCODED}@localhost:{port}?{parameters}")
    }
}

fn shown(authority: &Authority, broker: &Identity) -> Tls {
    Tls {
        authorities: authority.certificate.clone(),
        certificate: broker.certificate.clone(),
        key: broker.key.clone(),
    }
}

fn add_user(broker: &Broker, name: &str, vhost: &str) {
    // Not over the command line of a shell script, which would need quoting.
    let user = format!(
        "rabbit_auth_backend_internal:add_user(<<\"{name}\">>, <<\"{PASSWORD}\">>, <<\"test\">>)."
    );
    broker.ctl(&["eval", &user]);
    broker.ctl(&["set_permissions", "-p", vhost, name, ".*", ".*", ".*"]);
}

/// Writes an app that reads lines and writes them, with a queue between.
fn app(folder: &Path, name: &str, transport: &str, admin: Option<&str>) {
    let admin = admin.unwrap_or("off");
    let manifest = format!(
        r#"
        [app]
        name = "{name}"
        transport = "{transport}"
        log.level = "trace"
        [admin]
        listen = "{admin}"
        [services.lines]
        use = "file-in"
        out = "lines"
        config.path = "lines.jsonl"
        [services.keep]
        use = "file-out"
        in = "lines"
        config.path = "out.jsonl"
        "#
    );
    std::fs::write(folder.join("app.toml"), manifest).expect("it can be written");
    let lines: String = (0..LINES).map(|n| format!("{{\"n\":{n}}}\n")).collect();
    std::fs::write(folder.join("lines.jsonl"), lines).expect("it can be written");
}

/// Runs a command in another folder than the manifest's.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(brickwork());
    command
        .args(arguments)
        .arg(folder.join("app.toml"))
        .current_dir("/")
        .env("TLS_TEST_PASSWORD", PASSWORD_ENCODED);
    command.output().expect("it runs")
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

/// Checks that a text contains neither the password nor a line of a key.
fn keeps_secrets(folder: &Path, text: &str) {
    for secret in [PASSWORD, PASSWORD_ENCODED, "h:u/n", "h%3Au"] {
        assert!(!text.contains(secret), "{text}");
    }
    let files = std::fs::read_dir(folder.join("tls")).expect("it is there");
    for file in files {
        let file = file.expect("it is there").path();
        if !file.to_string_lossy().contains("key") {
            continue;
        }
        let key = std::fs::read_to_string(&file).expect("it can be read");
        for line in key.lines().filter(|line| !line.contains("-----")) {
            assert!(!text.contains(line), "{text}");
        }
    }
}

fn works(folder: &Path) {
    let output = run(folder, &["run", "--until-idle", "--fail-on-dlq"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    keeps_secrets(folder, &text);
    let written = std::fs::read_to_string(folder.join("out.jsonl")).expect("it is there");
    assert_eq!(written.lines().count(), LINES);
    let output = run(folder, &["check", "--connect"]);
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    assert!(text.contains("RabbitMQ "), "{text}");
    assert!(text.contains("queues and exchanges are there"), "{text}");
    keeps_secrets(folder, &text);
}

/// Checks that every command that connects fails soon, with a helpful text and without a secret.
fn is_refused(folder: &Path, parts: &[&str]) {
    let verbs: [&[&str]; 3] = [
        &["check", "--connect"],
        &["check", "--connect", "--json"],
        &["run"],
    ];
    for verb in verbs {
        let began = Instant::now();
        let output = run(folder, verb);
        let (text, took) = (said(&output), began.elapsed());
        assert_eq!(output.status.code(), Some(1), "{text}");
        assert!(took < SOON, "{took:?}: {text}");
        assert!(text.contains("can't connect to amqp"), "{text}");
        for part in parts {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        keeps_secrets(folder, &text);
    }
}

#[test]
fn an_app_works_over_tls_with_a_private_authority() {
    let world = World::the();
    // The path is relative to the manifest, and the binary runs in another folder.
    let url = world.url(&world.lenient, "cacertfile=tls/ours.pem");
    let folder = world.app("own-authority", &url);
    works(folder.path());
}

#[test]
fn an_app_presents_its_certificate_where_one_is_required() {
    let world = World::the();
    let url = world.url(
        &world.strict,
        "cacertfile=tls/ours.pem&certfile=tls/shipper.pem&keyfile=tls/shipper-key.pem\
         &verify=verify_peer&heartbeat=5&connection_timeout=5000&auth_mechanism=plain",
    );
    let folder = world.app("shows", &url);
    works(folder.path());
}

#[test]
fn a_client_certificate_can_replace_the_password() {
    let world = World::the();
    let url = format!(
        "amqps://localhost:{}?cacertfile=tls/ours.pem&certfile=tls/shipper.pem\
         &keyfile=tls/shipper-key.pem&auth_mechanism=external",
        world.strict.tls_port()
    );
    let folder = world.app("external", &url);
    works(folder.path());
    let users = world.strict.ctl(&["list_queues", "name"]);
    assert!(users.contains("external.keep.in"), "{users}");
}

#[test]
fn the_url_can_name_the_expected_host_of_a_certificate() {
    let world = World::the();
    let port = world.lenient.tls_port();
    let url = |more: &str| {
        format!("amqps://user:{PASSWORD_ENCODED}@127.0.0.1:{port}?cacertfile=tls/ours.pem{more}")
    };
    let folder = world.app("other-name", &url("&server_name_indication=localhost"));
    works(folder.path());
    let folder = world.app("wrong-name", &url(""));
    let parts = [
        "is for another name",
        "127.0.0.1",
        "localhost",
        "server_name_indication",
    ];
    is_refused(folder.path(), &parts);
}

/// Runs the app of a folder from another folder.
fn start(folder: &Path) -> Process {
    let mut command = Command::new(brickwork());
    command
        .arg("run")
        .arg(folder.join("app.toml"))
        .current_dir("/");
    Process::start(command, folder, "it was just built")
}

/// Waits for a readiness state and a part of its text.
fn until_ready(admin: SocketAddr, wanted: bool, part: &str) {
    until("readiness", PATIENCE, || {
        let answer = http::get(admin, "/health/ready").map_err(|error| error.to_string())?;
        match (answer.code == 200) == wanted && answer.body.contains(part) {
            true => Ok(()),
            false => Err(answer.body),
        }
    });
}

#[test]
fn an_app_reconnects_with_renewed_certificates() {
    let world = World::the();
    let broker = Broker::with(&Settings {
        tls: Some(shown(&world.ours, &world.broker)),
        ..Settings::default()
    });
    add_user(&broker, "user", "/");
    let folder = world.app("renewed", "memory:");
    let admin = free_address();
    let url = world.url(&broker, "cacertfile=tls/ours.pem");
    app(folder.path(), "renewed", &url, Some(&admin.to_string()));
    let process = start(folder.path());
    let ready = |wanted: bool, part: &str| until_ready(admin, wanted, part);
    ready(true, "");
    // The broker gets a certificate of another authority; then the app trusts that one, too.
    let theirs = world.others.sign("broker", &["localhost"], Valid::Now);
    broker.show(&shown(&world.others, &theirs));
    broker.ctl(&["close_all_connections", "a test closes them"]);
    ready(false, "");
    until("the log says why", PATIENCE, || match process.stderr() {
        log if log.contains("not signed by any in the cacertfile") => Ok(()),
        log => Err(log),
    });
    let api = http::get(admin, "/api/app").expect("it answers").body;
    std::fs::write(
        folder.path().join("tls/ours.pem"),
        &world.others.certificate,
    )
    .expect("it can be written");
    ready(true, "");
    for text in [api, process.stderr()] {
        keeps_secrets(folder.path(), &text);
    }
}

#[test]
fn credentials_come_from_variables_and_files_and_the_virtual_host_from_the_url() {
    let world = World::the();
    let broker = &world.lenient;
    for vhost in ["my/host", "plain"] {
        broker.ctl(&["add_vhost", vhost]);
        broker.ctl(&["set_permissions", "-p", vhost, "user", ".*", ".*", ".*"]);
    }
    let port = broker.port();
    for (name, user, path, vhost) in [
        ("variable", "user:${TLS_TEST_PASSWORD}", "", "/"),
        (
            "default",
            "${NOBODY_SET_IT:-user}:${TLS_TEST_PASSWORD}",
            "/",
            "/",
        ),
        ("file", "user:${file:tls/password}", "/%2f", "/"),
        (
            "slash",
            "user:${file:tls/password}",
            "/my%2Fhost",
            "my/host",
        ),
        ("named", "user:${TLS_TEST_PASSWORD}", "/plain", "plain"),
    ] {
        let folder = world.app(name, &format!("amqp://{user}@127.0.0.1:{port}{path}"));
        let password = folder.path().join("tls/password");
        std::fs::write(password, format!("{PASSWORD_ENCODED}\n")).expect("it can be written");
        works(folder.path());
        let queues = broker.ctl(&["list_queues", "-p", vhost, "name"]);
        assert!(queues.contains(&format!("{name}.keep.in")), "{queues}");
    }
    for (url, part) in [
        (
            format!("amqp://user:{PASSWORD_ENCODED}@127.0.0.1:{port}/nowhere"),
            "nowhere",
        ),
        (
            format!("amqp://visitor:{PASSWORD_ENCODED}@127.0.0.1:{port}"),
            "refused",
        ),
    ] {
        let folder = world.app("refused", &url);
        is_refused(folder.path(), &[part]);
    }
    // The password can't stand in a URL as it is typed: the error says so, and shows how.
    let folder = world.app("typed", &format!("amqp://user:{PASSWORD}@127.0.0.1:{port}"));
    let output = run(folder.path(), &["check"]);
    let text = said(&output);
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("%40 %3A %2F"), "{text}");
    for secret in ["h:u", "r2", "n@t"] {
        assert!(!text.contains(secret), "{secret}: {text}");
    }
}
