//! What a valid configuration is, beyond keys and types.
//! A setting that this version does not carry out is refused here with a clear sentence: an ignored
//! one would be a promise not kept.

use std::{collections::BTreeMap, str::FromStr};

use lakehouse_journal::model::error::check_name;

use super::{Backend, BucketConfig, ByteSize, Config, ConfigError};

/// Less than this and no query with a join or a sort can run.
const QUERY_MEMORY_MIN: ByteSize = ByteSize::mib(64);

impl Config {
    /// Checks what types cannot say.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] for a value that makes no sense; it names the key.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_storage()?;
        if self.query.memory_limit < QUERY_MEMORY_MIN {
            let reason = format!("at least {QUERY_MEMORY_MIN} is needed");
            return invalid("query.memory_limit", reason);
        }
        must_be_positive("query.timeout_s", self.query.timeout_s)?;
        self.auth.validate()?;
        self.limits.validate()?;
        must_be_positive("ingest.body_limit", self.ingest.body_limit.0)?;
        self.validate_embedding()?;
        self.egress
            .allow
            .iter()
            .try_for_each(|entry| check_endpoint(entry))?;
        tracing_subscriber::EnvFilter::try_new(&self.log.level)
            .map(drop)
            .or_else(|e| invalid("log.level", e.to_string()))
    }

    fn validate_storage(&self) -> Result<(), ConfigError> {
        let storage = &self.storage;
        must_be_positive("storage.orphan_grace_s", storage.orphan_grace_s)?;
        must_be_positive("storage.request_timeout_s", storage.request_timeout_s)?;
        if let Err(e) = cron::Schedule::from_str(&storage.orphan_sweep) {
            let reason = format!("not a cron line with seconds such as \"0 17 * * * *\": {e}");
            return invalid("storage.orphan_sweep", reason);
        }
        let mut roots = BTreeMap::new();
        let mut names = BTreeMap::new();
        for (n, bucket) in storage.buckets.iter().enumerate() {
            let key = format!("storage.buckets[{n}]");
            if names.insert(&bucket.name, n).is_some() {
                let reason = format!("the name `{}` is taken", bucket.name);
                return invalid(&format!("{key}.name"), reason);
            }
            bucket.validate(&key)?;
            self.validate_rescue(&key, bucket)?;
            if bucket.backend == Backend::S3 {
                continue;
            }
            let root = bucket.local_root(&self.data_dir);
            if let Some(other) = roots.insert(root, &bucket.name) {
                let reason = format!("bucket `{other}` is in the same directory");
                return invalid(&format!("{key}.root"), reason);
            }
        }
        if !names.contains_key(&storage.primary) {
            let known: Vec<&str> = storage.buckets.iter().map(|b| b.name.as_str()).collect();
            let reason = format!(
                "no bucket is named `{}`; there are: {}",
                storage.primary,
                known.join(", ")
            );
            return invalid("storage.primary", reason);
        }
        Ok(())
    }

    fn validate_rescue(&self, key: &str, bucket: &BucketConfig) -> Result<(), ConfigError> {
        let Some(rescue) = &bucket.rescue_bucket else {
            return Ok(());
        };
        let mut buckets = self.storage.buckets.iter();
        let key = format!("{key}.rescue_bucket");
        if *rescue == bucket.name {
            return invalid(&key, "a bucket cannot answer for itself");
        }
        if !buckets.any(|other| other.name == *rescue) {
            return invalid(&key, format!("no bucket is named `{rescue}`"));
        }
        Ok(())
    }
}

impl BucketConfig {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        if let Err(e) = check_name("bucket", &self.name) {
            return invalid(&format!("{key}.name"), e.to_string());
        }
        if self.backend == Backend::S3 {
            return self.validate_s3(key);
        }
        if self.root.as_ref().is_none_or(|r| r.as_os_str().is_empty()) {
            return invalid(&format!("{key}.root"), "a local bucket needs a directory");
        }
        let of_s3 = [
            ("url", self.url.is_some()),
            ("region", self.region.is_some()),
            ("secret", self.secret.is_some()),
            ("allow_http", self.allow_http),
            ("path_style", self.path_style.is_some()),
        ];
        match of_s3.iter().find(|(_, set)| *set) {
            Some((name, _)) => invalid(&format!("{key}.{name}"), "a local bucket has none"),
            None => Ok(()),
        }
    }
}

impl BucketConfig {
    fn validate_s3(&self, key: &str) -> Result<(), ConfigError> {
        if self.root.is_some() {
            return invalid(&format!("{key}.root"), "an S3 bucket has none");
        }
        let url = self.url.as_deref().unwrap_or_default();
        match url.split_once("://").map(|(scheme, _)| scheme) {
            Some("s3" | "https") => Ok(()),
            Some("http") if self.allow_http => Ok(()),
            Some("http") => {
                let reason = "plain HTTP needs `allow_http = true` beside it";
                invalid(&format!("{key}.url"), reason)
            }
            _ => {
                let reason =
                    "an S3 bucket needs \"s3://bucket/prefix\" or \"https://host/bucket/prefix\"";
                invalid(&format!("{key}.url"), reason)
            }
        }
    }
}

/// `host:port`; an IPv6 host stands in brackets.
fn check_endpoint(entry: &str) -> Result<(), ConfigError> {
    let bad = || {
        let reason = format!("`{entry}` is not `host:port`, such as \"db.internal:5432\"");
        invalid("egress.allow", reason)
    };
    let Some((host, port)) = entry.rsplit_once(':') else {
        return bad();
    };
    let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let host_is_good = match bare {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            !host.is_empty()
                && host
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-')
        }
    };
    if host_is_good && port.parse::<u16>().is_ok_and(|p| p > 0) {
        return Ok(());
    }
    bad()
}

fn must_be_positive(key: &str, value: u64) -> Result<(), ConfigError> {
    if value == 0 {
        invalid(key, "must be more than 0")
    } else {
        Ok(())
    }
}

fn invalid(key: &str, reason: impl Into<String>) -> Result<(), ConfigError> {
    Err(ConfigError::Invalid {
        key: key.to_owned(),
        reason: reason.into(),
    })
}
