//! The main job on real data, narrated: seven tables and a knowledge base go in, SQL and semantic
//! search come out, two rows are deleted for good, the daemon is killed, and all of it is there again; an agent
//! asks for what it must not see, and for what it may.
//! It starts a daemon of its own and uses nothing but its REST API; every step checks what it claims.

pub mod data;

mod agent;
mod answers;
mod daemon;
mod forget;
mod load;
mod place;
mod script;
mod steps;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::ExitStatus,
};

use tokio::signal::unix::{SignalKind, signal};

use crate::cli::client::ClientError;
use daemon::Daemon;
use place::{Found, Place};
use script::Script;

/// How the demo runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where its daemon keeps its data.
    pub data_dir: PathBuf,
    /// The address of its daemon; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Rows of the seven staffing tables together.
    pub rows: u64,
    /// Stop the daemon at the end.
    pub exit: bool,
    /// Remove what an earlier demo left in `data_dir`, and begin again.
    pub fresh: bool,
}

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The directory holds something that the demo did not make, or may not remove.
    #[error("{0}")]
    Place(String),
    /// A file of the demo cannot be read or written.
    #[error("`{path}`: {source}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// What the operating system says.
        source: io::Error,
    },
    /// The daemon does not start, or does not stop.
    #[error("{what}{log}")]
    Daemon {
        /// What happened.
        what: String,
        /// The end of its log, or nothing.
        log: String,
    },
    /// A request was refused.
    #[error("{doing}: {source}")]
    Refused {
        /// What the demo was doing.
        doing: String,
        /// What the daemon said.
        source: ClientError,
    },
    /// An answer is not what the step claims.
    #[error("{doing}: {found}")]
    Wrong {
        /// What the demo was doing.
        doing: String,
        /// What it found instead.
        found: String,
    },
    /// SIGINT or SIGTERM came before the end.
    #[error("interrupted; `--fresh` begins again")]
    Interrupted,
}

impl DemoError {
    fn wrong(doing: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Wrong {
            doing: doing.into(),
            found: found.into(),
        }
    }
}

/// Says what was being done when a request was refused.
trait Doing<T> {
    fn doing(self, doing: &str) -> Result<T, DemoError>;
}

impl<T> Doing<T> for Result<T, ClientError> {
    fn doing(self, doing: &str) -> Result<T, DemoError> {
        self.map_err(|source| DemoError::Refused {
            doing: doing.to_owned(),
            source,
        })
    }
}

/// Runs the demo to its end; with `exit` the daemon is stopped then, else it stays up until SIGINT
/// or SIGTERM.
///
/// # Errors
/// [`DemoError`] for the first step that does not hold. The daemon is stopped in every case.
pub async fn run(options: Options) -> Result<(), DemoError> {
    must_be_free(options.listen)?;
    let (place, found) = Place::prepare(&options)?;
    let mut script = Script::new();
    let mut daemon = tokio::select! {
        played = play(&options, &place, &found, &mut script) => {
            played.inspect_err(|_| place.point_at_the_log())?
        }
        () = interrupted() => return Err(DemoError::Interrupted),
    };
    script.closing();
    if options.exit {
        daemon.stop()?;
        println!(
            "\nThe daemon was stopped. Its data stays in {}.",
            place.shown()
        );
        return Ok(());
    }
    stay_up(&mut daemon, &place).await
}

/// Says early, and before anything is made, that somebody else listens there.
fn must_be_free(listen: SocketAddr) -> Result<(), DemoError> {
    match TcpListener::bind(listen) {
        Ok(_) => Ok(()),
        Err(e) => Err(DemoError::Place(format!(
            "cannot listen on {listen} ({e}): `--listen 127.0.0.1:0` takes a free port"
        ))),
    }
}

async fn play(
    options: &Options,
    place: &Place,
    found: &Found,
    script: &mut Script,
) -> Result<Daemon, DemoError> {
    match found {
        Found::Nothing => {
            let daemon = steps::play(options, place, script).await?;
            place.mark_finished()?;
            Ok(daemon)
        }
        Found::Finished { rows } => steps::resume(*rows, options, place, script).await,
    }
}

async fn stay_up(daemon: &mut Daemon, place: &Place) -> Result<(), DemoError> {
    println!("{}", place.what_to_try(daemon.url()));
    tokio::select! {
        () = interrupted() => {
            println!("\nStopping the daemon.");
            daemon.stop()
        }
        status = daemon.ended() => Err(daemon.failed(&gone(status))),
    }
}

fn gone(status: ExitStatus) -> String {
    format!("the daemon ended by itself ({status})")
}

/// Returns when SIGINT or SIGTERM comes.
async fn interrupted() {
    let interrupt = signal(SignalKind::interrupt());
    let terminate = signal(SignalKind::terminate());
    let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
        // Without handlers the signals end the process by themselves.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
