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
    let embedded =
        |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
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
mod tests;
#[cfg(test)]
mod tripwire;
