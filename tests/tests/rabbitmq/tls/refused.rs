//! Connections that TLS refuses, each with an error that says why.

use super::*;

#[test]
fn a_broker_with_an_untrusted_certificate_is_refused() {
    let world = World::the();
    let folder = world.app(
        "others",
        &world.url(&world.lenient, "cacertfile=tls/others.pem"),
    );
    is_refused(
        folder.path(),
        &["not signed by any in the cacertfile", "tls/others.pem"],
    );
    // The machine does not trust the authority, either.
    let folder = world.app("nobody", &world.url(&world.lenient, ""));
    is_refused(
        folder.path(),
        &[
            "not signed by an authority that this machine trusts",
            "cacertfile=",
        ],
    );
    // With an explicit authority, the machine's list is not used.
    let folder = world.app(
        "machine",
        &world.url(&world.lenient, "cacertfile=tls/others.pem"),
    );
    let ours = folder.path().join("tls/ours.pem");
    let mut command = Command::new(brickwork());
    command
        .args(["check", "--connect"])
        .arg(folder.path().join("app.toml"))
        .env("SSL_CERT_FILE", &ours);
    let text = said(&command.output().expect("it runs"));
    assert!(
        text.contains("not signed by any in the cacertfile"),
        "{text}"
    );
    // Without one, the machine's list is used.
    app(
        folder.path(),
        "machine",
        &world.url(&world.lenient, ""),
        None,
    );
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_missing_client_certificate_is_reported() {
    let world = World::the();
    let name = "missing-certificate";
    let folder = world.app(name, &world.url(&world.strict, "cacertfile=tls/ours.pem"));
    is_refused(
        folder.path(),
        &["wants a client certificate", "certfile=PATH&keyfile=PATH"],
    );
    for (whose, why) in [
        (
            "stranger",
            "isn't signed by an authority that the broker trusts",
        ),
        ("expired", "it has expired"),
    ] {
        let parameters =
            format!("cacertfile=tls/ours.pem&certfile=tls/{whose}.pem&keyfile=tls/{whose}-key.pem");
        let url = world.url(&world.strict, &parameters);
        app(folder.path(), name, &url, None);
        is_refused(
            folder.path(),
            &["refuses the certificate in the certfile", whose, why],
        );
    }
}

#[test]
fn tls_to_a_plain_port_and_plain_to_a_tls_port_are_reported() {
    let world = World::the();
    let (plain, tls) = (world.lenient.port(), world.lenient.tls_port());
    let url = format!("amqp://user:{PASSWORD_ENCODED}@localhost:{tls}");
    let folder = world.app("mixed-up", &url);
    is_refused(folder.path(), &["speaks TLS", "write amqps://"]);
    let url = format!("amqps://user:{PASSWORD_ENCODED}@localhost:{plain}?cacertfile=tls/ours.pem");
    app(folder.path(), "mixed-up", &url, None);
    is_refused(folder.path(), &["doesn't speak TLS", "write amqp://"]);
}

#[test]
fn an_expired_certificate_is_refused_and_a_renewed_one_is_accepted() {
    let ours = Authority::new("ours");
    let expired = ours.sign("broker", &["localhost"], Valid::Before);
    let broker = Broker::with(&Settings {
        tls: Some(shown(&ours, &expired)),
        ..Settings::default()
    });
    add_user(&broker, "user", "/");
    let world = World::the();
    let folder = world.app("expired", &world.url(&broker, "cacertfile=tls/ours.pem"));
    std::fs::write(folder.path().join("tls/ours.pem"), &ours.certificate).expect("written");
    is_refused(
        folder.path(),
        &["the broker's certificate has expired", "renew it"],
    );
    broker.show(&shown(
        &ours,
        &ours.sign("broker", &["localhost"], Valid::Now),
    ));
    works(folder.path());

    // A self-signed certificate, as a user without an authority makes it.
    let alone = Identity::by_itself("broker", &["localhost"]);
    std::fs::write(folder.path().join("tls/ours.pem"), &alone.certificate).expect("written");
    broker.show(&shown(&ours, &alone));
    is_refused(folder.path(), &["an authority's certificate as its own"]);
}

#[test]
fn unusable_files_are_named_without_connecting() {
    let world = World::the();
    // No connection attempt is made: no server listens.
    let url =
        |parameters: &str| format!("amqps://user:{PASSWORD_ENCODED}@localhost:1?{parameters}");
    let folder = world.app("files", "memory:");
    let tls = folder.path().join("tls");
    let key = std::fs::read_to_string(tls.join("shipper-key.pem")).expect("it is there");
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let damaged = key.replace("-----END", "####");
    for (file, text) in [
        ("encrypted-key.pem", &*encrypted),
        ("damaged-key.pem", &damaged),
        ("nothing.pem", "nothing"),
        (
            "broken.pem",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ),
    ] {
        std::fs::write(tls.join(file), text).expect("it can be written");
    }
    for (parameters, parts) in [
        (
            "cacertfile=tls/none.pem",
            ["can't read the cacertfile", "tls/none.pem", "No such file"],
        ),
        (
            "cacertfile=tls",
            ["can't read the cacertfile", "tls", "directory"],
        ),
        (
            "cacertfile=tls/nothing.pem",
            ["the cacertfile", "tls/nothing.pem", "no certificate in PEM"],
        ),
        (
            "cacertfile=tls/shipper-key.pem",
            ["the cacertfile", "shipper-key.pem", "no certificate in PEM"],
        ),
        (
            "cacertfile=tls/broken.pem",
            ["the cacertfile", "broken.pem", "damaged"],
        ),
        (
            "certfile=tls/shipper.pem&keyfile=tls/none.pem",
            ["can't read the keyfile", "tls/none.pem", "No such file"],
        ),
        (
            "certfile=tls/shipper.pem&keyfile=tls/stranger-key.pem",
            ["the keyfile", "tls/stranger-key.pem", "is not the key of"],
        ),
        (
            "certfile=tls/shipper.pem&keyfile=tls/encrypted-key.pem",
            [
                "the keyfile",
                "tls/encrypted-key.pem",
                "without a passphrase",
            ],
        ),
        (
            "certfile=tls/shipper.pem&keyfile=tls/damaged-key.pem",
            ["the keyfile", "tls/damaged-key.pem", "damaged"],
        ),
        (
            "certfile=tls/shipper.pem&keyfile=tls/shipper.pem",
            ["the keyfile", "tls/shipper.pem", "no private key"],
        ),
        (
            "certfile=tls/broken.pem&keyfile=tls/shipper-key.pem",
            ["the", "tls/", "can't be used"],
        ),
        (
            "verify=verify_none",
            ["verify_none is refused", "cacertfile=PATH", "password"],
        ),
    ] {
        app(folder.path(), "files", &url(parameters), None);
        for verb in ["check", "run"] {
            let output = run(folder.path(), &[verb]);
            let text = said(&output);
            assert_eq!(output.status.code(), Some(2), "{text}");
            assert!(text.contains("the transport refuses its URL"), "{text}");
            for part in parts {
                assert!(text.contains(part), "no {part:?} in {text}");
            }
            keeps_secrets(folder.path(), &text);
        }
    }
}
