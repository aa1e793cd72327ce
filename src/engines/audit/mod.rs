//! The audit: who read or was refused what, one line an answer, chained by hashes and on disk before the
//! answer leaves. Holds no value of any row: names, counts and keyed hashes. The REST layer appends and
//! reads; nothing is ever changed or removed here.
//!
//! A line is `<blake3 of the rest, hex> <JSON>`, and the JSON holds the hash of the line before. One
//! thread writes; what waits is written together and synced once. After a failure nothing more is
//! taken, so that no answer leaves without its line.

mod chain;
mod entry;
mod files;
mod seal;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use lakehouse_journal::{model::ErrorKind, record::Micros};
use tokio::sync::{mpsc, oneshot};

pub use chain::{Broken, Verified};
pub use entry::{AuditEntry, AuditFilter, AuditLine, SeenRows};

use seal::Seal;
use writer::{Job, Writer};

/// Appends that wait for the writing thread before callers do.
const WAITING_MAX: usize = 1024;

/// Why the audit cannot be written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AuditError {
    /// It was found damaged or could not be written; the log has the cause.
    #[error("the audit cannot be written")]
    Closed,
    /// Its files cannot be read; the log has the cause.
    #[error("the audit cannot be read")]
    Unreadable,
}

impl AuditError {
    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        ErrorKind::Unavailable
    }

    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        "audit_unavailable"
    }
}

/// The audit in a directory.
pub struct AuditLog {
    dir: PathBuf,
    secret: [u8; 32],
    seal: Seal,
    /// Number of the last line that is on disk.
    written: Arc<AtomicU64>,
    jobs: mpsc::Sender<Job>,
}

impl AuditLog {
    /// Opens the audit in `dir`, with the secret behind its hashes; the directory is made when it is not there. A line that a crash left without its
    /// end is cut off; an audit that is damaged otherwise is opened for reading, and takes no line.
    ///
    /// # Errors
    /// When the directory cannot be made or read, or the system gives no thread.
    pub fn open(dir: &Path, secret: [u8; 32]) -> std::io::Result<Self> {
        let writer = Writer::open(dir)?;
        let written = writer.written();
        let (jobs, waiting) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || writer.run(waiting))?;
        Ok(Self {
            dir: dir.to_owned(),
            seal: Seal::new(&secret),
            secret,
            written,
            jobs,
        })
    }

    /// A fresh id for an answer. It says where about its line will stand, so that it is found again.
    pub fn receipt_id(&self) -> String {
        let next = self.written.load(Ordering::Relaxed) + 1;
        let random = uuid::Uuid::new_v4().simple().to_string();
        format!("r{next}-{}", &random[..20])
    }

    /// The line of an answer.
    ///
    /// # Errors
    /// [`AuditError::Unreadable`].
    pub async fn receipt(&self, id: &str) -> Result<Option<AuditLine>, AuditError> {
        let Some(from) = first_line(id) else {
            return Ok(None);
        };
        let (dir, id) = (self.dir.clone(), id.to_owned());
        on_a_thread(move || files::find(&dir, from, &id)).await
    }

    /// The lines with the rows of an answer that went on.
    ///
    /// # Errors
    /// [`AuditError::Unreadable`].
    pub async fn parts(&self, receipt: &str) -> Result<Vec<AuditLine>, AuditError> {
        let Some(from) = first_line(receipt) else {
            return Ok(Vec::new());
        };
        let (dir, receipt) = (self.dir.clone(), receipt.to_owned());
        on_a_thread(move || files::parts_of(&dir, from, &receipt)).await
    }

    /// What was asked, so that nobody but the daemon can read it; nothing when the system has no
    /// random bytes.
    pub fn seal(&self, receipt: &str, asked: &str) -> Option<String> {
        self.seal.close(receipt, asked)
    }

    /// What was asked, out of the line of its answer.
    pub fn unseal(&self, receipt: &str, sealed: &str) -> Option<String> {
        self.seal.open(receipt, sealed)
    }

    /// What stands for a row in the audit (hex): who has the secret can look a key up, nobody can read
    /// one off.
    pub fn row_hash(&self, dataset_id: &str, key: &str) -> String {
        self.hash(&["row", dataset_id, key])[..32].to_owned()
    }

    /// What stands for the content of a row of an answer: sums of these tell whether two answers have the
    /// same rows in whatever order, and nothing else.
    pub fn content_hash(&self, row: &[u8]) -> u128 {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        hasher.update(b"content");
        hasher.update(row);
        let mut first = [0; 16];
        hasher.finalize_xof().fill(&mut first);
        u128::from_le_bytes(first)
    }

    /// What stands for a statement (hex): the same text has the same one.
    pub fn statement_hash(&self, text: &str) -> String {
        self.hash(&["statement", text])[..32].to_owned()
    }

    fn hash(&self, parts: &[&str]) -> String {
        let mut hasher = blake3::Hasher::new_keyed(&self.secret);
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    /// Puts a line down; it is on disk when this returns. Returns its number.
    ///
    /// # Errors
    /// [`AuditError::Closed`]; what was to be told must not be told then.
    pub async fn append(&self, at: Micros, entry: AuditEntry) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        let job = Job { at, entry, reply };
        self.jobs.send(job).await.map_err(|_| AuditError::Closed)?;
        answer.await.map_err(|_| AuditError::Closed)?
    }

    /// Lines that pass the filter, newest first, at most its limit.
    ///
    /// # Errors
    /// [`AuditError::Unreadable`].
    pub async fn read(&self, filter: AuditFilter) -> Result<Vec<AuditLine>, AuditError> {
        let dir = self.dir.clone();
        on_a_thread(move || files::read(&dir, &filter)).await
    }

    /// As [`AuditLog::read`], on the calling thread.
    ///
    /// # Errors
    /// [`AuditError::Unreadable`].
    pub fn read_now(&self, filter: &AuditFilter) -> Result<Vec<AuditLine>, AuditError> {
        files::read(&self.dir, filter).map_err(|error| {
            tracing::error!(%error, "the audit cannot be read");
            AuditError::Unreadable
        })
    }

    /// Follows the chain from the first line to the last, which is not before the last one written here.
    ///
    /// # Errors
    /// [`AuditError::Unreadable`]; a broken chain is no error but a result.
    pub async fn verify(&self) -> Result<Verified, AuditError> {
        let (dir, written) = (self.dir.clone(), self.written.load(Ordering::Relaxed));
        on_a_thread(move || Ok(chain::verify(&dir)?.reaching(written))).await
    }
}

/// The line before which nothing of an answer stands.
fn first_line(receipt: &str) -> Option<u64> {
    let (number, _) = receipt.strip_prefix('r')?.split_once('-')?;
    number.parse().ok()
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, AuditError> {
    let done = tokio::task::spawn_blocking(work).await;
    let failed = |cause: &dyn std::fmt::Display| {
        tracing::error!(%cause, "the audit cannot be read");
        AuditError::Unreadable
    };
    done.map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))
}
