//! The index's directories: which generation is current, what was quarantined, how often opening failed.
//! Generation numbers are never used twice. Touches directories and small files only.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::LogError;
use super::io::{Io, create_dir, remove_if_there, replace_file, sync_dir};
use super::mirror::files;
use crate::record::Seq;

/// The layout that this version writes; another one is rebuilt from the mirror.
const FORMAT: u32 = 1;
/// How many broken generations are kept for a person to look at.
const QUARANTINED_MAX: usize = 2;
/// After so many attempts to open a generation that did not end, it is not asked again.
const ATTEMPTS_MAX: u32 = 2;

/// The small file that names the current generation.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct GenerationFile {
    format: u32,
    generation: u64,
    first_seq: Seq,
}

/// The directories of the index.
#[derive(Debug)]
pub struct Generations<'a> {
    dir: &'a Path,
    io: &'a dyn Io,
}

impl<'a> Generations<'a> {
    /// Over the journal's directory.
    pub fn new(dir: &'a Path, io: &'a dyn Io) -> Self {
        Self { dir, io }
    }

    /// The directory of a generation.
    pub fn path(&self, generation: u64) -> PathBuf {
        self.dir.join(format!("gen-{generation:06}"))
    }

    /// The current generation, if there is one that this version can read.
    pub fn current(&self) -> Option<u64> {
        let bytes = std::fs::read(self.dir.join("generation.json")).ok()?;
        let file: GenerationFile = serde_json::from_slice(&bytes).ok()?;
        (file.format == FORMAT && self.path(file.generation).is_dir()).then_some(file.generation)
    }

    /// Creates the next generation's directory and makes it current; earlier ones are removed.
    ///
    /// # Errors
    /// `Io`.
    pub fn start_next(&self) -> Result<u64, LogError> {
        let mut newest = 0;
        let named = std::fs::read(self.dir.join("generation.json")).ok();
        if let Some(file) = named.and_then(|b| serde_json::from_slice::<GenerationFile>(&b).ok()) {
            newest = file.generation;
        }
        let quarantine = self.quarantine_dir();
        for dir in [self.dir, &quarantine] {
            for path in if dir.is_dir() {
                files(dir)?
            } else {
                Vec::new()
            } {
                newest = newest.max(number(&path).unwrap_or(0));
            }
        }
        let generation = newest + 1;
        // Before anything is written: what is given up may hold the space that is missing.
        self.remove_all();
        create_dir(self.io, &self.path(generation))?;
        let file = GenerationFile {
            format: FORMAT,
            generation,
            first_seq: 1,
        };
        let json = serde_json::to_vec(&file).expect("numbers encode");
        replace_file(self.io, &self.dir.join("generation.json"), &json)?;
        Ok(generation)
    }

    /// Moves a broken generation aside, with the reason beside it, and keeps only the newest few.
    ///
    /// # Errors
    /// `Io`.
    pub fn quarantine(&self, generation: u64, reason: &str) -> Result<(), LogError> {
        let broken = self.path(generation);
        if !broken.is_dir() {
            return Ok(());
        }
        tracing::warn!(
            generation,
            reason,
            "quarantining a broken journal index; it is rebuilt from the mirror"
        );
        let quarantine = self.quarantine_dir();
        create_dir(self.io, &quarantine)?;
        let target = quarantine.join(format!("gen-{generation:06}"));
        let moved = self.io.rename(&broken, &target);
        moved.map_err(|e| LogError::io("rename", &broken, &e))?;
        self.forget_old(&quarantine);
        replace_file(self.io, &target.with_extension("reason"), reason.as_bytes())?;
        sync_dir(self.io, self.dir)
    }

    /// Removes what was quarantined: a disk that cannot hold the next generation may need its space.
    pub fn empty_quarantine(&self) {
        remove_tree(&self.quarantine_dir());
    }

    /// Counts an attempt to open; `false` when so many did not end that the generation must not be asked again.
    ///
    /// # Errors
    /// `Io`.
    pub fn begin_attempt(&self) -> Result<bool, LogError> {
        let path = self.attempts_file();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let attempts: u32 = text.trim().parse().unwrap_or(0);
        if attempts >= ATTEMPTS_MAX {
            return Ok(false);
        }
        replace_file(self.io, &path, (attempts + 1).to_string().as_bytes())?;
        Ok(true)
    }

    /// The attempt ended, whichever way.
    ///
    /// # Errors
    /// `Io`.
    pub fn end_attempt(&self) -> Result<(), LogError> {
        remove_if_there(self.io, &self.attempts_file())
    }

    fn attempts_file(&self) -> PathBuf {
        self.dir.join("index-open-attempts")
    }

    fn quarantine_dir(&self) -> PathBuf {
        self.dir.join("quarantine")
    }

    /// Generations that were given up or never finished.
    fn remove_all(&self) {
        for path in files(self.dir).unwrap_or_default() {
            if number(&path).is_some() {
                remove_tree(&path);
            }
        }
    }

    fn forget_old(&self, quarantine: &Path) {
        let paths = files(quarantine).unwrap_or_default();
        let mut numbers: Vec<u64> = paths.iter().filter_map(|p| number(p)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let old = numbers.len().saturating_sub(QUARANTINED_MAX);
        for generation in &numbers[..old] {
            let path = quarantine.join(format!("gen-{generation:06}"));
            remove_tree(&path);
            let reason = path.with_extension("reason");
            if let Err(error) = remove_if_there(self.io, &reason) {
                tracing::warn!(%error, "an old reason stays in quarantine");
            }
        }
    }
}

fn remove_tree(path: &Path) {
    if path.is_dir()
        && let Err(error) = std::fs::remove_dir_all(path)
    {
        tracing::warn!(dir = %path.display(), %error, "an unused index directory stays");
    }
}

/// The number in `gen-000123` or `gen-000123.reason`.
fn number(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?;
    name.strip_prefix("gen-")?.split('.').next()?.parse().ok()
}
