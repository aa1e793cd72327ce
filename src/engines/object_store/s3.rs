//! Opening an S3-compatible store: its address, its credentials, and a client that connects only to
//! addresses that the egress policy lets through, follows no redirect and asks no cloud for
//! credentials. Contacts nobody by itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use object_store::{
    BackoffConfig, ClientOptions, ObjectStore, RetryConfig,
    aws::{AmazonS3Builder, S3ConditionalPut},
    client::{HttpClient, HttpConnector},
    path::Path,
    prefix::PrefixStore,
};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Url;

use super::{BucketError, registry::S3Keys};
use crate::engines::egress::{EgressPolicy, Endpoint};

/// How long a connection may take to come about.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Attempts after the first.
const RETRIES_MAX: usize = 3;

/// Where an S3 bucket is and how it is spoken to.
#[derive(Debug, Clone, Copy)]
pub struct S3Place<'a> {
    /// `s3://bucket/prefix`, or `https://endpoint/bucket/prefix`.
    pub url: &'a str,
    /// Its region.
    pub region: Option<&'a str>,
    /// Whether the bucket stands in the path; in the host otherwise.
    pub path_style: bool,
    /// Its credentials; requests are not signed without.
    pub keys: Option<&'a S3Keys>,
}

/// What an S3 address says.
#[derive(Debug)]
struct Address {
    endpoint: String,
    bucket: String,
    prefix: String,
}

impl Address {
    fn parse(place: &S3Place<'_>) -> Result<Self, String> {
        let url = Url::parse(place.url).map_err(|_| "the address is malformed".to_owned())?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("the address may not hold a user or password".to_owned());
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("the address may not have a query or a fragment".to_owned());
        }
        let host = url.host_str().unwrap_or_default();
        let path = url.path().trim_matches('/');
        let (scheme, authority, bucket, prefix) = match url.scheme() {
            "s3" => {
                let region = place.region.unwrap_or("us-east-1");
                let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
                if !region.chars().all(plain) {
                    return Err("the region is not one".to_owned());
                }
                ("https", format!("s3.{region}.amazonaws.com"), host, path)
            }
            scheme @ ("http" | "https") => {
                let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
                let port = url.port().map(|port| format!(":{port}"));
                (
                    scheme,
                    format!("{host}{}", port.unwrap_or_default()),
                    bucket,
                    prefix,
                )
            }
            other => return Err(format!("`{other}` is neither `s3` nor `https`")),
        };
        if bucket.is_empty() {
            return Err("the address names no bucket".to_owned());
        }
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if !bucket.chars().all(good) || bucket.contains("..") {
            return Err("the bucket's name is none that a store takes".to_owned());
        }
        let endpoint = if place.path_style {
            format!("{scheme}://{authority}")
        } else {
            format!("{scheme}://{bucket}.{authority}")
        };
        Ok(Self {
            endpoint,
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        })
    }
}

/// Opens the bucket. Puts are conditional. A request may wait for its answer for `timeout`, and is tried
/// again until then.
///
/// # Errors
/// [`BucketError::BadSpec`] when the address names no bucket or the policy does not let it through.
pub fn open(
    name: &str,
    place: &S3Place<'_>,
    policy: &EgressPolicy,
    timeout: Duration,
) -> Result<Arc<dyn ObjectStore>, BucketError> {
    let bad = |reason: String| BucketError::BadSpec {
        name: name.to_owned(),
        reason,
    };
    let address = Address::parse(place).map_err(bad)?;
    let endpoint = policy
        .endpoint_of_url(&address.endpoint)
        .map_err(|error| bad(error.to_string()))?;
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&address.bucket)
        .with_region(place.region.unwrap_or("us-east-1"))
        .with_endpoint(&address.endpoint)
        .with_virtual_hosted_style_request(!place.path_style)
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_allow_http(address.endpoint.starts_with("http://"))
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(50),
                max_backoff: Duration::from_secs(1),
                base: 2.0,
            },
            max_retries: RETRIES_MAX,
            retry_timeout: timeout,
        })
        .with_http_connector(GuardedConnector {
            policy: policy.clone(),
            endpoint,
            timeout,
        });
    builder = match place.keys {
        Some(keys) => {
            let builder = builder
                .with_access_key_id(&keys.access_key_id)
                .with_secret_access_key(&keys.secret_access_key);
            match &keys.session_token {
                Some(token) => builder.with_token(token),
                None => builder,
            }
        }
        // Without this, the client would ask the machine's cloud for credentials of its own.
        None => builder.with_skip_signature(true),
    };
    let store = builder
        .build()
        .map_err(|_| bad("the store cannot be opened with these settings".to_owned()))?;
    Ok(if address.prefix.is_empty() {
        Arc::new(store)
    } else {
        let prefix = Path::parse(&address.prefix)
            .map_err(|_| bad("the prefix is none that keys can have".to_owned()))?;
        Arc::new(PrefixStore::new(store, prefix))
    })
}

/// Makes the client that reaches one endpoint and no other.
#[derive(Debug, Clone)]
struct GuardedConnector {
    policy: EgressPolicy,
    endpoint: Endpoint,
    timeout: Duration,
}

impl HttpConnector for GuardedConnector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = reqwest::Client::builder()
            .dns_resolver(Arc::new(GuardedResolver(self.clone())))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(self.timeout)
            .build()
            .map_err(|source| object_store::Error::Generic {
                store: "S3",
                source: Box::new(source),
            })?;
        Ok(HttpClient::new(client))
    }
}

/// Why a name is not resolved, as the client wants it.
type Refusal = Box<dyn std::error::Error + Send + Sync>;

/// Gives the client the addresses that were checked, and no others.
struct GuardedResolver(GuardedConnector);

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let GuardedConnector {
            policy, endpoint, ..
        } = self.0.clone();
        Box::pin(async move {
            let asked = name.as_str().trim_end_matches('.');
            if !asked.eq_ignore_ascii_case(&endpoint.host) {
                return Err(Refusal::from("another host than the bucket's"));
            }
            let found: Vec<SocketAddr> = policy.resolve(&endpoint).await?;
            Ok::<Addrs, Refusal>(Box::new(found.into_iter()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(url: &str, allow: &[&str]) -> Result<(), BucketError> {
        let place = S3Place {
            url,
            region: None,
            path_style: true,
            keys: None,
        };
        let policy = EgressPolicy {
            allow: allow.iter().map(|entry| (*entry).to_owned()).collect(),
            allow_loopback: false,
        };
        open("s", &place, &policy, Duration::from_secs(20)).map(|_| ())
    }

    #[test]
    fn addresses_are_read_in_both_forms() {
        assert!(opened("s3://lake", &[]).is_ok());
        assert!(opened("s3://lake/a/b", &[]).is_ok());
        assert!(opened("https://store.example/lake/a", &[]).is_ok());
        for bad in [
            "store.example/lake",
            "ftp://store.example/lake",
            "https://store.example",
            "https://user:word@store.example/lake",
            "https://store.example/lake?versions",
            "https://store.example/lake/../other%2f..",
            "s3://la ke",
        ] {
            assert!(opened(bad, &[]).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_and_private_addresses_need_the_configuration() {
        assert!(opened("http://store.example/lake", &[]).is_err());
        assert!(opened("http://store.example/lake", &["store.example:80"]).is_ok());
        assert!(opened("http://127.0.0.1:9000/lake", &[]).is_err());
        assert!(opened("http://127.0.0.1:9000/lake", &["127.0.0.1:9000"]).is_ok());
        assert!(opened("https://169.254.169.254/lake", &[]).is_err());
    }
}
