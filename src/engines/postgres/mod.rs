//! Rows out of Postgres: a table or a query, read in one snapshot by binary `COPY` and decoded
//! straight into Arrow batches. The ingest worker calls [`PostgresSource::read`] and takes the
//! batches at its own pace; memory is bounded by batches, not by the table.
//! Never writes, never pages by `OFFSET`, and knows no catalog, no REST and no journal.

mod dsn;
mod error;
mod plan;
mod session;
mod stream;
#[doc(hidden)]
pub mod testing;
#[cfg(test)]
mod tests;
mod tls;
mod types;

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;

pub use error::PostgresError;
pub use stream::{ReadEnd, RowStream};

use crate::engines::egress::{EgressPolicy, Endpoint};
use dsn::Dsn;
use session::{Session, Target};

/// A Postgres database to read from: a connection string, parsed and checked.
#[derive(Debug, Clone)]
pub struct PostgresSource {
    dsn: Dsn,
    endpoint: Endpoint,
    egress: EgressPolicy,
    extra_roots: Vec<CertificateDer<'static>>,
}

/// What to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Relation {
    /// A table, partitioned table, view, materialized view or foreign table, names exactly as they
    /// are in the catalog: `users` is not `Users`.
    Table {
        /// Its schema; without one the server's search path finds the table.
        schema: Option<String>,
        /// Its name.
        name: String,
    },
    /// One statement that returns rows and writes nothing.
    Query(String),
}

/// How to read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// Rows of a batch at most; a batch also ends when it holds 16 MiB.
    pub batch_rows: usize,
    /// Connections over which a table is read, 1 to 16; without a number it depends on its size.
    pub partitions: Option<usize>,
    /// Read only rows that are newer than the ones before.
    pub since: Option<Watermark>,
    /// How long one statement may run, the time the reader of the batches takes included.
    pub statement_timeout: Option<Duration>,
    /// How long a name may take to resolve, and a connection to come about. The connection string
    /// may ask for less, not for more.
    pub connect_timeout: Duration,
    /// Carry `interval` as text: Parquet cannot hold months, days and nanoseconds.
    pub interval_as_text: bool,
}

/// How far a column had come when it was last read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watermark {
    /// The column, which must have an order.
    pub column: String,
    /// Its highest value then, as Postgres writes it; nothing reads everything.
    pub value: Option<String>,
    /// Whether rows of just that value are read again. A clock's time needs it (a row of the same
    /// time may have been committed since), a counter does not.
    pub inclusive: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            batch_rows: 32_768,
            partitions: None,
            since: None,
            statement_timeout: None,
            connect_timeout: Duration::from_secs(10),
            interval_as_text: false,
        }
    }
}

impl Relation {
    /// Reads `table`, `schema.table`, `"Odd Name"` or `schema."Odd Name"`. Letters keep their case,
    /// quoted or not, for the text comes out of a request and not out of SQL.
    ///
    /// # Errors
    /// [`PostgresError::BadName`].
    pub fn table(text: &str) -> Result<Self, PostgresError> {
        let bad = |reason| PostgresError::BadName {
            text: text.to_owned(),
            reason,
        };
        let mut names = Vec::new();
        let mut rest = text.trim();
        loop {
            let (name, after) = first_name(rest).map_err(bad)?;
            names.push(name);
            match after.strip_prefix('.') {
                Some(after) => rest = after,
                None if after.is_empty() => break,
                None => return Err(bad("something follows the closing quote")),
            }
        }
        match (names.pop(), names.pop(), names.pop()) {
            (Some(name), schema, None) => Ok(Self::Table { schema, name }),
            _ => Err(bad(
                "it has more than a schema and a name; quote names with a dot",
            )),
        }
    }
}

/// The first of several names with a dot between them, and what follows it.
fn first_name(text: &str) -> Result<(String, &str), &'static str> {
    if text.contains('\0') {
        return Err("it holds a NUL character");
    }
    let (name, rest) = match text.strip_prefix('"') {
        None => {
            let end = text.find('.').unwrap_or(text.len());
            (text[..end].to_owned(), &text[end..])
        }
        Some(quoted) => {
            let mut name = String::new();
            let mut rest = quoted;
            loop {
                let end = rest.find('"').ok_or("a quote is not closed")?;
                name.push_str(&rest[..end]);
                rest = &rest[end + 1..];
                match rest.strip_prefix('"') {
                    Some(after) => {
                        name.push('"');
                        rest = after;
                    }
                    None => break (name, rest),
                }
            }
        }
    };
    if name.is_empty() {
        Err("a name is empty")
    } else {
        Ok((name, rest))
    }
}

impl PostgresSource {
    /// Parses a connection string, libpq's URL or `key=value` form, and checks its host.
    ///
    /// `sslmode`: `disable`; `prefer` (the default) and `require` encrypt without verifying, as
    /// libpq defines them; `verify-full` demands a certificate that chains to the system's roots
    /// and names the host. Nothing weaker is ever fallen back to after `require` and `verify-full`.
    ///
    /// # Errors
    /// [`PostgresError::Dsn`] for a string that is malformed or asks for a socket, a service, a
    /// file or server options; [`PostgresError::Unreachable`] for an address not allowed.
    pub fn parse(dsn: &str, egress: &EgressPolicy) -> Result<Self, PostgresError> {
        let dsn = dsn::parse(dsn)?;
        let endpoint = egress.endpoint(&dsn.host, dsn.port)?;
        Ok(Self {
            dsn,
            endpoint,
            egress: egress.clone(),
            extra_roots: Vec::new(),
        })
    }

    /// Trusts the certificates of a PEM text beside the system's, for `sslmode=verify-full`.
    ///
    /// # Errors
    /// [`PostgresError::Tls`] when the text holds no certificate that can be read.
    pub fn trusting(mut self, pem: &[u8]) -> Result<Self, PostgresError> {
        let roots = tls::certificates(pem).map_err(|reason| self.tls_error(reason))?;
        self.extra_roots.extend(roots);
        Ok(self)
    }

    /// Where rows come from, as `postgres://host:port/database/schema.table`; a query is named by a
    /// hash of its text. Never holds the user or the password.
    pub fn lineage(&self, relation: &Relation) -> String {
        let database = url_part(&self.dsn.database);
        let source = format!("postgres://{}/{database}", self.endpoint);
        match relation {
            Relation::Table {
                schema: Some(schema),
                name,
            } => {
                format!("{source}/{}.{}", url_part(schema), url_part(name))
            }
            Relation::Table { schema: None, name } => format!("{source}/{}", url_part(name)),
            Relation::Query(sql) => {
                let hash = blake3::hash(sql.as_bytes()).to_hex();
                format!("{source}?query={}", &hash[..16])
            }
        }
    }

    /// Reads a relation in one repeatable-read snapshot.
    ///
    /// Returns when the schema is known and the first `COPY` is about to run; the rows follow in
    /// the stream. Dropping the stream cancels the read on the server.
    ///
    /// # Errors
    /// Those of connecting, of the name or query, and of the options. What happens later comes out
    /// of the stream.
    pub async fn read(
        &self,
        what: Relation,
        options: ReadOptions,
    ) -> Result<RowStream, PostgresError> {
        let target = self.target(&options).await?;
        let mut leader = Session::open(&target).await?;
        leader.begin(None, options.statement_timeout).await?;
        let plan = plan::plan(&mut leader, &what, &options).await?;
        let mut sessions = vec![leader];
        if plan.connections > 1 {
            join(&mut sessions, &target, plan.connections, &options).await?;
        }
        let lineage = self.lineage(&plan.relation);
        Ok(stream::start(sessions, plan, lineage, options.batch_rows))
    }

    /// Runs the binary `COPY` of a table and throws its bytes away: the limit that [`Self::read`]
    /// is measured against. Returns bytes and the time from the first statement to the last byte.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn copy_discarded(&self, what: &Relation) -> Result<(u64, Duration), PostgresError> {
        let options = ReadOptions {
            partitions: Some(1),
            ..ReadOptions::default()
        };
        let mut session = Session::open(&self.target(&options).await?).await?;
        session.begin(None, None).await?;
        let plan = plan::plan(&mut session, what, &options).await?;
        let begun = Instant::now();
        let mut bytes = 0;
        for sql in &plan.copies {
            bytes += session.discard_copy(sql).await?;
        }
        let elapsed = begun.elapsed();
        session.close().await;
        Ok((bytes, elapsed))
    }

    async fn target(&self, options: &ReadOptions) -> Result<Target<'_>, PostgresError> {
        let tls = tls::connector(self.dsn.tls, &self.extra_roots);
        let own = self.dsn.connect_timeout.unwrap_or(options.connect_timeout);
        let connect_timeout = own.min(options.connect_timeout);
        // A name server may be as silent as a database.
        let resolving = self.egress.resolve(&self.endpoint);
        let silent = |_| PostgresError::Unreachable {
            endpoint: self.endpoint.to_string(),
        };
        let resolved = tokio::time::timeout(connect_timeout, resolving)
            .await
            .map_err(silent)?;
        Ok(Target {
            dsn: &self.dsn,
            endpoint: self.endpoint.clone(),
            addresses: resolved?,
            tls: tls.map_err(|reason| self.tls_error(reason))?,
            connect_timeout,
        })
    }

    fn tls_error(&self, reason: String) -> PostgresError {
        PostgresError::Tls {
            endpoint: self.endpoint.to_string(),
            reason,
        }
    }
}

/// Opens the other connections of a parallel read on the leader's snapshot. A server without room
/// for all of them is read over those it has.
async fn join(
    sessions: &mut Vec<Session>,
    target: &Target<'_>,
    connections: usize,
    options: &ReadOptions,
) -> Result<(), PostgresError> {
    let rows = sessions[0].rows("SELECT pg_export_snapshot()").await?;
    let snapshot = rows
        .first()
        .and_then(|row| row.get(0))
        .unwrap_or_default()
        .to_owned();
    while sessions.len() < connections {
        let mut session = match Session::open(target).await {
            Ok(session) => session,
            Err(PostgresError::Busy { .. }) => break,
            Err(error) => return Err(error),
        };
        session
            .begin(Some(&snapshot), options.statement_timeout)
            .await?;
        sessions.push(session);
    }
    Ok(())
}

/// A name as it may stand in a URL.
fn url_part(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'$' | b'~') {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes all");
        }
    }
    out
}
