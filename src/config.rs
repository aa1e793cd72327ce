//! The configuration: one struct a section, and what a valid one is.
//! The command line loads it once (defaults < file < environment < flags) and hands it to the
//! daemon; nothing reads it from anywhere else, and there is no global one.

mod auth;
mod embedding;
mod layers;
mod limits;
mod size;
#[cfg(test)]
mod tests;
mod validate;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use lakehouse_journal::model::bucket::BucketSpec;
use serde::{Deserialize, Serialize};

pub use auth::{AuthConfig, IssuerConfig, RoleRule};
pub use embedding::{EmbeddingConfig, ProviderConfig, loopback_of};
pub use layers::{DEFAULT_FILE, Sources};
pub use limits::{LimitsConfig, RoleLimits};
pub use size::{BadSize, ByteSize};

/// Where the daemon keeps its data unless a flag or `LAKEHOUSE_DATA_DIR` names another place.
pub const DEFAULT_DATA_DIR: &str = "lakehouse-data";
/// The port that the daemon listens on unless told otherwise.
pub const DEFAULT_PORT: u16 = 3100;

/// Everything that can be set, each section with its defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The journal, the admin token and, unless configured otherwise, the primary bucket. Set by
    /// flag or `LAKEHOUSE_DATA_DIR`, not in the file: the file may be shared, the directory not.
    #[serde(skip)]
    pub data_dir: PathBuf,
    /// Where requests come in.
    pub server: ServerConfig,
    /// Where tables and vectors are kept.
    pub storage: StorageConfig,
    /// How rows deleted for good leave the disks.
    pub erasure: ErasureConfig,
    /// How the journal is archived.
    pub journal: JournalConfig,
    /// What a query may use.
    pub query: QueryConfig,
    /// Who else may vouch for a caller.
    pub auth: AuthConfig,
    /// What tokens may use.
    pub limits: LimitsConfig,
    /// What an ingest may use.
    pub ingest: IngestConfig,
    /// Who turns text into vectors.
    pub embedding: EmbeddingConfig,
    /// Where secrets are.
    pub secrets: SecretsConfig,
    /// Where the daemon may connect to.
    pub egress: EgressConfig,
    /// What is written to standard error.
    pub log: LogConfig,
}

/// Where requests come in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ServerConfig {
    /// Address and port; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// Where tables and vectors are kept, and when leftovers are removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// The bucket that takes what names no other.
    pub primary: String,
    /// The buckets known from the start. Loading puts one local bucket under the data directory
    /// here when none is configured.
    pub buckets: Vec<BucketConfig>,
    /// How old an object that no event points at must be before it is removed, in seconds.
    pub orphan_grace_s: u64,
    /// When they are looked for: a cron line with seconds, UTC.
    pub orphan_sweep: String,
    /// How long files that left a dataset are kept for `as_of`, in seconds.
    pub retention_s: u64,
    /// How long a request to a store may wait for its answer, its own upload included, and until when it is
    /// tried again: up to twice as long in all. In seconds.
    pub request_timeout_s: u64,
}

/// How rows deleted for good leave the disks. They are hidden at the answer in any case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ErasureConfig {
    /// How long after the last deletion the bytes are erased, in seconds: several are erased at once.
    pub delay_s: u64,
    /// How long a query may go on reading what is to be erased, in seconds.
    pub query_deadline_s: u64,
    /// A directory outside of every backup that lists what was deleted: a data directory that is
    /// restored from a backup forgets no deletion. A relative path starts at the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<PathBuf>,
}

/// One bucket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BucketConfig {
    /// Its name in requests.
    pub name: String,
    /// What holds it.
    pub backend: Backend,
    /// The directory of a local one; a relative path starts at the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<PathBuf>,
    /// Endpoint and bucket of an S3 one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// Region of an S3 one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Handle of an S3 one's credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Whether an S3 one may be spoken to without TLS.
    #[serde(default)]
    pub allow_http: bool,
    /// Whether an S3 one stands in the path of a request (the default) or in its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_style: Option<bool>,
    /// The bucket that answers reads while this one does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_bucket: Option<String>,
}

/// What holds a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Backend {
    /// A directory.
    Local,
    /// An S3-compatible store.
    S3,
}

/// How the journal is archived.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalConfig {
    /// Whether an acknowledgement waits for the archive.
    pub archive: ArchiveMode,
}

/// When a journal segment reaches the primary bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArchiveMode {
    /// Soon after it is full: a lost disk costs the last seconds.
    #[default]
    Async,
    /// Before the caller is answered: a lost disk costs nothing acknowledged.
    Sync,
}

/// What a query may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QueryConfig {
    /// Memory of all queries together; what needs more spills or fails.
    pub memory_limit: ByteSize,
    /// Seconds after which a query is cancelled.
    pub timeout_s: u64,
}

/// What an ingest may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IngestConfig {
    /// The largest body of one ingest; a larger one is refused with 413.
    pub body_limit: ByteSize,
}

/// Where secrets are, beside the environment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretsConfig {
    /// The file, which must be there then; `secrets.toml` in the data directory, if it is there, when
    /// absent. A relative path starts at the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
}

/// Where the daemon may connect to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EgressConfig {
    /// `host:port` pairs that may be reached although their address is private.
    pub allow: Vec<String>,
}

/// What is written to standard error.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogConfig {
    /// A level, or directives such as `info,lakehouse=debug`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from(DEFAULT_DATA_DIR),
            server: ServerConfig::default(),
            storage: StorageConfig::default(),
            erasure: ErasureConfig::default(),
            journal: JournalConfig::default(),
            query: QueryConfig::default(),
            auth: AuthConfig::default(),
            limits: LimitsConfig::default(),
            ingest: IngestConfig::default(),
            embedding: EmbeddingConfig::default(),
            secrets: SecretsConfig::default(),
            egress: EgressConfig::default(),
            log: LogConfig::default(),
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT)),
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            primary: "primary".to_owned(),
            buckets: Vec::new(),
            orphan_grace_s: 86_400,
            orphan_sweep: "0 17 * * * *".to_owned(),
            retention_s: 7 * 86_400,
            request_timeout_s: 20,
        }
    }
}

impl Default for ErasureConfig {
    fn default() -> Self {
        Self {
            delay_s: 30,
            query_deadline_s: 30,
            ledger: None,
        }
    }
}

impl Default for QueryConfig {
    fn default() -> Self {
        Self {
            memory_limit: ByteSize::gib(4),
            timeout_s: 60,
        }
    }
}

impl Default for IngestConfig {
    fn default() -> Self {
        Self {
            body_limit: ByteSize::gib(64),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            format: LogFormat::default(),
        }
    }
}

impl Config {
    /// Whether only this machine can reach the daemon.
    pub fn listens_on_loopback(&self) -> bool {
        self.server.listen.ip().is_loopback()
    }

    /// Where the first start writes the admin token, and where clients on this machine read it.
    pub fn admin_token_path(&self) -> PathBuf {
        admin_token_path(&self.data_dir)
    }

    /// The configured buckets as the journal knows them, names and places, in the file's order.
    pub fn bucket_specs(&self) -> Vec<(String, BucketSpec)> {
        let buckets = self.storage.buckets.iter();
        buckets
            .map(|b| (b.name.clone(), b.spec(&self.data_dir)))
            .collect()
    }

    /// Endpoints of configured S3 buckets, as `host:port`: naming them here is leave to reach them.
    pub fn bucket_endpoints(&self) -> Vec<String> {
        let urls = self
            .storage
            .buckets
            .iter()
            .filter_map(|bucket| bucket.url.as_deref());
        urls.filter_map(endpoint_of).collect()
    }

    /// Puts the one local bucket in place that stands for "none configured".
    fn fill_in_primary(&mut self) {
        if self.storage.buckets.is_empty() {
            let name = self.storage.primary.clone();
            let root = Path::new("buckets").join(&name);
            self.storage.buckets.push(BucketConfig::local(name, root));
        }
    }
}

impl IngestConfig {
    /// The largest body of one ingest, in bytes.
    pub fn body_limit_bytes(&self) -> u64 {
        self.body_limit.0
    }
}

impl BucketConfig {
    /// A local bucket.
    pub fn local(name: impl Into<String>, root: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            backend: Backend::Local,
            root: Some(root.into()),
            url: None,
            region: None,
            secret: None,
            allow_http: false,
            path_style: None,
            rescue_bucket: None,
        }
    }

    /// Where it is, with a local root made absolute against the data directory.
    pub fn spec(&self, data_dir: &Path) -> BucketSpec {
        match self.backend {
            Backend::Local => BucketSpec::Local {
                root: self.local_root(data_dir).to_string_lossy().into_owned(),
                rescue_bucket: self.rescue_bucket.clone(),
            },
            Backend::S3 => BucketSpec::S3 {
                url: self.url.clone().unwrap_or_default(),
                region: self.region.clone(),
                secret: self.secret.clone(),
                path_style: self.path_style,
                rescue_bucket: self.rescue_bucket.clone(),
            },
        }
    }

    fn local_root(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(self.root.as_deref().unwrap_or(Path::new("")))
    }
}

/// `host:port` of a web address.
fn endpoint_of(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(format!(
        "{}:{}",
        url.host_str()?,
        url.port_or_known_default()?
    ))
}

/// Where a data directory's admin token stands.
pub fn admin_token_path(data_dir: &Path) -> PathBuf {
    data_dir.join("admin.token")
}

/// Why there is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("configuration file `{path}` cannot be read: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The operating system's text.
        reason: String,
    },
    /// A layer has a key that does not exist, or a value of another shape.
    #[error("{origin}: {reason}")]
    Malformed {
        /// The file with its line, or the environment variable.
        origin: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A value is of the right shape but makes no sense.
    #[error("`{key}`: {reason}")]
    Invalid {
        /// The key, with dots.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
}
