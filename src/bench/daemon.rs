//! The daemon that a benchmark measures: a child process of this program in a directory of its own.
//! The runners start it and talk to it by REST. It has none of this process's settings and is killed
//! with the value; what it wrote is for nobody.

use std::{
    fs::File,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use reqwest::{Body, Method, header::CONTENT_TYPE};
use serde_json::Value;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    BenchError,
    error::Doing as _,
    report::{kib_in_bytes, line_of},
};
use crate::{cli::client::Client, config::admin_token_path};

/// What `serve` prints before its address.
const READY: &str = "listening on http://";
const START_PATIENCE: Duration = Duration::from_mins(1);
/// Chunks of a body that wait to be sent.
const CHUNKS_WAITING: usize = 4;
/// Settings of this process that must not reach the child begin so.
const SETTINGS: &str = "LAKEHOUSE_";

/// A running daemon.
pub(super) struct Daemon {
    child: Child,
    address: SocketAddr,
    data_dir: PathBuf,
    token: String,
    client: Client,
}

impl Daemon {
    /// Starts `serve` on an empty directory and waits until it answers requests.
    pub(super) fn start(data_dir: &Path) -> Result<Self, BenchError> {
        let failed = |error| BenchError::file(data_dir, error);
        let log = data_dir.join("daemon.log");
        let program = std::env::current_exe().map_err(failed)?;
        let mut command = Command::new(program);
        command
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
            .arg(data_dir)
            .current_dir(data_dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).map_err(failed)?);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with(SETTINGS) {
                command.env_remove(name);
            }
        }
        let mut child = Starting(Some(command.spawn().map_err(failed)?));
        let stdout = child.stdout().expect("standard output is piped");
        let address = address_of(stdout, &log)?;
        let token = std::fs::read_to_string(admin_token_path(data_dir)).map_err(failed)?;
        let token = token.trim().to_owned();
        let client = Client::new(&format!("http://{address}"), Some(&token)).doing("connect")?;
        Ok(Self {
            child: child.started(),
            address,
            data_dir: data_dir.to_owned(),
            token,
            client,
        })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Its process.
    pub(super) fn process(&self) -> u32 {
        self.child.id()
    }

    /// Where everything is that it writes.
    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Where an object of a dataset's manifest lies: without a configuration every bucket is a
    /// directory under the data directory.
    pub(super) fn object(&self, file: &Value) -> PathBuf {
        let part = |name: &str| file[name].as_str().unwrap_or_default();
        let bucket = self.data_dir.join("buckets").join(part("bucket"));
        bucket.join(part("key"))
    }

    /// The most memory that it has had resident until now, in bytes.
    pub(super) fn peak_rss_bytes(&self) -> Option<u64> {
        let status = format!("/proc/{}/status", self.child.id());
        kib_in_bytes(&line_of(&status, "VmHWM")?)
    }

    /// A dataset's manifest.
    pub(super) async fn manifest(&self, dataset: &str) -> Result<Value, BenchError> {
        let path = ["catalog", "datasets", dataset];
        let answer = self.client.get(&path, &[]).await;
        answer.doing(&format!("manifest of `{dataset}`"))
    }

    /// Sends a body into a new dataset and returns the answer.
    pub(super) async fn ingest(
        &self,
        dataset: &str,
        key: Option<&str>,
        content_type: &str,
        body: Body,
    ) -> Result<Value, BenchError> {
        let mut query = vec![("dataset", dataset), ("mode", "create")];
        query.extend(key.map(|key| ("key", key)));
        let request = self
            .client
            .request(Method::POST, &["ingest", "file"])
            .query(&query)
            .header(CONTENT_TYPE, content_type)
            .body(body);
        let answer = self.client.answer(request).await;
        answer.doing(&format!("ingest of `{dataset}`"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A child that is killed when its start is given up.
struct Starting(Option<Child>);

impl Starting {
    fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.as_mut()?.stdout.take()
    }

    fn started(mut self) -> Child {
        self.0.take().expect("it is taken away only here")
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            end(child);
        }
    }
}

fn end(child: &mut Child) {
    // One that has ended by itself needs no kill; both are waited for.
    let _ = child.kill();
    let _ = child.wait();
}

/// The address on the first line of its output; the rest is read and dropped.
fn address_of(stdout: ChildStdout, log: &Path) -> Result<SocketAddr, BenchError> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(stdout);
        let mut line = String::new();
        if output.read_line(&mut line).is_ok_and(|length| length > 0) {
            // Nobody waits for it any more when the start was given up.
            let _ = sender.send(line);
        }
        drop(std::io::copy(&mut output, &mut std::io::sink()));
    });
    let line = receiver.recv_timeout(START_PATIENCE).map_err(|why| {
        let end = std::fs::read_to_string(log).unwrap_or_default();
        let last = end.lines().last().unwrap_or("it says nothing").to_owned();
        BenchError::Daemon(match why {
            RecvTimeoutError::Timeout => format!("not ready after {START_PATIENCE:?}: {last}"),
            RecvTimeoutError::Disconnected => last,
        })
    })?;
    let address = line.strip_prefix(READY).and_then(|a| a.trim().parse().ok());
    address.ok_or_else(|| BenchError::Daemon(format!("it says `{}`", line.trim())))
}

/// A runtime of this one thread, for the client's side.
pub(super) fn client_runtime() -> Result<Runtime, BenchError> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A body whose chunks are made on a thread of their own while the earlier ones are sent.
pub(super) fn generated(chunks: impl Iterator<Item = Bytes> + Send + 'static) -> Body {
    let (sender, receiver) = tokio::sync::mpsc::channel(CHUNKS_WAITING);
    std::thread::spawn(move || {
        for chunk in chunks {
            if sender.blocking_send(chunk).is_err() {
                return;
            }
        }
    });
    Body::wrap_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>))
}
