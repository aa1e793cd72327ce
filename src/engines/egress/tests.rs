//! Spellings of addresses, many of them.

use super::*;

pub(super) const PRIVATE: &[&str] = &[
    "0.0.0.0",
    "10.0.0.1",
    "100.64.0.1",
    "100.100.100.200",
    "127.0.0.1",
    "127.255.255.254",
    "168.63.129.16",
    "169.254.169.254",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.1.1",
    "198.18.0.1",
    "198.51.100.7",
    "203.0.113.9",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "[::1]",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "[::ffff:10.0.0.1]",
    "0:0:0:0:0:ffff:169.254.169.254",
    "::127.0.0.1",
    "::7f00:1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "100::1",
    "2001::1",
    "2001:db8::1",
    "2001:10::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fec0::1",
    "ff02::1",
    "0000:0000:0000:0000:0000:0000:0000:0001",
];
pub(super) const ODD: &[&str] = &[
    "127.1",
    "127.0.1",
    "0",
    "1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.01",
    "0x0",
    "0X7F000001",
    "127.0.0.1.",
    "127.0.0.0x1",
    "10.0.0",
    "169.254.43518",
    "2852039166",
    "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "256.1.1.1",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
    "ｌocalhost",
    "example.com@127.0.0.1",
    "127.0.0.1#.example.com",
    "127.0.0.1 ",
    " 127.0.0.1",
    "127.0.0.1\t",
    "127.0.0.1%00.example.com",
    "example.com\0",
    "%31%32%37.0.0.1",
    "127.0.0.1/",
    "127.0.0.1:22",
    "[127.0.0.1]",
    "[::1",
    "::1]",
    "[::1%25lo]",
    "fe80::1%eth0",
    "a,b",
    "",
    ".",
    "..",
    "a..b",
    "-a.example",
    "a_b.-",
    "example.com\\@127.0.0.1",
    "/var/run/postgresql",
    "@abstract",
    "1.2.3.4.5",
    "example.0x7f",
    "example.123",
];
const PUBLIC: &[&str] = &[
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.0.1",
    "172.32.0.1",
    "192.0.1.1",
    "192.169.0.1",
    "198.17.0.1",
    "2606:4700:4700::1111",
    "[2a00:1450::1]",
    "64:ff9b::808:808",
    "2002:808:808::1",
    "2001:4860:4860::8888",
    "::ffff:8.8.8.8",
];

#[test]
fn special_addresses_are_refused_in_every_spelling() {
    let policy = EgressPolicy::default();
    for host in PRIVATE {
        let error = policy.endpoint(host, 5432).expect_err(host);
        assert!(
            error.to_string().ends_with("is unreachable or not allowed"),
            "{host}: {error}"
        );
    }
    for host in PUBLIC {
        policy.endpoint(host, 5432).expect(host);
    }
}

#[test]
fn odd_spellings_are_refused_whatever_they_stand_for() {
    let open = EgressPolicy {
        allow_loopback: true,
        ..EgressPolicy::default()
    };
    for host in ODD {
        let found = open.endpoint(host, 5432);
        assert!(
            matches!(found, Err(EgressError::Malformed { .. })),
            "{host:?}: {found:?}"
        );
    }
}

#[test]
fn only_the_exact_host_and_port_on_the_list_are_let_through() {
    let allow = vec!["10.0.0.5:5432".to_owned(), "[fd00::5]:5432".to_owned()];
    let policy = EgressPolicy {
        allow,
        allow_loopback: false,
    };
    policy.endpoint("10.0.0.5", 5432).expect("listed");
    policy
        .endpoint("fd00:0::5", 5432)
        .expect("listed, in another spelling");
    policy
        .endpoint("::ffff:10.0.0.5", 5432)
        .expect("the same address");
    policy.endpoint("10.0.0.5", 5433).expect_err("another port");
    policy.endpoint("10.0.0.6", 5432).expect_err("another host");
    policy.endpoint("127.0.0.1", 5432).expect_err("loopback");
}

#[tokio::test]
async fn a_name_is_checked_by_every_address_it_resolves_to() {
    let closed = EgressPolicy::default();
    let named = closed
        .endpoint("LOCALHOST.", 5432)
        .expect("a well spelled name");
    assert_eq!(named.host, "localhost");
    closed.resolve(&named).await.expect_err("it is loopback");
    let open = EgressPolicy {
        allow_loopback: true,
        ..EgressPolicy::default()
    };
    let addresses = open.resolve(&named).await.expect("loopback is open");
    assert!(
        addresses
            .iter()
            .all(|address| address.ip().is_loopback() && address.port() == 5432)
    );
    let listed = EgressPolicy {
        allow: vec!["localhost:5432".into()],
        allow_loopback: false,
    };
    listed.resolve(&named).await.expect("listed by name");
}

#[tokio::test]
async fn a_name_that_does_not_exist_reads_like_one_that_is_not_allowed() {
    let policy = EgressPolicy::default();
    let gone = policy
        .endpoint("no-such-host.invalid", 5432)
        .expect("well spelled");
    let gone = policy
        .resolve(&gone)
        .await
        .expect_err("not resolvable")
        .to_string();
    let hidden = policy
        .endpoint("10.0.0.1", 5432)
        .expect_err("private")
        .to_string();
    assert_eq!(
        gone.replace("no-such-host.invalid", "H"),
        hidden.replace("10.0.0.1", "H")
    );
}

#[test]
fn a_url_needs_https_unless_its_host_is_listed() {
    let policy = EgressPolicy {
        allow: vec!["127.0.0.1:9000".into()],
        allow_loopback: false,
    };
    let endpoint = policy
        .endpoint_of_url("https://s3.example.com/bucket")
        .expect("public");
    assert_eq!(
        (endpoint.host.as_str(), endpoint.port),
        ("s3.example.com", 443)
    );
    policy
        .endpoint_of_url("http://127.0.0.1:9000")
        .expect("listed");
    for refused in [
        "http://s3.example.com",
        "http://127.0.0.1:9001",
        "https://127.0.0.1",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "ftp://example.com",
        "file:///etc/passwd",
        "gopher://example.com",
        "https://user@example.com",
        "https://example.com@127.0.0.1/",
        "https://example.com:x@10.0.0.1/",
        "//example.com",
        "",
        "https://①②⑦.0.0.1/",
        "https://127。0。0。1/",
        "http://127.1:9001",
        "unix:/run/x",
    ] {
        assert!(policy.endpoint_of_url(refused).is_err(), "{refused}");
    }
}
