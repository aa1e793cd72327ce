//! What becomes of an index whose files are not what was built: it is never loaded, somebody is told, and
//! another generation is asked for.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::OnceLock,
    time::{Duration, Instant},
};

use lakehouse_actors::PortError;
use lakehouse_journal::model::{ErrorKind, catalog::Index};
use parking_lot::Mutex;

/// A damaged generation is told of once in so long: a build that is asked for may fail.
const AGAIN_AFTER: Duration = Duration::from_secs(30);

/// Called with the name of a damaged index.
type Tell = Box<dyn Fn(&str) + Send + Sync>;

/// Who is told of damage, and when what was told of last.
#[derive(Default)]
pub(super) struct Damage {
    tell: OnceLock<Tell>,
    told: Mutex<HashMap<(String, u64), Instant>>,
}

impl Damage {
    /// Tells of damage from now on; who is named first stays.
    pub fn tell(&self, tell: impl Fn(&str) + Send + Sync + 'static) {
        // Named once, by who puts the daemon together.
        let _ = self.tell.set(Box::new(tell));
    }

    /// Looks at why the generation that should answer cannot be opened, and says what is done about it.
    pub fn seen(&self, index: &Index, generation: u64, error: PortError) -> PortError {
        let Some(tell) = self.tell.get().filter(|_| error.kind == ErrorKind::Corrupt) else {
            return error;
        };
        let name = (index.name.clone(), generation);
        let mut told = self.told.lock();
        told.retain(|_, at| at.elapsed() < AGAIN_AFTER);
        if let Entry::Vacant(new) = told.entry(name) {
            new.insert(Instant::now());
            tracing::error!(index = index.name, generation, %error, "a damaged index is built anew");
            tell(&index.name);
        }
        let text = format!("{error}; index `{}` is being built anew", index.name);
        PortError::new(ErrorKind::Corrupt, "index_corrupt", text)
    }
}
