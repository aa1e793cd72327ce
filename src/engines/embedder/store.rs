//! Vectors that were paid for, by what they were made of: a keyed hash of the text, for each dataset
//! and model a file of its own below `<data-dir>/embeddings/`. A batch is durable when `put` returns,
//! so a refresh that is killed pays for nothing twice. It holds no text and no key of a row; what
//! texts that are gone left in it goes with `keep_only`, and a dataset's folder goes with it.

mod file;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use lakehouse_actors::{PortError, ports::TextVector};
use lakehouse_journal::{
    model::{ErrorKind, catalog::ModelIdentity},
    record::Seq,
};
use parking_lot::Mutex;

use self::file::VectorFile;
use crate::engines::keyring::{KeyringError, random_secret};

/// The secret's name in the keyring.
const SECRET: &str = "embeddings.key";

/// What a text is known by: the first half of a keyed blake3 over model and text.
pub type TextKey = [u8; 16];

/// A file that several readers and writers have open.
type SharedFile = Arc<Mutex<VectorFile>>;

/// Every dataset's vectors.
pub struct VectorStore {
    dir: PathBuf,
    secret: [u8; 32],
    open: Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    files: HashMap<(String, ModelIdentity), SharedFile>,
    /// Through which deletion each dataset was swept by this process: a file that is begun later by
    /// whoever read texts before takes nothing.
    swept: HashMap<String, Seq>,
}

impl Opened {
    fn of<'a>(&'a self, dataset_id: &'a str) -> impl Iterator<Item = (String, SharedFile)> + 'a {
        let files = self.files.iter();
        let mine = files.filter(move |((id, _), _)| id == dataset_id);
        mine.map(|((_, model), file)| (file_name(model), Arc::clone(file)))
    }

    fn note_swept(&mut self, dataset_id: &str, through: Seq) {
        let swept = self.swept.entry(dataset_id.to_owned()).or_default();
        *swept = through.max(*swept);
    }
}

/// Texts of a dataset that are used, for one model.
pub struct Used {
    /// The model.
    pub model: ModelIdentity,
    /// Their keys.
    pub texts: HashSet<TextKey>,
}

/// The vectors of one dataset by one model.
#[derive(Clone)]
pub struct Kept {
    secret: [u8; 32],
    model: ModelIdentity,
    file: SharedFile,
    /// Position of the last deletion that the texts' reader has seen.
    seen: Seq,
}

impl VectorStore {
    /// The store below a data directory; its secret is made when it is not there.
    ///
    /// # Errors
    /// When the keyring cannot be used.
    pub fn open(data_dir: &Path) -> Result<Self, KeyringError> {
        Ok(Self {
            dir: data_dir.join("embeddings"),
            secret: random_secret(data_dir, SECRET)?,
            open: Mutex::default(),
        })
    }

    /// The vectors of a dataset by a model, for a reader of texts that has seen every deletion up to
    /// `seen`: what it puts is not taken once later ones have been swept out.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be read.
    pub fn kept(
        &self,
        dataset_id: &str,
        model: &ModelIdentity,
        seen: Seq,
    ) -> Result<Kept, PortError> {
        let mut open = self.open.lock();
        let name = (dataset_id.to_owned(), model.clone());
        let file = if let Some(file) = open.files.get(&name) {
            Arc::clone(file)
        } else {
            let path = self.dir.join(dataset_id).join(file_name(model));
            let swept = open.swept.get(dataset_id).copied().unwrap_or(0);
            let file = open_or_begin(&path, model.dimensions, seen.max(swept));
            let file = Arc::new(Mutex::new(file.map_err(|error| failed(&error))?));
            open.files.insert(name, Arc::clone(&file));
            file
        };
        Ok(Kept {
            secret: self.secret,
            model: model.clone(),
            file,
            seen,
        })
    }

    /// Removes everything of a dataset but these, from every model's file: true of all deletions up
    /// to `through`. Models that nobody uses any more go whole.
    ///
    /// # Errors
    /// `Unavailable` when a file cannot be written anew.
    pub fn keep_only(
        &self,
        dataset_id: &str,
        used: &[Used],
        through: Seq,
    ) -> Result<(), PortError> {
        let dir = self.dir.join(dataset_id);
        self.open.lock().note_swept(dataset_id, through);
        let mut named: HashSet<String> = HashSet::new();
        for Used { model, texts } in used {
            let name = file_name(model);
            let is_open = self
                .open
                .lock()
                .of(dataset_id)
                .any(|(open, _)| open == name);
            if is_open || dir.join(&name).exists() {
                let kept = self.kept(dataset_id, model, through)?;
                let mut file = kept.file.lock();
                file.keep_only(texts, through)
                    .map_err(|error| failed(&error))?;
            }
            named.insert(name);
        }
        self.remove_others(dataset_id, &named, through)
            .map_err(|error| failed(&error))
    }

    /// Removes the files of a dataset that do not have these names.
    fn remove_others(
        &self,
        dataset_id: &str,
        named: &HashSet<String>,
        through: Seq,
    ) -> io::Result<()> {
        let open: Vec<_> = self.open.lock().of(dataset_id).collect();
        for (_, file) in open.iter().filter(|(name, _)| !named.contains(name)) {
            // Whoever still has it puts nothing into it any more.
            file.lock().keep_only(&HashSet::new(), through)?;
        }
        let mut opened = self.open.lock();
        let stays =
            |id: &str, model: &ModelIdentity| id != dataset_id || named.contains(&file_name(model));
        opened.files.retain(|(id, model), _| stays(id, model));
        let dir = self.dir.join(dataset_id);
        for name in names_in(&dir)? {
            if !named.contains(&name) {
                std::fs::remove_file(dir.join(name))?;
            }
        }
        Ok(())
    }

    /// Whether anything is there that was put before the deletions up to `through` were swept out;
    /// and how many files were looked at.
    ///
    /// # Errors
    /// `Unavailable` when the folder cannot be read.
    pub fn may_hold(&self, dataset_id: &str, through: Seq) -> Result<(u64, bool), PortError> {
        let dir = self.dir.join(dataset_id);
        let names = names_in(&dir).map_err(|error| failed(&error))?;
        let mut older = false;
        for name in &names {
            // What cannot be told may hold anything.
            older |= file::swept_through(&dir.join(name)).is_none_or(|swept| swept < through);
        }
        Ok((names.len() as u64, older))
    }

    /// Removes the folders of datasets that are not among these.
    ///
    /// # Errors
    /// `Unavailable` when a folder cannot be removed.
    pub fn keep_datasets(&self, ids: &BTreeSet<String>) -> Result<(), PortError> {
        let mut here: BTreeSet<String> = BTreeSet::new();
        here.extend(names_in(&self.dir).map_err(|error| failed(&error))?);
        here.extend(self.open.lock().files.keys().map(|(id, _)| id.clone()));
        for gone in here.difference(ids) {
            self.open.lock().note_swept(gone, Seq::MAX);
            let removed = self.remove_others(gone, &HashSet::new(), Seq::MAX);
            let removed = removed.and_then(|()| match std::fs::remove_dir(self.dir.join(gone)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            });
            removed.map_err(|error| failed(&error))?;
        }
        Ok(())
    }
}

/// A file that is there, or a new one. One that is of something else is no loss: its texts are paid for
/// again.
fn open_or_begin(path: &Path, dimensions: u32, seen: Seq) -> io::Result<VectorFile> {
    match VectorFile::open(path, dimensions, seen) {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            tracing::warn!(%error, "kept vectors cannot be read and are begun anew");
            std::fs::remove_file(path)?;
            VectorFile::open(path, dimensions, seen)
        }
        opened => opened,
    }
}

impl Kept {
    /// The key of a text.
    pub fn key(&self, text: &str) -> TextKey {
        text_key(&self.secret, &self.model, text)
    }

    /// What is known of each of these texts.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be read.
    pub fn get(&self, keys: &[TextKey]) -> Result<Vec<Option<TextVector>>, PortError> {
        let file = self.file.lock();
        let found: io::Result<Vec<_>> = keys.iter().map(|key| file.get(key)).collect();
        found.map_err(|error| failed(&error))
    }

    /// That the model has refused a text, and why.
    pub fn refusal(&self, key: &TextKey) -> Option<TextVector> {
        self.file.lock().refusal(key)
    }

    /// Keeps what became of texts; durable when it returns.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be written.
    pub fn put(&self, batch: &[(TextKey, TextVector)]) -> Result<(), PortError> {
        let mut file = self.file.lock();
        // Some of these texts may be of rows that were swept out meanwhile.
        if file.swept() > self.seen {
            return Ok(());
        }
        file.put(batch).map_err(|error| failed(&error))
    }

    /// Forgets which texts were refused, so that they are tried again. Returns how many.
    ///
    /// # Errors
    /// `Unavailable` when it cannot be written.
    pub fn forget_refusals(&self) -> Result<u64, PortError> {
        let forgotten = self.file.lock().forget_refusals();
        forgotten.map_err(|error| failed(&error))
    }
}

fn text_key(secret: &[u8; 32], model: &ModelIdentity, text: &str) -> TextKey {
    let mut hasher = blake3::Hasher::new_keyed(secret);
    for part in [&model.provider, &model.model, &model.version] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.update(&model.dimensions.to_le_bytes());
    hasher.update(text.as_bytes());
    let hash = hasher.finalize();
    let (key, _) = hash.as_bytes().split_at(16);
    key.try_into().expect("half of 32 bytes")
}

/// A file's name says which model it is of, without anything that a file system does not take.
fn file_name(model: &ModelIdentity) -> String {
    let text = format!(
        "{}\n{}\n{}\n{}",
        model.provider, model.model, model.version, model.dimensions
    );
    format!("{}.vectors", &blake3::hash(text.as_bytes()).to_hex()[..24])
}

/// Names in a folder; none when it is not there.
fn names_in(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn failed(error: &io::Error) -> PortError {
    tracing::error!(%error, "the kept vectors cannot be used");
    let full = error.kind() == io::ErrorKind::StorageFull;
    let (code, text) = if full {
        ("disk_full", "there is no room for vectors")
    } else {
        (
            "embeddings_unavailable",
            "the kept vectors cannot be read or written",
        )
    };
    PortError::new(ErrorKind::Unavailable, code, text)
}
