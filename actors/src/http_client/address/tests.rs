use super::*;

fn list(entries: &[&str]) -> AllowList {
    let entries: Vec<String> = entries.iter().map(|entry| (*entry).to_owned()).collect();
    AllowList::parse(&entries).unwrap()
}

fn admits(list: &AllowList, url: &str) -> bool {
    list.check_url(&Url::parse(url).unwrap()).is_ok()
}

#[test]
fn a_host_is_allowed_by_scheme_name_and_port() {
    for (entry, url, expected) in [
        ("api.example.com", "https://api.example.com/x?y", true),
        ("api.example.com", "https://API.Example.com.:443/", true),
        ("api.example.com", "http://api.example.com/", false),
        ("api.example.com", "https://api.example.com:8443/", false),
        (
            "api.example.com",
            "https://api.example.com.evil.com/",
            false,
        ),
        ("api.example.com", "https://evil.com/api.example.com", false),
        (
            "api.example.com:8443",
            "https://api.example.com:8443/",
            true,
        ),
        ("api.example.com:8443", "https://api.example.com/", false),
        ("api.example.com:*", "https://api.example.com:1/", true),
        ("http://api.example.com", "http://api.example.com/", true),
        ("http://api.example.com", "https://api.example.com/", false),
        ("*.example.com", "https://a.b.example.com/", true),
        ("*.example.com", "https://example.com/", false),
        ("*.example.com", "https://badexample.com/", false),
        ("*", "https://anything.example/", true),
        ("*", "http://anything.example/", false),
        ("*", "https://127.0.0.1/", false),
        ("*", "https://[::1]/", false),
        ("bücher.example", "https://xn--bcher-kva.example/", true),
        ("10.1.2.3:8080", "http://10.1.2.3:8080/", true),
        ("10.1.2.3", "http://10.1.2.4/", false),
        ("[fd00::1]:80", "http://[fd00:0::1]/", true),
        ("fd00::1", "https://[fd00:0::1]/", true),
        ("10.0.0.0/8", "http://10.200.0.1:9000/", true),
        ("10.0.0.0/8", "http://11.0.0.1:9000/", false),
        ("localhost:8080", "http://localhost:8080/", true),
        ("localhost", "http://127.0.0.1/", true),
    ] {
        assert_eq!(admits(&list(&[entry]), url), expected, "{entry} {url}");
    }
}

#[test]
fn every_spelling_of_a_private_address_is_refused() {
    let open = list(&["*", "http://*", "example.com"]);
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.01",
        "127.1",
        "127.0.0.1.",
        "①②⑦.0.0.1",
        "0",
        "10.0.0.1",
        "172.31.255.255",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::ffff:7f00:1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b::10.0.0.1]",
        "[2002:7f00:1::]",
        "[2002:a00:1::1]",
        "[2001:0:7f00:1::]",
        "[fd00::1]",
        "[fe80::1]",
        "[ff02::1]",
    ] {
        for scheme in ["http", "https"] {
            let url = format!("{scheme}://{host}/");
            assert!(!admits(&open, &url), "{url}");
        }
    }
    for host in ["8.8.8.8", "[2606:4700::1111]", "[64:ff9b::808:808]"] {
        assert!(admits(&open, &format!("https://{host}/")), "{host}");
    }
}

#[test]
fn a_resolved_address_must_be_public_or_named() {
    let names = list(&["internal.example.com", "*", "10.0.0.0/8", "[::1]:80"]);
    for (address, expected) in [
        ("8.8.8.8", true),
        ("10.9.9.9", true),
        ("::ffff:10.9.9.9", true),
        ("::1", true),
        ("127.0.0.1", false),
        ("192.168.1.1", false),
        ("::ffff:192.168.1.1", false),
        ("fd00::1", false),
    ] {
        let address: IpAddr = address.parse().unwrap();
        assert_eq!(names.admits_address(address), expected, "{address}");
    }
}

#[test]
fn user_info_and_other_schemes_are_refused() {
    let open = list(&["*", "http://*"]);
    for (url, expected) in [
        ("https://a:b@api.example.com/", "use auth"),
        ("https://api.example.com@evil.com/", "use auth"),
        ("ftp://api.example.com/", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
    ] {
        let error = open.check_url(&Url::parse(url).unwrap()).unwrap_err();
        assert!(error.contains(expected), "{url}: {error}");
    }
    assert!(!admits(&AllowList::default(), "https://example.com/"));
}

#[test]
fn a_wrong_entry_is_named() {
    for entry in [
        "",
        "ftp://x",
        "a b",
        "x:port",
        "x/path",
        "10.0.0.0/33",
        "*.1.2.3.4",
        "*.",
    ] {
        let entries = ["good.example".to_owned(), entry.to_owned()];
        let (index, text) = AllowList::parse(&entries).unwrap_err();
        assert_eq!(index, 1, "{text}");
    }
}
