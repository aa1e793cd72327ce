//! Why a read from Postgres failed, and how the server's own words become one of these.
//! Called by every file of this module. Holds no password and no connection string, so that
//! neither `Display` nor `Debug` can show one.

use lakehouse_journal::model::error::ErrorKind;
use lakehouse_kernels::pgcopy::CopyError;
use tokio_postgres::error::{DbError, ErrorPosition, SqlState};

use crate::engines::egress::EgressError;

/// Why a read from Postgres failed. No variant holds a password or a connection string.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// The connection string cannot be used.
    #[error("the connection string cannot be used: {reason}")]
    Dsn {
        /// What is wrong with it; parameter names, never their values.
        reason: String,
    },
    /// The name of a table cannot be read.
    #[error("`{text}` does not name a table: {reason}")]
    BadName {
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Not resolvable, not allowed, closed or silent: one text for all.
    #[error("`{endpoint}` is unreachable or not allowed")]
    Unreachable {
        /// `host:port`.
        endpoint: String,
    },
    /// No TLS session that satisfies `sslmode` came about.
    #[error("TLS with `{endpoint}` failed: {reason}")]
    Tls {
        /// `host:port`.
        endpoint: String,
        /// What the handshake said.
        reason: String,
    },
    /// A wrong user or password, or one that the server does not let in from here.
    #[error("`{endpoint}` refused the user or the password")]
    Authentication {
        /// `host:port`.
        endpoint: String,
    },
    /// There is no such database.
    #[error("database `{database}` does not exist on `{endpoint}`")]
    NoDatabase {
        /// The database asked for.
        database: String,
        /// `host:port`.
        endpoint: String,
    },
    /// There is no such table.
    #[error("table `{table}` does not exist{}", near_text(near))]
    NoTable {
        /// The table asked for, as SQL spells it.
        table: String,
        /// Tables of the database that look like it.
        near: Vec<String>,
    },
    /// There is no such column.
    #[error("{message}")]
    NoColumn {
        /// The server's sentence, or ours; names the column.
        message: String,
    },
    /// The query does not parse.
    #[error("the query is not valid: {message}{}", position_text(*position))]
    Syntax {
        /// The server's sentence.
        message: String,
        /// Character of the query at which it fails, from 1.
        position: Option<u32>,
    },
    /// The query would write, and the transaction is read-only.
    #[error("only reading is allowed: {message}")]
    ReadOnly {
        /// The server's sentence.
        message: String,
    },
    /// The server's user has no right to it.
    #[error("PostgreSQL denies it: {message}")]
    Denied {
        /// The server's sentence.
        message: String,
    },
    /// No connection is to be had now.
    #[error("`{endpoint}` takes no connection now: {message}")]
    Busy {
        /// `host:port`.
        endpoint: String,
        /// The server's sentence.
        message: String,
    },
    /// The connection broke while it was in use.
    #[error("the connection to `{endpoint}` was lost after {rows} rows")]
    ConnectionLost {
        /// `host:port`.
        endpoint: String,
        /// Rows that had arrived over this connection.
        rows: u64,
    },
    /// A statement took longer than the statement timeout.
    #[error("a statement on `{endpoint}` exceeded the statement timeout")]
    StatementTimeout {
        /// `host:port`.
        endpoint: String,
    },
    /// Something that this reader does not carry.
    #[error("{what}")]
    Unsupported {
        /// What, and what to do instead.
        what: String,
    },
    /// The rows as sent are not decoded.
    #[error(transparent)]
    Rows(#[from] CopyError),
    /// Any other error of the server.
    #[error("PostgreSQL reports {code}: {message}")]
    Server {
        /// The SQLSTATE.
        code: String,
        /// The server's sentence.
        message: String,
    },
    /// The reading task ended without saying why.
    #[error("the reader stopped unexpectedly")]
    Stopped,
}

impl PostgresError {
    /// The kind, for status codes and retries.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Dsn { .. }
            | Self::BadName { .. }
            | Self::Syntax { .. }
            | Self::ReadOnly { .. }
            | Self::Unsupported { .. }
            | Self::Rows(CopyError::Value { .. }) => ErrorKind::Invalid,
            Self::NoDatabase { .. } | Self::NoTable { .. } | Self::NoColumn { .. } => {
                ErrorKind::NotFound
            }
            Self::Authentication { .. } | Self::Denied { .. } => ErrorKind::Denied,
            Self::Busy { .. } => ErrorKind::Overloaded,
            Self::Unreachable { .. } | Self::Tls { .. } | Self::ConnectionLost { .. } => {
                ErrorKind::Unavailable
            }
            Self::StatementTimeout { .. } => ErrorKind::Timeout,
            Self::Rows(CopyError::Protocol { .. }) => ErrorKind::Corrupt,
            // Data exceptions and the like come from the caller's own query.
            Self::Server { code, .. } if code.starts_with("22") || code.starts_with("42") => {
                ErrorKind::Invalid
            }
            Self::Server { .. } | Self::Stopped => ErrorKind::Internal,
        }
    }

    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Dsn { .. } => "dsn_invalid",
            Self::BadName { .. } => "table_name_invalid",
            Self::Unreachable { .. } => "source_unreachable",
            Self::Tls { .. } => "source_tls_failed",
            Self::Authentication { .. } => "source_authentication_failed",
            Self::NoDatabase { .. } => "source_database_not_found",
            Self::NoTable { .. } => "source_table_not_found",
            Self::NoColumn { .. } => "source_column_not_found",
            Self::Syntax { .. } => "source_query_invalid",
            Self::ReadOnly { .. } => "source_query_writes",
            Self::Denied { .. } => "source_denied",
            Self::Busy { .. } => "source_busy",
            Self::ConnectionLost { .. } => "source_connection_lost",
            Self::StatementTimeout { .. } => "source_statement_timeout",
            Self::Unsupported { .. } => "source_unsupported",
            Self::Rows(CopyError::Value { .. }) => "source_value_unsupported",
            Self::Rows(CopyError::Protocol { .. }) => "source_protocol_error",
            Self::Server { .. } => "source_error",
            Self::Stopped => "source_reader_stopped",
        }
    }

    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

impl From<EgressError> for PostgresError {
    fn from(error: EgressError) -> Self {
        match error {
            EgressError::Refused { endpoint } => Self::Unreachable { endpoint },
            EgressError::Malformed { reason } => Self::Dsn {
                reason: reason.to_owned(),
            },
        }
    }
}

/// What the driver reports while a connection is made.
pub(super) fn connecting(
    error: &tokio_postgres::Error,
    endpoint: &str,
    database: &str,
) -> PostgresError {
    let endpoint = endpoint.to_owned();
    let Some(reported) = error.as_db_error() else {
        return connecting_without_answer(error, endpoint);
    };
    let message = reported.message().to_owned();
    match reported.code() {
        &SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION => {
            PostgresError::Authentication { endpoint }
        }
        &SqlState::INVALID_CATALOG_NAME => PostgresError::NoDatabase {
            database: database.to_owned(),
            endpoint,
        },
        &SqlState::TOO_MANY_CONNECTIONS | &SqlState::CANNOT_CONNECT_NOW => {
            PostgresError::Busy { endpoint, message }
        }
        _ => from_server(reported, &endpoint),
    }
}

/// The driver tells its kinds apart only by their text, which is fixed and holds no value.
fn connecting_without_answer(error: &tokio_postgres::Error, endpoint: String) -> PostgresError {
    let text = error.to_string();
    if text.starts_with("error performing TLS handshake") {
        let reason =
            std::error::Error::source(error).map_or_else(|| text.clone(), ToString::to_string);
        return PostgresError::Tls { endpoint, reason };
    }
    if text.starts_with("authentication error") || text.starts_with("invalid configuration") {
        return PostgresError::Authentication { endpoint };
    }
    PostgresError::Unreachable { endpoint }
}

/// What the driver reports on a connection in use, after `rows` rows.
pub(super) fn working(error: &tokio_postgres::Error, endpoint: &str, rows: u64) -> PostgresError {
    match error.as_db_error() {
        Some(reported) if is_shutdown(reported) => PostgresError::ConnectionLost {
            endpoint: endpoint.to_owned(),
            rows,
        },
        Some(reported) => from_server(reported, endpoint),
        None => PostgresError::ConnectionLost {
            endpoint: endpoint.to_owned(),
            rows,
        },
    }
}

fn is_shutdown(reported: &DbError) -> bool {
    let code = reported.code();
    *code == SqlState::ADMIN_SHUTDOWN
        || *code == SqlState::CRASH_SHUTDOWN
        || *code == SqlState::CANNOT_CONNECT_NOW
        || code.code().starts_with("08")
}

fn from_server(reported: &DbError, endpoint: &str) -> PostgresError {
    let message = reported.message().to_owned();
    let position = match reported.position() {
        Some(ErrorPosition::Original(position)) => Some(*position),
        _ => None,
    };
    match reported.code() {
        &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME => {
            let table = message.split('"').nth(1).unwrap_or(&message).to_owned();
            PostgresError::NoTable {
                table,
                near: Vec::new(),
            }
        }
        &SqlState::UNDEFINED_COLUMN => PostgresError::NoColumn { message },
        &SqlState::SYNTAX_ERROR => PostgresError::Syntax { message, position },
        &SqlState::READ_ONLY_SQL_TRANSACTION | &SqlState::ACTIVE_SQL_TRANSACTION => {
            PostgresError::ReadOnly { message }
        }
        &SqlState::INSUFFICIENT_PRIVILEGE => PostgresError::Denied { message },
        &SqlState::QUERY_CANCELED if message.contains("statement timeout") => {
            PostgresError::StatementTimeout {
                endpoint: endpoint.to_owned(),
            }
        }
        code if code.code().starts_with("42") => PostgresError::Syntax { message, position },
        code => PostgresError::Server {
            code: code.code().to_owned(),
            message,
        },
    }
}

fn near_text(near: &[String]) -> String {
    if near.is_empty() {
        String::new()
    } else {
        format!("; near: {}", near.join(", "))
    }
}

fn position_text(position: Option<u32>) -> String {
    position.map_or_else(String::new, |position| {
        format!(" (at character {position})")
    })
}
