//! URLs: every form that is accepted, every error that is reported.

use super::*;

fn parse(url: &str) -> Result<Address, String> {
    Address::parse(url)
}

fn only(url: &str) -> (Address, AMQPUri) {
    let address = parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
    assert_eq!(address.hosts.len(), 1, "{url}");
    let uri = address.uri(&address.hosts[0]);
    (address, uri)
}

fn hosts(url: &str) -> Vec<String> {
    let address = parse(url).unwrap_or_else(|why| panic!("{url}: {why}"));
    address.hosts.iter().map(Host::to_string).collect()
}

#[test]
fn credentials_and_virtual_host_are_decoded() {
    let (_, uri) = only("amqp://us%40er:p%2Fss%3A%25%c3%a4@broker:5673/my%2fhost");
    assert_eq!(uri.authority.userinfo.username, "us@er");
    assert_eq!(uri.authority.userinfo.password, "p/ss:%ä");
    assert_eq!((&*uri.authority.host, uri.authority.port), ("broker", 5673));
    assert_eq!(uri.vhost, "my/host");
    let (_, uri) = only("amqp://u:p@ss:w@broker");
    assert_eq!(uri.authority.userinfo.password, "p@ss:w");
}

#[test]
fn omitted_parts_have_safe_defaults() {
    for url in ["amqp://broker", "amqp://broker/", "amqp://broker/%2f"] {
        let (address, uri) = only(url);
        assert_eq!(uri.vhost, "/");
        assert_eq!(uri.query.heartbeat, Some(10));
        assert_eq!(address.connect_timeout, Duration::from_secs(10));
        assert_eq!(address.settle_within(), Duration::from_secs(24 * 60));
        assert_eq!(uri.authority.userinfo.username, "guest");
        assert!(address.tls.is_none());
    }
    let (address, uri) = only("amqps://broker");
    assert_eq!(uri.authority.port, 5671);
    let tls = address.tls.expect("it is amqps:");
    assert!(tls.authorities.is_none() && tls.identity.is_none() && tls.name.is_none());
    let (address, uri) = only(
        "amqp://broker?heartbeat=60&connection_timeout=500&frame_max=8192&consumer_timeout=10000",
    );
    assert_eq!(address.settle_within(), Duration::from_secs(8));
    assert_eq!(uri.query.heartbeat, Some(60));
    assert_eq!(uri.query.frame_max, Some(8192));
    assert_eq!(address.connect_timeout, Duration::from_millis(500));
}

#[test]
fn a_url_may_name_the_nodes_of_a_cluster() {
    assert_eq!(
        hosts("amqp://u:p@one,two:5673,[::1],[::1]:5674/v?heartbeat=5"),
        ["one:5672", "two:5673", "[::1]:5672", "[::1]:5674"]
    );
    assert_eq!(hosts("amqps://one,two"), ["one:5671", "two:5671"]);
    // A comma in a password doesn't separate hosts.
    assert_eq!(hosts("amqp://u:p,w@one"), ["one:5672"]);
}

#[test]
fn hosts_are_tried_in_random_order_and_the_lost_one_last() {
    let address = parse("amqp://one,two,three").unwrap();
    let firsts = |address: &Address| {
        let firsts = (0..100).map(|_| address.in_try_order()[0].name.clone());
        firsts.collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(firsts(&address).len(), 3);
    address.connected_to(&address.hosts[1]);
    assert!(!firsts(&address).contains("two"));
    assert_eq!(address.in_try_order()[2].name, "two");
    assert_eq!(address.in_try_order().len(), 3);
}

#[test]
fn tls_is_set_up_by_rabbitmqs_parameters() {
    let (address, uri) = only(
        "amqps://broker?cacertfile=/etc/a%20b/ca.pem&certfile=c.pem&keyfile=k+1.pem\
         &verify=verify_peer&server_name_indication=rabbit&auth_mechanism=EXTERNAL",
    );
    let tls = address.tls.expect("it is amqps:");
    assert_eq!(tls.authorities, Some("/etc/a b/ca.pem".into()));
    assert_eq!(tls.identity, Some(("c.pem".into(), "k+1.pem".into())));
    assert_eq!(tls.name.as_deref(), Some("rabbit"));
    assert_eq!(uri.query.auth_mechanism, Some(SASLMechanism::External));
}

#[test]
fn paths_are_relative_to_the_given_folder() {
    let folder = Path::new("/srv/a&b %");
    let url = "amqps://u:p@h/v?cacertfile=tls/ca%25.pem&heartbeat=5&keyfile=/k.pem";
    let resolved = resolve(url, folder);
    let resolved = resolved
        .strip_suffix("&heartbeat=5&keyfile=/k.pem")
        .unwrap();
    let (address, _) = only(resolved);
    let ca = address.tls.unwrap().authorities.unwrap();
    assert_eq!(ca, folder.join("tls/ca%.pem"));
    for url in [
        "amqps://h",
        "amqps://h?cacertfile=%zz",
        "amqps://h?cacertfile",
    ] {
        assert_eq!(resolve(url, folder), url);
    }
}

#[test]
fn errors_never_show_the_password() {
    for (url, expected) in [
        ("amqp:hunter2", "write amqp://"),
        ("hunter2", "write amqp://"),
        ("http://u:hunter2@broker", "write amqp://"),
        ("amqp://", "no host"),
        ("amqp:///vhost", "no host"),
        ("amqp://u:hunter2@", "no host"),
        ("amqp://u:hunter2@a,,b", "no host"),
        ("amqp://u:hunter2", "a port is a number"),
        ("amqp://u:hunter2@broker:port", "a port is a number"),
        ("amqp://u:hunter2@broker:0", "a port is a number"),
        ("amqp://u:hunter2@broker:65536", "a port is a number"),
        ("amqp://u:hunter2@::1", "no host"),
        ("amqp://u:hunter2@[::1", "in brackets"),
        ("amqp://u:hunter2/3@broker", "%40 %3A %2F"),
        ("amqp://u:hunter2?3@broker", "%40 %3A %2F"),
        ("amqp://u:2?hunter2@broker", "unknown parameter"),
        ("amqp://u:2/hunter2@broker", "%40 %3A %2F"),
        ("amqp://u:hunter2#3@broker", "%40 %3A %2F"),
        (
            "amqp://u:hunter2%@broker",
            "its password is not percent-encoded",
        ),
        (
            "amqp://u:hunter2%zz@broker",
            "its password is not percent-encoded",
        ),
        (
            "amqp://u:hunter2%ff@broker",
            "its password is not percent-encoded",
        ),
        ("amqp://u:hunter2@broker/a/b", "%2F"),
        (
            "amqp://u:hunter2@broker?heartbeat=often",
            "heartbeat must be a number",
        ),
        ("amqp://u:hunter2@broker?heartbeat=0", "from 1 to 65535"),
        ("amqp://u:hunter2@broker?heartbeat=", "has no value"),
        (
            "amqp://u:hunter2@broker?heartbeat=1&heartbeat=2",
            "given twice",
        ),
        (
            "amqp://u:hunter2@broker?hartbeat=10",
            "no parameter \"hartbeat\"",
        ),
        (
            "amqp://u:hunter2@broker?cacertfile=ca.pem",
            "write amqps://",
        ),
        (
            "amqps://u:hunter2@broker?verify=verify_none",
            "verify_none is refused",
        ),
        ("amqps://u:hunter2@broker?verify=maybe", "verify_peer"),
        ("amqps://u:hunter2@broker?certfile=c.pem", "needs keyfile"),
        ("amqps://u:hunter2@broker?keyfile=k.pem", "needs certfile"),
        (
            "amqps://u:hunter2@broker?server_name_indication=disable",
            "refused",
        ),
        (
            "amqps://u:hunter2@broker?auth_mechanism=external",
            "needs amqps: with certfile",
        ),
        (
            "amqp://u:hunter2@broker?auth_mechanism=magic",
            "plain, amqplain or external",
        ),
    ] {
        let Err(why) = parse(url) else {
            panic!("{url} is accepted")
        };
        assert!(why.contains(expected), "{url}: {why}");
        assert!(!why.contains("hunter2"), "{why}");
    }
}
