//! Connection strings: libpq's URL form and its `key=value` form, read strictly.
//! Called by `PostgresSource::parse`. Anything that would reach past the named host (socket paths,
//! services, password and key files, server options) is refused by name; nothing is taken from the
//! environment, from files or from the operating system's user.

use std::fmt;
use std::time::Duration;

use tokio_postgres::config::{ChannelBinding, SslMode};
use url::Url;

use super::error::PostgresError;

/// A password that no `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Password(String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl Password {
    /// The bytes to authenticate with; for the driver only.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

/// How far TLS is demanded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tls {
    /// Never.
    Disable,
    /// When the server offers it; the certificate is not verified, as libpq does not.
    Prefer,
    /// Always; the certificate is not verified, as libpq does not without a root file.
    Require,
    /// Always; the certificate must chain to a root of the system and name the host.
    VerifyFull,
}

impl Tls {
    /// What the driver is told.
    pub(super) fn driver_mode(self) -> SslMode {
        match self {
            Self::Disable => SslMode::Disable,
            Self::Prefer => SslMode::Prefer,
            Self::Require | Self::VerifyFull => SslMode::Require,
        }
    }
}

/// A connection string in parts. The host is as written: the egress policy checks its spelling.
#[derive(Debug, Clone)]
pub(super) struct Dsn {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<Password>,
    pub(super) database: String,
    pub(super) tls: Tls,
    pub(super) channel_binding: ChannelBinding,
    pub(super) application_name: Option<String>,
    pub(super) connect_timeout: Option<Duration>,
}

/// Reads a connection string.
///
/// # Errors
/// [`PostgresError::Dsn`], which names parameters but never a value.
pub(super) fn parse(text: &str) -> Result<Dsn, PostgresError> {
    if text.contains('\0') {
        return Err(dsn_error("it holds a NUL character"));
    }
    let mut parts = Parts::default();
    if text.starts_with("postgres://") || text.starts_with("postgresql://") {
        read_url(text, &mut parts)?;
    } else if text.contains("://") && !text.contains('=') {
        return Err(dsn_error("the scheme must be `postgres` or `postgresql`"));
    } else {
        read_pairs(text, &mut parts)?;
    }
    parts.finish()
}

fn dsn_error(reason: impl Into<String>) -> PostgresError {
    PostgresError::Dsn {
        reason: reason.into(),
    }
}

#[derive(Default)]
struct Parts {
    values: std::collections::BTreeMap<&'static str, String>,
}

/// The parameters that are understood; every other one is refused.
const KNOWN: [&str; 11] = [
    "host",
    "port",
    "user",
    "password",
    "dbname",
    "sslmode",
    "sslrootcert",
    "channel_binding",
    "application_name",
    "connect_timeout",
    "target_session_attrs",
];

/// Parameters of libpq that are refused.
const REFUSED: [&str; 24] = [
    "service",
    "servicefile",
    "passfile",
    "options",
    "hostaddr",
    "sslkey",
    "sslcert",
    "sslpassword",
    "sslcrl",
    "sslcrldir",
    "sslcertmode",
    "sslsni",
    "sslcompression",
    "sslnegotiation",
    "requiressl",
    "requirepeer",
    "require_auth",
    "replication",
    "krbsrvname",
    "gsslib",
    "gssencmode",
    "load_balance_hosts",
    "client_encoding",
    "fallback_application_name",
];

impl Parts {
    fn set(&mut self, key: &str, value: String) -> Result<(), PostgresError> {
        let Some(known) = KNOWN.iter().find(|known| **known == key) else {
            // An unknown word may be a piece of an unquoted password: only libpq's own are named.
            let reason = match REFUSED.iter().find(|refused| **refused == key) {
                Some(refused) => format!("parameter `{refused}` is not supported here"),
                None => "it has an unknown parameter (a value with spaces needs quotes)".to_owned(),
            };
            return Err(dsn_error(reason));
        };
        match self.values.insert(known, value) {
            None => Ok(()),
            Some(_) => Err(dsn_error(format!("parameter `{known}` is given twice"))),
        }
    }

    fn take(&mut self, key: &str) -> Option<String> {
        self.values.remove(key).filter(|value| !value.is_empty())
    }

    fn finish(mut self) -> Result<Dsn, PostgresError> {
        let host = self
            .take("host")
            .ok_or_else(|| dsn_error("it names no host"))?;
        let port = match self.take("port") {
            None => 5432,
            Some(port) => match port.parse() {
                Ok(port) if port > 0 => port,
                _ => return Err(dsn_error("`port` must be one number from 1 to 65535")),
            },
        };
        let user = self
            .take("user")
            .ok_or_else(|| dsn_error("it names no user"))?;
        match self.take("target_session_attrs").as_deref() {
            None | Some("any") => {}
            Some(_) => return Err(dsn_error("`target_session_attrs` can only be `any`")),
        }
        Ok(Dsn {
            host,
            port,
            database: self.take("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: self.take("password").map(Password),
            tls: self.tls()?,
            channel_binding: self.channel_binding()?,
            application_name: self.take("application_name"),
            connect_timeout: self.connect_timeout()?,
        })
    }

    fn tls(&mut self) -> Result<Tls, PostgresError> {
        let system_roots = match self.take("sslrootcert").as_deref() {
            None => false,
            Some("system") => true,
            Some(_) => {
                return Err(dsn_error(
                    "`sslrootcert` can only be `system`: no file is read",
                ));
            }
        };
        match (self.take("sslmode").as_deref(), system_roots) {
            (Some("verify-full"), _) | (None, true) => Ok(Tls::VerifyFull),
            (Some(_), true) => Err(dsn_error(
                "`sslrootcert=system` needs `sslmode=verify-full`",
            )),
            (Some("disable"), false) => Ok(Tls::Disable),
            (None | Some("prefer"), false) => Ok(Tls::Prefer),
            (Some("require"), false) => Ok(Tls::Require),
            (Some(_), false) => Err(dsn_error(
                "`sslmode` must be `disable`, `prefer`, `require` or `verify-full`",
            )),
        }
    }

    fn channel_binding(&mut self) -> Result<ChannelBinding, PostgresError> {
        match self.take("channel_binding").as_deref() {
            None | Some("prefer") => Ok(ChannelBinding::Prefer),
            Some("disable") => Ok(ChannelBinding::Disable),
            Some("require") => Ok(ChannelBinding::Require),
            Some(_) => Err(dsn_error(
                "`channel_binding` must be `disable`, `prefer` or `require`",
            )),
        }
    }

    fn connect_timeout(&mut self) -> Result<Option<Duration>, PostgresError> {
        let Some(text) = self.take("connect_timeout") else {
            return Ok(None);
        };
        match text.parse::<u32>() {
            Ok(0) => Ok(None),
            Ok(seconds) => Ok(Some(Duration::from_secs(seconds.into()))),
            Err(_) => Err(dsn_error("`connect_timeout` must be a number of seconds")),
        }
    }
}

fn read_url(text: &str, parts: &mut Parts) -> Result<(), PostgresError> {
    let url = Url::parse(text).map_err(|_| {
        dsn_error(
            "it is not a URL (`@ : / ? #` in a user or password are written `%40 %3A %2F %3F %23`)",
        )
    })?;
    if url.fragment().is_some() {
        return Err(dsn_error("a `#` in it must be written `%23`"));
    }
    if let Some(host) = url.host_str().filter(|host| !host.is_empty()) {
        parts.set("host", percent_decoded(host)?)?;
    }
    if let Some(port) = url.port() {
        parts.set("port", port.to_string())?;
    }
    if !url.username().is_empty() {
        parts.set("user", percent_decoded(url.username())?)?;
    }
    if let Some(password) = url.password() {
        parts.set("password", percent_decoded(password)?)?;
    }
    let path = url.path().strip_prefix('/').unwrap_or_default();
    if path.contains('/') {
        return Err(dsn_error("the path is one database name"));
    }
    if !path.is_empty() {
        parts.set("dbname", percent_decoded(path)?)?;
    }
    for pair in url
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty())
    {
        let (key, value) = pair
            .split_once('=')
            .ok_or_else(|| dsn_error("a parameter has no `=`"))?;
        parts.set(&percent_decoded(key)?, percent_decoded(value)?)?;
    }
    Ok(())
}

/// libpq's percent decoding: no `+` for a space, no NUL.
fn percent_decoded(text: &str) -> Result<String, PostgresError> {
    let bad = || dsn_error("a `%` must be followed by two hexadecimal digits");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || {
            rest.next()
                .and_then(|b| char::from(b).to_digit(16))
                .ok_or_else(bad)
        };
        let value = digit()? * 16 + digit()?;
        match u8::try_from(value) {
            Ok(0) | Err(_) => return Err(bad()),
            Ok(byte) => bytes.push(byte),
        }
    }
    String::from_utf8(bytes).map_err(|_| dsn_error("it is not UTF-8 when decoded"))
}

fn read_pairs(text: &str, parts: &mut Parts) -> Result<(), PostgresError> {
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest
            .split_once('=')
            .ok_or_else(|| dsn_error("expected `postgres://…` or `key=value` pairs"))?;
        let (value, after) = read_value(after.trim_start())?;
        parts.set(key.trim(), value)?;
        rest = after.trim_start();
    }
    Ok(())
}

/// One value and what follows it: bare up to white space, or in single quotes; `\` takes the next
/// character as it is.
fn read_value(text: &str) -> Result<(String, &str), PostgresError> {
    let quoted = text.starts_with('\'');
    let body = text.strip_prefix('\'').unwrap_or(text);
    let mut value = String::new();
    let mut characters = body.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            '\'' if quoted => return Ok((value, &body[at + 1..])),
            c if c.is_whitespace() && !quoted => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted {
        Err(dsn_error("a quote is not closed"))
    } else {
        Ok((value, ""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_say_the_same() {
        for text in [
            "postgres://reader:p%40ss%20%27w@db.example.com:6543/sales?sslmode=verify-full",
            "postgresql://db.example.com:6543/sales?user=reader&password=p@ss%20'w&sslrootcert=system",
            r"host=db.example.com port = 6543 user=reader password='p@ss \'w' dbname=sales sslmode=verify-full",
            r"user=reader password=p@ss\ \'w dbname='sales' host=db.example.com port=6543 sslmode='verify-full'",
        ] {
            let dsn = parse(text).expect(text);
            assert_eq!(
                (dsn.host.as_str(), dsn.port),
                ("db.example.com", 6543),
                "{text}"
            );
            assert_eq!(
                (dsn.user.as_str(), dsn.database.as_str()),
                ("reader", "sales"),
                "{text}"
            );
            assert_eq!(
                dsn.password.as_ref().map(Password::expose),
                Some("p@ss 'w"),
                "{text}"
            );
            assert_eq!(dsn.tls, Tls::VerifyFull, "{text}");
        }
    }

    #[test]
    fn what_is_left_out_is_libpqs_default() {
        let dsn = parse("postgres://reader@[2606:4700::1]").expect("a short one");
        assert_eq!((dsn.host.as_str(), dsn.port), ("[2606:4700::1]", 5432));
        assert_eq!((dsn.database.as_str(), dsn.tls), ("reader", Tls::Prefer));
        assert!(dsn.password.is_none() && dsn.connect_timeout.is_none());
        let dsn = parse("host=h user=u connect_timeout=3 channel_binding=require").expect("pairs");
        assert_eq!(dsn.connect_timeout, Some(Duration::from_secs(3)));
        assert_eq!(dsn.channel_binding, ChannelBinding::Require);
    }

    #[test]
    fn what_reaches_past_the_host_is_refused_by_name() {
        for (parameter, value) in [
            ("service", "s"),
            ("servicefile", "/f"),
            ("passfile", "/f"),
            ("options", "-c a=b"),
            ("sslkey", "/f"),
            ("sslcert", "/f"),
            ("sslpassword", "x"),
            ("sslcrl", "/f"),
            ("hostaddr", "127.0.0.1"),
            ("krbsrvname", "x"),
            ("gssencmode", "prefer"),
            ("requiressl", "1"),
            ("replication", "database"),
            ("fallback_application_name", "x"),
        ] {
            let url = format!(
                "postgres://u:hunter2@db.example.com/d?{parameter}={}",
                value.replace(' ', "%20")
            );
            let pairs =
                format!("host=db.example.com user=u password=hunter2 {parameter}='{value}'");
            for text in [url, pairs] {
                let error = parse(&text).expect_err(&text).to_string();
                assert!(error.contains(&format!("`{parameter}`")), "{error}");
                assert!(!error.contains("hunter2"), "{error}");
            }
        }
    }

    #[test]
    fn a_connection_string_that_cannot_be_meant_is_refused_without_its_values() {
        for text in [
            "",
            "hunter2",
            "mysql://u:hunter2@h/d",
            "postgres://",
            "postgres://u:hunter2@/d",
            "postgres://h/d",
            "postgres://u:hunter2@h:0/d",
            "postgres://u:hunter2@h:99999/d",
            "postgres://u:hunter2@h/d/e",
            "postgres://u:hunter2@h/d#f",
            "postgres://u:hunter2%zz@h/d",
            "postgres://u:hunter2%00@h/d",
            "postgres://u:hunter2@h/d?sslmode=allow",
            "postgres://u:hunter2@h/d?sslmode=verify-ca",
            "postgres://u:hunter2@h/d?sslmode=hunter2",
            "postgres://u:hunter2@h/d?sslrootcert=/etc/passwd",
            "postgres://u:hunter2@h/d?sslrootcert=system&sslmode=require",
            "postgres://u:hunter2@h/d?host=evil",
            "postgres://u:hunter2@h/d?user=v",
            "postgres://u:hunter2@h/d?sslmode",
            "host=h user=u password='hunter2",
            "host=h user=u password=hunter2 host=evil",
            "host=h password=hunter2",
            "user=u password=hunter2",
            "host=h user=u port=hunter2",
            "host=h user=u connect_timeout=hunter2",
            "host=h user=u\0password=hunter2",
            "host=h user=u password=hunter2 target_session_attrs=read-write",
            "hunter2=hunter2 host=h",
            "password=my hunter2 host=h user=u",
            "password=my hunter2=x host=h user=u",
        ] {
            let error = parse(text).expect_err(text);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunter2"), "{text:?}: {shown}");
        }
    }

    #[test]
    fn a_parsed_connection_string_never_shows_its_password() {
        let dsn = parse("postgres://u:hunter2@h/d").expect("well formed");
        assert!(!format!("{dsn:?} {dsn:#?}").contains("hunter2"));
        assert!(format!("{dsn:?}").contains("***"));
    }
}
