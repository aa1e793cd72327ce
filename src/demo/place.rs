//! The demo's data directory: whether it may be used, and what an earlier demo left in it.
//! A marker file says that a demo made it. Nothing without that marker is ever removed.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{DemoError, Options};

/// The file that says that a demo made the directory.
const MARKER: &str = "demo.json";
/// The file that a running daemon holds a lock on.
const LOCK: &str = "LOCK";
/// Where the demo's daemon logs to.
const LOG: &str = "daemon.log";

/// A directory that the demo may use.
#[derive(Debug)]
pub(super) struct Place {
    /// Absolute.
    pub(super) dir: PathBuf,
    /// As the person named it.
    named: PathBuf,
    rows: u64,
}

/// What was in the directory.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing, or a demo that was to be removed.
    Nothing,
    /// A demo that came to its end.
    Finished {
        /// Rows of its staffing tables.
        rows: u64,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Marker {
    made_by: String,
    rows: u64,
    finished: bool,
}

impl Place {
    /// Makes the directory, or finds out what is in it.
    pub(super) fn prepare(options: &Options) -> Result<(Self, Found), DemoError> {
        let dir = std::path::absolute(&options.data_dir);
        let mut place = Self {
            dir: dir.map_err(|e| file_error(&options.data_dir, e))?,
            named: options.data_dir.clone(),
            rows: options.rows,
        };
        let found = place.look(options)?;
        if found == Found::Nothing {
            fs::create_dir_all(&place.dir).map_err(|e| file_error(&place.dir, e))?;
            place.mark(false)?;
        }
        if let Found::Finished { rows } = found {
            place.rows = rows;
        }
        Ok((place, found))
    }

    fn look(&self, options: &Options) -> Result<Found, DemoError> {
        let Some(marker) = self.marker()? else {
            return self.must_be_empty();
        };
        self.must_be_idle()?;
        if options.fresh {
            fs::remove_dir_all(&self.dir).map_err(|e| file_error(&self.dir, e))?;
            return Ok(Found::Nothing);
        }
        let shown = self.shown();
        if !marker.finished {
            return Err(DemoError::Place(format!(
                "`{shown}` holds a demo that did not come to its end: `--fresh` removes it and \
                 begins again"
            )));
        }
        Ok(Found::Finished { rows: marker.rows })
    }

    fn marker(&self) -> Result<Option<Marker>, DemoError> {
        let path = self.dir.join(MARKER);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(file_error(&path, e)),
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            let path = path.display();
            DemoError::Place(format!(
                "`{path}` was not written by a demo ({e}); use another --data-dir"
            ))
        })
    }

    fn must_be_empty(&self) -> Result<Found, DemoError> {
        let mut entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(e) => return Err(file_error(&self.dir, e)),
        };
        if entries.next().is_none() {
            return Ok(Found::Nothing);
        }
        Err(DemoError::Place(format!(
            "`{}` is not empty and no demo made it: use another --data-dir",
            self.shown()
        )))
    }

    fn must_be_idle(&self) -> Result<(), DemoError> {
        let path = self.dir.join(LOCK);
        let lock = match File::open(&path) {
            Ok(lock) => lock,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(file_error(&path, e)),
        };
        match lock.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(DemoError::Place(format!(
                "a daemon is running on `{}`: stop it first, or use another --data-dir",
                self.shown()
            ))),
            Err(TryLockError::Error(e)) => Err(file_error(&path, e)),
        }
    }

    /// Notes that the demo came to its end: the next one resumes here.
    pub(super) fn mark_finished(&self) -> Result<(), DemoError> {
        self.mark(true)
    }

    fn mark(&self, finished: bool) -> Result<(), DemoError> {
        let marker = Marker {
            made_by: "lakehouse demo".to_owned(),
            rows: self.rows,
            finished,
        };
        let text = serde_json::to_vec_pretty(&marker).expect("a marker's fields are plain values");
        let (new, path) = (self.dir.join("demo.json.new"), self.dir.join(MARKER));
        fs::write(&new, text).map_err(|e| file_error(&new, e))?;
        fs::rename(&new, &path).map_err(|e| file_error(&path, e))
    }

    /// The directory as the person named it.
    pub(super) fn shown(&self) -> String {
        self.named.display().to_string()
    }

    /// Where the daemon's log goes.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join(LOG)
    }

    /// Says where the daemon's own account of a failure is.
    pub(super) fn point_at_the_log(&self) {
        println!("\nThe daemon's log is {}.", self.log().display());
    }

    /// The last lines, for whoever wants to go on.
    pub(super) fn what_to_try(&self, url: &str) -> String {
        let program = std::env::args()
            .next()
            .unwrap_or_else(|| "lakehouse".to_owned());
        let dir = self.shown();
        format!(
            "\nThe daemon stays up at {url}; its data is in {dir}, the admin token in \
             {dir}/admin.token.\nIn another terminal:\n\n  \
             export LAKEHOUSE_URL={url} LAKEHOUSE_DATA_DIR={dir}\n  \
             {program} search kb \"instrument that measures earthquakes\"\n  \
             {program} sql \"SELECT status, count(*) FROM placements GROUP BY status\"\n  \
             {program} journal tail\n\nCtrl-C stops it."
        )
    }
}

fn file_error(path: &Path, source: io::Error) -> DemoError {
    DemoError::File {
        path: path.to_path_buf(),
        source,
    }
}
