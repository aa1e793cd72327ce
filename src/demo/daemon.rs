//! The demo's own daemon: a child process of the same program.
//! Started, killed and stopped here; what it says goes to a log file in its data directory.

use std::{
    fs::OpenOptions,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use super::{DemoError, place::Place};

/// What `serve` prints before its address.
const READY: &str = "listening on http://";
/// How long a start may take; a replay after a crash is part of it.
const START_PATIENCE: Duration = Duration::from_mins(2);
/// How long a clean stop may take.
const STOP_PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Lines of the log that an error shows.
const SHOWN_LINES: usize = 12;

/// A running daemon. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Daemon {
    child: Child,
    address: SocketAddr,
    url: String,
    log: PathBuf,
}

impl Daemon {
    /// Starts `serve` on the place's directory and waits until it answers requests.
    pub(super) fn start(place: &Place, listen: SocketAddr) -> Result<Self, DemoError> {
        let log = place.log();
        let failed = |source| DemoError::File {
            path: log.clone(),
            source,
        };
        let file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(failed)?;
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(["serve", "--listen", &listen.to_string(), "--data-dir"])
            .arg(&place.dir)
            .current_dir(&place.dir)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(file)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take().expect("standard output is piped");
        let mut daemon = Self {
            child,
            address: listen,
            url: String::new(),
            log,
        };
        daemon.address = daemon.await_ready(&first_line(stdout))?;
        daemon.url = format!("http://{}", daemon.address);
        Ok(daemon)
    }

    fn await_ready(&mut self, lines: &Receiver<String>) -> Result<SocketAddr, DemoError> {
        let deadline = Instant::now() + START_PATIENCE;
        loop {
            match lines.recv_timeout(POLL) {
                Ok(line) => {
                    let address = line.strip_prefix(READY).and_then(|a| a.trim().parse().ok());
                    let odd = || self.failed(&format!("the daemon says `{}`", line.trim()));
                    return address.ok_or_else(odd);
                }
                Err(RecvTimeoutError::Timeout) => {}
                // It closed its output; the loop finds out how it ends.
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(POLL),
            }
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(self.failed(&format!("the daemon does not start ({status})")));
            }
            if Instant::now() > deadline {
                let seconds = START_PATIENCE.as_secs();
                return Err(self.failed(&format!("the daemon is not ready after {seconds} s")));
            }
        }
    }

    /// `http://ADDRESS`.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens: the port it took when it was to take a free one.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills it as `kill -9` does: it gets no chance to write anything.
    pub(super) fn kill9(mut self) -> Result<(), DemoError> {
        let killed = self.child.kill().and_then(|()| self.child.wait());
        killed
            .map(drop)
            .map_err(|e| self.failed(&format!("the daemon cannot be killed: {e}")))
    }

    /// Stops it as SIGTERM does, and checks that it ends with status 0.
    pub(super) fn stop(&mut self) -> Result<(), DemoError> {
        match self.terminate() {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(&format!("the daemon stopped with {status}"))),
            None => {
                let seconds = STOP_PATIENCE.as_secs();
                Err(self.failed(&format!("the daemon did not stop within {seconds} s")))
            }
        }
    }

    /// Returns when it has ended by itself.
    pub(super) async fn ended(&mut self) -> ExitStatus {
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// An error about it, with the end of its log.
    pub(super) fn failed(&self, what: &str) -> DemoError {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
        let log = if shown.is_empty() {
            String::new()
        } else {
            format!(
                "; the end of {}:\n  {}",
                self.log.display(),
                shown.join("\n  ")
            )
        };
        DemoError::Daemon {
            what: what.to_owned(),
            log,
        }
    }

    /// Sends SIGTERM and waits; kills it when that does not help.
    fn terminate(&mut self) -> Option<ExitStatus> {
        if let Ok(Some(status)) = self.child.try_wait() {
            return Some(status);
        }
        send_sigterm(self.child.id());
        let deadline = Instant::now() + STOP_PATIENCE;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Some(status);
            }
            std::thread::sleep(POLL);
        }
        drop(self.child.kill().and_then(|()| self.child.wait()));
        None
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.terminate();
    }
}

/// The first line of the output; the rest is read and dropped, so that the daemon can always write.
fn first_line(stdout: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut output = BufReader::new(stdout);
        let mut line = String::new();
        if output.read_line(&mut line).is_ok_and(|length| length > 0) {
            // Nobody waits for it any more when the start was given up.
            drop(sender.send(line));
        }
        drop(std::io::copy(&mut output, &mut std::io::sink()));
    });
    receiver
}

fn send_sigterm(pid: u32) {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return;
    };
    #[expect(
        unsafe_code,
        reason = "the standard library has no other signal than SIGKILL"
    )]
    // SAFETY: `kill` takes no pointers; the child is not waited for yet, so the id is still its own.
    unsafe {
        libc::kill(pid, libc::SIGTERM);
    }
}
