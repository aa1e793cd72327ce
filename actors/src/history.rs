//! The catalog as it was: states of the past, replayed out of the journal and kept for a while.
//! Reads only; what of a past state may still be shown is the model's to say.

use std::{collections::VecDeque, sync::Arc};

use lakehouse_journal::{
    model::{ErrorKind, catalog::CatalogState},
    record::{Micros, Seq},
};
use parking_lot::Mutex;

use crate::{
    error::{LakeError, PortError},
    lake::Lake,
};

/// States that are kept.
const STATES_MAX: usize = 8;

/// The states that were asked for last, newest last.
#[derive(Default)]
pub(crate) struct Past(Mutex<VecDeque<(Seq, Arc<CatalogState>)>>);

impl Past {
    fn find(&self, seq: Seq) -> Option<Arc<CatalogState>> {
        let known = self.0.lock();
        let found = known.iter().find(|(at, _)| *at == seq);
        found.map(|(_, state)| Arc::clone(state))
    }

    fn keep(&self, seq: Seq, state: &Arc<CatalogState>) {
        let mut known = self.0.lock();
        if known.len() >= STATES_MAX {
            known.pop_front();
        }
        known.push_back((seq, Arc::clone(state)));
    }
}

impl Lake {
    /// The catalog's state after the event at `seq`.
    ///
    /// # Errors
    /// `Invalid` when the journal has no such position yet; otherwise when it cannot be read.
    pub async fn catalog_at(&self, seq: Seq) -> Result<Arc<CatalogState>, LakeError> {
        let newest = self.journal().reader().stats().events;
        if seq > newest {
            let text = format!("the journal ends at {newest}, before {seq}");
            return Err(PortError::new(ErrorKind::Invalid, "as_of_in_the_future", text).into());
        }
        if let Some(state) = self.inner.past.find(seq) {
            return Ok(state);
        }
        let journal = self.journal().clone();
        let replayed = tokio::task::spawn_blocking(move || journal.replay_to(seq))
            .await
            .map_err(|error| PortError::internal(error.to_string()))?
            .map_err(|error| PortError::internal(error.to_string()))?;
        let state = Arc::new(replayed.catalog.state);
        self.inner.past.keep(seq, &state);
        Ok(state)
    }

    /// Position of the last event at or before a time; 0 before the first. Blocking.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub fn seq_at(&self, time: Micros) -> Result<Seq, LakeError> {
        let reader = self.journal().reader();
        // Times ascend with positions, as one thread gives out both.
        let (mut before, mut after) = (0, reader.stats().events + 1);
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            let record = reader
                .scan(middle - 1, 1)
                .map_err(|error| PortError::internal(error.to_string()))?
                .into_iter()
                .next();
            match record {
                Some(record) if record.draft.at <= time => before = middle,
                _ => after = middle,
            }
        }
        Ok(before)
    }
}
