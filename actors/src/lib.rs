//! Who does what, when: owners that decide and apply, workers that do the long work, and the
//! supervision of both. The edge holds a [`Lake`]; nothing here names a storage or HTTP library.

mod background;
mod compaction;
mod deletion;
mod deltas;
mod erasure;
mod error;
mod gate;
mod history;
mod housekeeping;
mod indexing;
mod ingest;
mod jobs;
mod lake;
mod leftovers;
mod owner;
mod places;
pub mod ports;
mod quality;
mod refresh;
mod rescue;
mod scheduler;
mod start;
mod supervision;
mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod trigger;
mod view_files;
mod worker;
mod writer;

pub use compaction::Compacted;
pub use deletion::Tombstoned;
pub use deltas::{DeltaStore, IndexChange};
pub use erasure::Erased;
pub use error::{LakeError, PortError};
pub use housekeeping::{Chore, SNAPSHOT_EVENTS};
pub use ingest::{IngestRequest, Ingested};
pub use jobs::{Job, JobState, JobView, Jobs};
pub use lake::{Lake, StateReport};
pub use leftovers::Leftovers;
pub use owner::{Caller, Committed};
pub use places::{Moved, Repaired};
pub use refresh::Refreshed;
pub use rescue::RescueState;
pub use scheduler::{ScheduleInfo, ScheduledTask, Trigger};
pub use start::{Parts, StartReport, start};
pub use supervision::{ActorHealth, LifeState};
pub use writer::{Journal, RebuildError, Replayed};
