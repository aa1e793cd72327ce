//! Where the daemon may connect to: which hosts a source, a store or an embedder may name.
//! Called by every engine that opens a connection to an address out of a request; it resolves a
//! name once and hands back the addresses it checked, so that what is checked is what is dialled.
//! Never connects, never caches, and never says why an address was refused.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use url::Url;

/// Which endpoints may be reached. Public addresses always may; private ones only by name.
#[derive(Debug, Clone, Default)]
pub struct EgressPolicy {
    /// `host:port` pairs that may be reached whatever their address is.
    pub allow: Vec<String>,
    /// Whether every port of the loopback addresses may be reached.
    pub allow_loopback: bool,
}

/// A host and port whose spelling is checked: lower case, no brackets, no trailing dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A DNS name, or an address in its one canonical spelling.
    pub host: String,
    /// The TCP port.
    pub port: u16,
}

/// Why an endpoint may not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// The host or URL is not spelled in a way that is accepted.
    #[error("the address is not accepted: {reason}")]
    Malformed {
        /// What is wrong with the spelling.
        reason: &'static str,
    },
    /// Not resolvable, or not allowed; deliberately the same text as for a closed port.
    #[error("`{endpoint}` is unreachable or not allowed")]
    Refused {
        /// `host:port` as the caller named it.
        endpoint: String,
    },
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl EgressPolicy {
    /// Checks the spelling of a host and, when it is an address, the address.
    ///
    /// # Errors
    /// [`EgressError::Malformed`] for a spelling that resolvers read differently (octal, hex, short
    /// or decimal addresses, non-ASCII names), [`EgressError::Refused`] for an address not allowed.
    pub fn endpoint(&self, host: &str, port: u16) -> Result<Endpoint, EgressError> {
        let endpoint = Endpoint {
            host: canonical_host(host)?,
            port,
        };
        if let Ok(address) = endpoint.host.parse::<IpAddr>()
            && !self.allows(&endpoint, address)
        {
            return Err(refused(&endpoint));
        }
        Ok(endpoint)
    }

    /// Checks an `https` URL, or an `http` one whose `host:port` is on the allow list.
    ///
    /// # Errors
    /// [`EgressError::Malformed`] for another scheme, user information or no host; else as
    /// [`EgressPolicy::endpoint`].
    pub fn endpoint_of_url(&self, url: &str) -> Result<Endpoint, EgressError> {
        let url = Url::parse(url).map_err(|_| malformed("not a URL"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(malformed("a URL may not hold a user or password"));
        }
        let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
            return Err(malformed("the URL names no host"));
        };
        let endpoint = self.endpoint(host, port)?;
        match url.scheme() {
            "https" => Ok(endpoint),
            "http" if self.names(&endpoint) || self.is_open_loopback(&endpoint) => Ok(endpoint),
            "http" => Err(malformed(
                "`http` is only for hosts on the egress allow list",
            )),
            _ => Err(malformed("the scheme must be `https`")),
        }
    }

    /// Resolves an endpoint once and checks every address it has.
    ///
    /// Connect to the addresses returned and to no others: resolving again may give other ones.
    ///
    /// # Errors
    /// [`EgressError::Refused`] when it does not resolve, or when one of its addresses is not allowed.
    pub async fn resolve(&self, endpoint: &Endpoint) -> Result<Vec<SocketAddr>, EgressError> {
        let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port))
            .await
            .map_err(|_| refused(endpoint))?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !self.allows(endpoint, address.ip()) {
                return Err(refused(endpoint));
            }
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            Err(refused(endpoint))
        } else {
            Ok(addresses)
        }
    }

    fn allows(&self, endpoint: &Endpoint, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let literal = Endpoint {
            host: address.to_string(),
            port: endpoint.port,
        };
        is_public(address)
            || (self.allow_loopback && address.is_loopback())
            || self.names(endpoint)
            || self.names(&literal)
    }

    fn is_open_loopback(&self, endpoint: &Endpoint) -> bool {
        let loopback = endpoint.host == "localhost"
            || endpoint
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.to_canonical().is_loopback());
        self.allow_loopback && loopback
    }

    fn names(&self, endpoint: &Endpoint) -> bool {
        self.allow.iter().any(|entry| {
            let Some((host, port)) = entry.rsplit_once(':') else {
                return false;
            };
            port.parse() == Ok(endpoint.port)
                && canonical_host(host).is_ok_and(|host| host == endpoint.host)
        })
    }
}

fn malformed(reason: &'static str) -> EgressError {
    EgressError::Malformed { reason }
}

fn refused(endpoint: &Endpoint) -> EgressError {
    EgressError::Refused {
        endpoint: endpoint.to_string(),
    }
}

/// One spelling a host: whoever reads it after us must not read another address out of it.
fn canonical_host(host: &str) -> Result<String, EgressError> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'));
    if let Some(inner) = bare {
        let address: Ipv6Addr = inner
            .parse()
            .map_err(|_| malformed("not an IPv6 address in the brackets"))?;
        return Ok(address.to_string());
    }
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    if name.is_empty() || name.len() > 253 {
        return Err(malformed("the host is empty or too long"));
    }
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if !name.split('.').all(label_ok) {
        return Err(malformed(
            "a host is one DNS name of ASCII letters, digits, `-` and `.`",
        ));
    }
    // The rule of the URL standard: a name whose last label is a number is an IPv4 address, and
    // the only such spelling accepted here, four plain decimals, was taken above.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last
        .strip_prefix("0x")
        .is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if hex || last.bytes().all(|b| b.is_ascii_digit()) {
        return Err(malformed(
            "an IPv4 address is written as four decimal numbers",
        ));
    }
    Ok(name)
}

/// Whether an address belongs to the public internet (IANA special-purpose registries, and the
/// addresses on which clouds serve credentials).
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, d] = address.octets();
    let special = match a {
        0 | 10 | 127 | 224..=255 => true,
        100 => (64..128).contains(&b),
        168 => (b, c, d) == (63, 129, 16),
        169 => b == 254,
        172 => (16..32).contains(&b),
        192 => b == 168 || (b == 0 && (c == 0 || c == 2)) || (b == 88 && c == 99),
        198 => b == 18 || b == 19 || (b == 51 && c == 100),
        203 => b == 0 && c == 113,
        _ => false,
    };
    !special
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let s = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match s {
        // NAT64 and 6to4 lead to the IPv4 address inside them.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => embedded(high, low),
        // Protocol assignments (Teredo and ORCHID among them) and documentation.
        [0x2001, second, ..] if second < 0x0200 || second == 0x0db8 => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // Of all the rest only 2000::/3 is global unicast.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIVATE: &[&str] = &[
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
    const ODD: &[&str] = &[
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
}
