//! A `lakehouse serve` of its own for one test: a fresh data directory, a free port, killed when dropped.
//! Tests stop it cleanly, kill it at any moment and start it again on what is left in the directory.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::PATIENCE;
use super::api::Api;

const READY: &str = "listening on ";
const STDERR_TAIL_LINES: usize = 40;

/// Where a daemon lives, and how it is started; outlives the processes that run in it.
pub struct Site {
    root: TempDir,
    env: Vec<(String, String)>,
    /// Bytes that a file of the daemon's may have.
    file_limit: Option<u64>,
}

/// A running daemon.
pub struct Daemon {
    site: Option<Site>,
    child: Option<Child>,
    base: String,
    token: String,
    /// From the start of the process to its ready line.
    pub ready_after: Duration,
}

/// A process that was started and has not said yet that it is ready.
pub struct Starting {
    child: Option<Child>,
    ready: Receiver<String>,
    since: Instant,
    /// Where its own lines begin in the site's log.
    log_from: usize,
}

/// A daemon that ended instead of becoming ready.
#[derive(Debug)]
pub struct Refusal {
    /// How it ended.
    pub status: ExitStatus,
    /// The last lines that it wrote to its standard error.
    pub stderr: String,
}

impl Site {
    /// An empty directory; `env` is given to every process that is started in it.
    pub fn new(env: &[(&str, &str)]) -> Self {
        let root = tempfile::Builder::new()
            .prefix("lakehouse-test-")
            .tempdir()
            .unwrap();
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            root,
            env: env.collect(),
            file_limit: None,
        }
    }

    /// Its daemons cannot make a file longer than this: the write fails, as on a full disk.
    #[must_use]
    pub fn with_file_limit(mut self, bytes: u64) -> Self {
        self.file_limit = Some(bytes);
        self
    }

    /// Without that limit again.
    #[must_use]
    pub fn without_file_limit(mut self) -> Self {
        self.file_limit = None;
        self
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.root.path().join("data")
    }

    /// A directory beside the data directory, for whatever a test needs.
    pub fn scratch(&self) -> &Path {
        self.root.path()
    }

    /// `lakehouse` with the site's environment and nothing else of the configuration around it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let binary = env!("CARGO_BIN_EXE_lakehouse");
        let mut command = match self.file_limit {
            None => Command::new(binary),
            Some(bytes) => {
                // The limit is in blocks of 512 bytes, and its signal would end the process.
                let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", bytes / 512);
                let mut shell = Command::new("sh");
                shell.args(["-c", &limited, "sh", binary]);
                shell
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("LAKEHOUSE")) {
            command.env_remove(name);
        }
        command
            .args(arguments)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.root.path())
            .stdin(Stdio::null());
        command
    }

    /// Starts the process and returns at once.
    pub fn spawn(&self) -> Starting {
        let data_dir = self.data_dir();
        let data_dir = data_dir.to_str().unwrap();
        let arguments = ["serve", "--data-dir", data_dir, "--listen", "127.0.0.1:0"];
        let (since, log_from) = (Instant::now(), self.stderr().len());
        let mut child = self
            .command(&arguments)
            .stdout(Stdio::piped())
            .stderr(self.stderr_file())
            .spawn()
            .expect("the binary under test can be started");
        let stdout = child.stdout.take().expect("stdout is piped");
        Starting {
            child: Some(child),
            ready: ready_line(stdout),
            since,
            log_from,
        }
    }

    /// Starts a daemon and waits until it is ready.
    ///
    /// # Errors
    /// When the process ends before that.
    ///
    /// # Panics
    /// When it neither ends nor becomes ready in time.
    pub fn start(self) -> Result<Daemon, (Self, Refusal)> {
        let mut starting = self.spawn();
        match starting.ready(&self.stderr_path()) {
            Ok(base) => {
                let token = fs::read_to_string(self.data_dir().join("admin.token"))
                    .expect("a ready daemon has written its admin.token");
                Ok(Daemon {
                    child: starting.child.take(),
                    base,
                    token: token.trim().to_owned(),
                    ready_after: starting.since.elapsed(),
                    site: Some(self),
                })
            }
            Err(refusal) => Err((self, refusal)),
        }
    }

    /// Everything that processes of this site wrote to their standard error.
    pub fn stderr(&self) -> String {
        fs::read_to_string(self.stderr_path()).unwrap_or_default()
    }

    fn stderr_path(&self) -> PathBuf {
        self.root.path().join("stderr.log")
    }

    fn stderr_file(&self) -> File {
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.stderr_path())
            .unwrap()
    }
}

impl Starting {
    /// Kills the process without waiting for it to be ready.
    pub fn kill9(mut self) {
        kill(&mut self.child);
    }

    fn ready(&mut self, stderr: &Path) -> Result<String, Refusal> {
        let deadline = self.since + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.ready.recv_timeout(left.min(Duration::from_millis(50))) {
                Ok(line) => {
                    let base = line.strip_prefix(READY).unwrap_or_else(|| {
                        panic!("the first line is `{line}`, not `{READY}http://…`")
                    });
                    return Ok(base.trim().to_owned());
                }
                Err(RecvTimeoutError::Timeout) => {}
                // It closed its output, so it is about to end.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            let child = self.child.as_mut().expect("a starting process is there");
            if let Some(status) = child.try_wait().unwrap() {
                self.child = None;
                return Err(Refusal {
                    status,
                    stderr: tail(stderr, self.log_from),
                });
            }
            assert!(
                Instant::now() < deadline,
                "no ready line within {PATIENCE:?}; stderr:\n{}",
                tail(stderr, self.log_from)
            );
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        kill(&mut self.child);
    }
}

impl Daemon {
    /// A daemon with the default configuration on an empty directory.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A daemon with these environment variables on an empty directory.
    pub fn start_with(env: &[(&str, &str)]) -> Self {
        Self::start_at(Site::new(env))
    }

    /// A daemon on what is in the site.
    ///
    /// # Panics
    /// When it refuses to start; shows what it wrote.
    pub fn start_at(site: Site) -> Self {
        site.start().unwrap_or_else(|(_, refusal)| {
            panic!(
                "the daemon did not start: {}\n{}",
                refusal.status, refusal.stderr
            )
        })
    }

    /// The address, as `http://127.0.0.1:PORT`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Its process.
    ///
    /// # Panics
    /// When it was stopped.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a daemon has a process").id()
    }

    /// The admin's token.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// A client with the admin's token.
    pub fn admin(&self) -> Api {
        Api::new(&self.base, Some(&self.token))
    }

    /// A client with another token, or none.
    pub fn client(&self, token: Option<&str>) -> Api {
        Api::new(&self.base, token)
    }

    /// The directory that it runs in.
    pub fn site(&self) -> &Site {
        self.site
            .as_ref()
            .expect("a daemon has a site until it is stopped")
    }

    /// Kills it as a power cut would: no handler runs.
    pub fn kill9(mut self) -> Site {
        kill(&mut self.child);
        self.into_site()
    }

    /// Asks it to stop and waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn sigterm(mut self) -> (Site, ExitStatus) {
        let mut child = self.child.take().expect("a daemon has a process");
        let signal = format!("kill -TERM {}", child.id());
        assert!(
            Command::new("sh")
                .args(["-c", &signal])
                .status()
                .unwrap()
                .success()
        );
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() >= deadline {
                let _ = child.kill();
                panic!(
                    "still there {PATIENCE:?} after SIGTERM; stderr:\n{}",
                    self.site().stderr()
                );
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        (self.into_site(), status)
    }

    /// Kills it and starts it again on the same directory.
    pub fn crash_and_restart(self) -> Self {
        Self::start_at(self.kill9())
    }

    fn into_site(mut self) -> Site {
        self.site
            .take()
            .expect("a daemon has a site until it is stopped")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        kill(&mut self.child);
        if let Some(site) = self.site.as_ref().filter(|_| std::thread::panicking()) {
            eprintln!(
                "--- stderr of the daemon ---\n{}",
                tail(&site.stderr_path(), 0)
            );
        }
    }
}

fn kill(child: &mut Option<Child>) {
    if let Some(mut child) = child.take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Reads the first line, and then everything else so that the pipe never fills.
fn ready_line(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        if let Some(Ok(line)) = lines.next() {
            let _ = sender.send(line);
        }
        lines.for_each(drop);
    });
    receiver
}

fn tail(path: &Path, from: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.get(from..).unwrap_or(&text).lines().collect();
    lines[lines.len().saturating_sub(STDERR_TAIL_LINES)..].join("\n")
}
