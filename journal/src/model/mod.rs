//! What the lake is, as a function of its events: commands, events, errors, state, decide, apply.
//! Pure: no I/O, no clock, no randomness, no `HashMap`. Owners call `decide`; replay calls `apply`.

pub mod access;
pub mod bucket;
pub mod catalog;
pub mod error;
pub mod event;
pub mod fold;
pub mod lake;
pub mod scheduler;

use serde::{Serialize, de::DeserializeOwned};

use crate::record::{Actor, Micros, Seq};

pub use error::{ErrorKind, ModelError};
pub use event::Event;
pub use fold::Fold;
pub use lake::LakeState;

/// What `decide` may know of the world besides state and command.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// The time of the decision.
    pub at: Micros,
    /// A fresh unique id, for what the decision names.
    pub id: String,
    /// Who asks.
    pub actor: Actor,
}

/// What `apply` may know besides state and event: the envelope.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a> {
    /// Position of the event.
    pub seq: Seq,
    /// When it was decided.
    pub at: Micros,
    /// Who asked for it.
    pub actor: &'a Actor,
}

/// One owner's part of the lake: the only code that changes its state.
pub trait Aggregate:
    Default + Clone + Send + Sync + Serialize + DeserializeOwned + 'static
{
    /// What it can be asked to do.
    type Command: Clone + Send + Unpin + std::fmt::Debug + 'static;
    /// What can happen to it.
    type Event: Clone + Send + Sync + Unpin + Into<Event> + 'static;

    /// What should happen. Reads state and command only; time and fresh ids come in `stamp`.
    ///
    /// # Errors
    /// A [`ModelError`] that says which rule refuses the command; nothing has changed then.
    fn decide(
        &self,
        command: &Self::Command,
        stamp: &Stamp,
    ) -> Result<Vec<Self::Event>, ModelError>;

    /// What happened. Total: a stored event is a fact, so this neither fails nor validates.
    fn apply(&mut self, meta: Meta<'_>, event: &Self::Event);

    /// What is left to do: recomputed after every apply and after replay, so lost work comes back.
    fn pending(&self) -> Vec<Work>;
}

/// Work that follows from state and that a worker does.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// Build this generation of an index and report it to the catalog.
    BuildGeneration {
        /// The index.
        index: String,
        /// The generation's number.
        generation: u64,
        /// The job that its progress is shown under.
        job: String,
    },
    /// Take rows that were deleted for good out of every place, and confirm it.
    EraseRows {
        /// The dataset.
        dataset: String,
    },
    /// Merge files of a dataset, as its policy says.
    CompactFiles {
        /// The dataset.
        dataset: String,
    },
    /// Bring the embeddings of a dataset up to date.
    RefreshEmbeddings {
        /// The dataset.
        dataset: String,
    },
    /// Delete objects that nothing points at.
    DeleteObjects,
}
