//! One connection to the server, inside one read-only transaction.
//! Called by `plan` to describe and by `stream` to copy. The connection is driven by the same task
//! that decodes, which saves a hand-over between threads for every few kilobytes; nothing is read
//! from the socket while nobody asks, so a slow consumer slows the server down.

use std::fmt::Write as _;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, TryStreamExt};
use lakehouse_kernels::pgcopy::RowDecoder;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{
    CancelToken, Client, Config, Connection, CopyOutStream, SimpleQueryMessage, SimpleQueryRow,
    Socket, Statement,
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::dsn::{Dsn, Password};
use super::error::{self, PostgresError};
use crate::engines::egress::Endpoint;

type Link = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// Where to connect, resolved and checked once for all connections of a read.
pub(super) struct Target<'a> {
    pub(super) dsn: &'a Dsn,
    pub(super) endpoint: Endpoint,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) tls: MakeRustlsConnect,
    pub(super) connect_timeout: Duration,
}

/// A connection.
pub(super) struct Session {
    client: Client,
    link: Link,
    /// Why the link ended; it must not be polled again.
    broken: Option<Broken>,
    endpoint: String,
    tls: MakeRustlsConnect,
}

/// How a link ended.
enum Broken {
    Failed(tokio_postgres::Error),
    Closed,
}

/// Whether a `COPY` goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Copying {
    /// A batch is full; there may be more.
    More,
    /// It has ended.
    Ended,
}

impl Session {
    /// Connects to the first address that answers.
    pub(super) async fn open(target: &Target<'_>) -> Result<Self, PostgresError> {
        let endpoint = target.endpoint.to_string();
        let unreachable = PostgresError::Unreachable { endpoint };
        let attempt = async {
            let mut failure = unreachable.clone();
            for address in &target.addresses {
                match Self::open_at(target, *address).await {
                    Err(error @ PostgresError::Unreachable { .. }) => failure = error,
                    other => return other,
                }
            }
            Err(failure)
        };
        tokio::time::timeout(target.connect_timeout, attempt)
            .await
            .unwrap_or(Err(unreachable.clone()))
    }

    async fn open_at(target: &Target<'_>, address: SocketAddr) -> Result<Self, PostgresError> {
        const SILENCE_BEFORE_PROBE: Duration = Duration::from_secs(30);
        const PROBE_INTERVAL: Duration = Duration::from_secs(10);
        let dsn = target.dsn;
        let mut config = Config::new();
        config
            .host(&target.endpoint.host)
            .hostaddr(address.ip())
            .port(address.port())
            .user(&dsn.user)
            .dbname(&dsn.database)
            .ssl_mode(dsn.tls.driver_mode())
            .channel_binding(dsn.channel_binding)
            .keepalives_idle(SILENCE_BEFORE_PROBE)
            .keepalives_interval(PROBE_INTERVAL)
            .keepalives_retries(3)
            .application_name(dsn.application_name.as_deref().unwrap_or("lakehouse"));
        if let Some(password) = dsn.password.as_ref().map(Password::expose) {
            config.password(password);
        }
        let endpoint = target.endpoint.to_string();
        match config.connect(target.tls.clone()).await {
            Ok((client, link)) => Ok(Self {
                client,
                link,
                broken: None,
                endpoint,
                tls: target.tls.clone(),
            }),
            Err(error) => Err(error::connecting(&error, &endpoint, &dsn.database)),
        }
    }

    /// Begins the read-only transaction, on an exported snapshot when one is given.
    pub(super) async fn begin(
        &mut self,
        snapshot: Option<&str>,
        statement_timeout: Option<Duration>,
    ) -> Result<(), PostgresError> {
        // What is cast to text reads the same whatever the server or the role is set to.
        let mut sql = String::from("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;");
        if let Some(snapshot) = snapshot {
            sql.push_str("SET TRANSACTION SNAPSHOT ");
            sql.push_str(&quoted_literal(snapshot));
            sql.push(';');
        }
        sql.push_str(
            "SET LOCAL standard_conforming_strings = on; SET LOCAL TimeZone = 'UTC'; \
             SET LOCAL DateStyle = 'ISO, MDY'; SET LOCAL IntervalStyle = 'postgres'; \
             SET LOCAL extra_float_digits = 3; SET LOCAL bytea_output = 'hex'; \
             SET LOCAL idle_in_transaction_session_timeout = 0;",
        );
        if let Some(timeout) = statement_timeout {
            let millis = i32::try_from(timeout.as_millis())
                .unwrap_or(i32::MAX)
                .max(1);
            write!(sql, "SET LOCAL statement_timeout = {millis};").expect("a string takes all");
        }
        let work = self.client.batch_execute(&sql);
        drive(&mut self.link, &mut self.broken, work)
            .await
            .map_err(|failure| failure.into_error(&self.endpoint, 0))
    }

    /// The rows of a query of ours, as text.
    pub(super) async fn rows(&mut self, sql: &str) -> Result<Vec<SimpleQueryRow>, PostgresError> {
        let work = self.client.simple_query(sql);
        let messages = drive(&mut self.link, &mut self.broken, work)
            .await
            .map_err(|failure| failure.into_error(&self.endpoint, 0))?;
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        Ok(rows.collect())
    }

    /// Parses and describes one statement.
    pub(super) async fn prepare(&mut self, sql: &str) -> Result<Statement, PostgresError> {
        let work = self.client.prepare(sql);
        drive(&mut self.link, &mut self.broken, work)
            .await
            .map_err(|failure| failure.into_error(&self.endpoint, 0))
    }

    /// Starts a `COPY … TO STDOUT`; `rows` have come over this connection before.
    pub(super) async fn start_copy(
        &mut self,
        sql: &str,
        rows: u64,
    ) -> Result<CopyOutStream, PostgresError> {
        let work = self.client.copy_out(sql);
        drive(&mut self.link, &mut self.broken, work)
            .await
            .map_err(|failure| failure.into_error(&self.endpoint, rows))
    }

    /// Decodes until a batch is full or the `COPY` has ended.
    pub(super) async fn copy_some(
        &mut self,
        mut stream: Pin<&mut CopyOutStream>,
        decoder: &mut RowDecoder,
    ) -> Result<Copying, PostgresError> {
        poll_fn(|cx| self.poll_copy(stream.as_mut(), decoder, cx)).await
    }

    /// Takes what has arrived before it lets the link read again: a row costs no look at the socket.
    fn poll_copy(
        &mut self,
        mut stream: Pin<&mut CopyOutStream>,
        decoder: &mut RowDecoder,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Copying, PostgresError>> {
        let mut link_polled = false;
        loop {
            match stream.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(chunk))) => {
                    link_polled = false;
                    decoder.push(&chunk)?;
                    if decoder.is_ready() {
                        return Poll::Ready(Ok(Copying::More));
                    }
                }
                Poll::Ready(None) => {
                    decoder.end_of_copy()?;
                    return Poll::Ready(Ok(Copying::Ended));
                }
                Poll::Ready(Some(Err(failure))) => {
                    let failure = Failure::Driver(failure);
                    return Poll::Ready(Err(failure.into_error(&self.endpoint, decoder.rows())));
                }
                Poll::Pending if !link_polled => {
                    poll_link(&mut self.link, &mut self.broken, cx);
                    link_polled = true;
                }
                Poll::Pending => {
                    let Some(broken) = self.broken.take() else {
                        return Poll::Pending;
                    };
                    self.broken = Some(Broken::Closed);
                    let failure = Failure::from(broken);
                    return Poll::Ready(Err(failure.into_error(&self.endpoint, decoder.rows())));
                }
            }
        }
    }

    /// Runs a `COPY … TO STDOUT` and throws its bytes away; returns how many there were.
    pub(super) async fn discard_copy(&mut self, sql: &str) -> Result<u64, PostgresError> {
        let stream = self.start_copy(sql, 0).await?;
        let work = stream.try_fold(0, |sum, chunk| async move { Ok(sum + chunk.len() as u64) });
        drive(&mut self.link, &mut self.broken, work)
            .await
            .map_err(|failure| failure.into_error(&self.endpoint, 0))
    }

    /// What stops the statement that runs on this connection.
    pub(super) fn canceller(&self) -> Canceller {
        Canceller {
            token: self.client.cancel_token(),
            tls: self.tls.clone(),
        }
    }

    /// Ends the transaction and says goodbye; a server that is gone is no error any more.
    pub(super) async fn close(mut self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let goodbye = async {
            let work = self.client.batch_execute("COMMIT");
            if drive(&mut self.link, &mut self.broken, work).await.is_ok() {
                drop(self.client);
                let _gone = self.link.await;
            }
        };
        let _in_time = tokio::time::timeout(PATIENCE, goodbye).await;
    }
}

/// Stops a statement from outside its connection.
pub(super) struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
}

impl Canceller {
    /// Asks the server, once and with little patience, to stop the statement.
    pub(super) async fn cancel(self) {
        const PATIENCE: Duration = Duration::from_secs(2);
        let _asked = tokio::time::timeout(PATIENCE, self.token.cancel_query(self.tls)).await;
    }
}

/// Why a piece of work on a connection failed.
enum Failure {
    Driver(tokio_postgres::Error),
    Closed,
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Failed(error) => Self::Driver(error),
            Broken::Closed => Self::Closed,
        }
    }
}

impl Failure {
    fn into_error(self, endpoint: &str, rows: u64) -> PostgresError {
        match self {
            Self::Driver(error) => error::working(&error, endpoint, rows),
            Self::Closed => PostgresError::ConnectionLost {
                endpoint: endpoint.to_owned(),
                rows,
            },
        }
    }
}

/// Polls the link and the work in one task until the work is done or the link is gone.
async fn drive<T>(
    link: &mut Link,
    broken: &mut Option<Broken>,
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Failure> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        poll_link(link, broken, cx);
        match work.as_mut().poll(cx) {
            Poll::Ready(done) => Poll::Ready(done.map_err(Failure::Driver)),
            Poll::Pending => match broken.take() {
                Some(why) => {
                    *broken = Some(Broken::Closed);
                    Poll::Ready(Err(why.into()))
                }
                None => Poll::Pending,
            },
        }
    })
    .await
}

fn poll_link(link: &mut Link, broken: &mut Option<Broken>, cx: &mut Context<'_>) {
    while broken.is_none() {
        match link.poll_message(cx) {
            // Notices and notifications are nothing that a reader acts on.
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(Some(Err(error))) => *broken = Some(Broken::Failed(error)),
            Poll::Ready(None) => *broken = Some(Broken::Closed),
            Poll::Pending => return,
        }
    }
}

/// A string as an SQL literal (`standard_conforming_strings` is on).
pub(super) fn quoted_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// A name as an SQL identifier, exactly as it is.
pub(super) fn quoted_name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
