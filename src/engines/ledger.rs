//! The ledger of deletions: a directory outside of every backup, one small file a deletion. The lake
//! lists what it deletes there before it answers; a data directory that was restored from a backup
//! reads it before it serves. Never holds row content: keys as they stand in the journal, and why.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use async_trait::async_trait;
use lakehouse_actors::{
    PortError,
    ports::{DeletionLedger, ListedDeletion},
};
use lakehouse_journal::model::ErrorKind;

/// A ledger in a directory.
pub struct DirLedger {
    dir: PathBuf,
}

impl DirLedger {
    /// The ledger in `dir`, made when it is not there.
    ///
    /// # Errors
    /// When the directory cannot be made or written.
    pub fn open(dir: PathBuf) -> io::Result<Self> {
        fs::create_dir_all(&dir)?;
        File::open(&dir)?.sync_all()?;
        Ok(Self { dir })
    }
}

#[async_trait]
impl DeletionLedger for DirLedger {
    async fn list(&self, deletion: &ListedDeletion) -> Result<(), PortError> {
        let dir = self.dir.join(&deletion.dataset_id);
        let text =
            serde_json::to_vec(deletion).map_err(|error| PortError::internal(error.to_string()))?;
        let name = format!(
            "{:020}-{}.json",
            deletion.seq,
            &blake3::hash(&text).to_hex()[..16]
        );
        on_a_thread(move || write_once(&dir, &name, &text)).await
    }

    async fn listed(&self) -> Result<Vec<ListedDeletion>, PortError> {
        let dir = self.dir.clone();
        on_a_thread(move || read_all(&dir)).await
    }
}

async fn on_a_thread<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, PortError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| PortError::internal(error.to_string()))?
        .map_err(|error| {
            tracing::error!(%error, "the ledger of deletions cannot be used");
            let text = "the ledger of deletions does not answer";
            PortError::new(ErrorKind::Unavailable, "ledger_unavailable", text)
        })
}

/// Writes a file that is there whole or not at all; the same file again is no error.
fn write_once(dir: &Path, name: &str, text: &[u8]) -> io::Result<()> {
    let path = dir.join(name);
    if path.exists() {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    let part = dir.join(format!("{name}.part"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&part)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&part, &path)?;
    File::open(dir)?.sync_all()?;
    if let Some(above) = dir.parent() {
        File::open(above)?.sync_all()?;
    }
    Ok(())
}

fn read_all(dir: &Path) -> io::Result<Vec<ListedDeletion>> {
    let mut all = Vec::new();
    for dataset in fs::read_dir(dir)? {
        let dataset = dataset?.path();
        if !dataset.is_dir() {
            continue;
        }
        for entry in fs::read_dir(dataset)? {
            let path = entry?.path();
            if path
                .extension()
                .is_some_and(|extension| extension == "json")
            {
                let deletion = serde_json::from_slice(&fs::read(&path)?)?;
                all.push(deletion);
            }
        }
    }
    all.sort_by_key(|deletion: &ListedDeletion| (deletion.at, deletion.seq));
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deletion(seq: u64) -> ListedDeletion {
        ListedDeletion {
            dataset: "people".to_owned(),
            dataset_id: "d-1".to_owned(),
            seq,
            at: i64::try_from(seq).unwrap(),
            rows: vec![format!("{seq}")],
            reason: "asked".to_owned(),
            actor: "admin".to_owned(),
        }
    }

    #[tokio::test]
    async fn what_is_listed_is_read_again_in_order_and_once() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = DirLedger::open(dir.path().join("ledger")).unwrap();
        for seq in [3, 1, 3, 2] {
            ledger.list(&deletion(seq)).await.unwrap();
        }
        let again = DirLedger::open(dir.path().join("ledger")).unwrap();
        let listed = again.listed().await.unwrap();
        assert_eq!(listed, [deletion(1), deletion(2), deletion(3)]);
    }

    #[tokio::test]
    async fn half_a_file_is_none_and_a_spoiled_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = DirLedger::open(dir.path().to_owned()).unwrap();
        ledger.list(&deletion(1)).await.unwrap();
        fs::write(dir.path().join("d-1/9.json.part"), b"{\"da").unwrap();
        assert_eq!(ledger.listed().await.unwrap().len(), 1);
        fs::write(dir.path().join("d-1/9.json"), b"{\"da").unwrap();
        let error = ledger.listed().await.unwrap_err();
        assert_eq!(error.code, "ledger_unavailable");
    }
}
