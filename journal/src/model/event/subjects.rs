//! Whose an event is and what it is about: the owner that applies it, the keys of the history.

use super::{AccessEvent, BucketEvent, CatalogEvent, Event, SchedulerEvent};
use crate::model::lake::OwnerId;

impl Event {
    /// Whose state it changes.
    pub fn owner(&self) -> OwnerId {
        match self {
            Self::Catalog(_) => OwnerId::Catalog,
            Self::Bucket(event) => OwnerId::Bucket(event.bucket().to_owned()),
            Self::Access(_) => OwnerId::Access,
            Self::Scheduler(_) => OwnerId::Scheduler,
        }
    }

    /// What it is about: `dataset:people`, `row:people:17`, `index:kb`; the key of the history.
    pub fn subjects(&self) -> Vec<String> {
        match self {
            Self::Catalog(event) => event.subjects(),
            Self::Bucket(event) => vec![format!("bucket:{}", event.bucket())],
            Self::Access(AccessEvent::TokenIssued(e)) => {
                vec![format!("token:{}", e.id), format!("token:{}", e.name)]
            }
            Self::Access(AccessEvent::TokenRevoked(e)) => vec![format!("token:{}", e.id)],
            Self::Access(AccessEvent::ToolRegistered(e)) => vec![format!("tool:{}", e.tool.name)],
            Self::Access(AccessEvent::ToolRemoved(e)) => vec![format!("tool:{}", e.tool)],
            Self::Scheduler(SchedulerEvent::TriggerFired(e)) => {
                vec![format!("trigger:{}", e.trigger)]
            }
            Self::Scheduler(SchedulerEvent::TriggerPaused(e)) => {
                vec![format!("trigger:{}", e.trigger)]
            }
            Self::Scheduler(SchedulerEvent::TriggerResumed(e)) => {
                vec![format!("trigger:{}", e.trigger)]
            }
            Self::Scheduler(SchedulerEvent::DaemonStarted(_)) => vec!["daemon".to_owned()],
            Self::Scheduler(SchedulerEvent::CheckpointTaken(_)) => vec!["checkpoint".to_owned()],
        }
    }
}

impl CatalogEvent {
    fn subjects(&self) -> Vec<String> {
        let dataset = |name: &str| format!("dataset:{name}");
        let index = |name: &str| format!("index:{name}");
        let view = |name: &str| format!("view:{name}");
        let eval = |name: &str| format!("eval:{name}");
        let profile = |id: &str| format!("profile:{id}");
        match self {
            Self::DatasetCreated(e) => vec![dataset(&e.dataset)],
            Self::FilesCommitted(e) => vec![dataset(&e.dataset)],
            Self::FilesCompacted(e) => vec![dataset(&e.dataset)],
            Self::FilesScrubbed(e) => vec![dataset(&e.dataset)],
            Self::FilesPurged(e) => vec![dataset(&e.dataset)],
            Self::ObjectsDeleted(_) => vec!["objects".to_owned()],
            Self::DatasetMoved(e) => vec![dataset(&e.dataset), format!("bucket:{}", e.bucket)],
            Self::FilesRepaired(e) => vec![dataset(&e.dataset)],
            Self::RowsErased(e) => vec![dataset(&e.dataset)],
            Self::DatasetPatched(e) => vec![dataset(&e.dataset)],
            Self::DatasetDropped(e) => vec![dataset(&e.dataset)],
            Self::RowsTombstoned(e) => std::iter::once(dataset(&e.dataset))
                .chain(e.rows.iter().map(|key| format!("row:{}:{key}", e.dataset)))
                .collect(),
            Self::IndexDefined(e) => vec![index(&e.index), dataset(&e.spec.source)],
            Self::GenerationRequested(e) => vec![index(&e.index)],
            Self::GenerationBuilt(e) => vec![index(&e.index)],
            Self::GenerationFailed(e) => vec![index(&e.index)],
            Self::GenerationCorrupted(e) => vec![index(&e.index)],
            Self::IndexPromoted(e) => vec![index(&e.index)],
            Self::IndexDeltaCommitted(e) => std::iter::once(dataset(&e.dataset))
                .chain(e.deltas.iter().map(|delta| index(&delta.index)))
                .collect(),
            Self::GenerationsRetired(e) => vec![index(&e.index)],
            Self::IndexDropped(e) => vec![index(&e.index)],
            Self::RefreshRequested(e) => vec![dataset(&e.dataset)],
            Self::RefreshCompleted(e) => vec![dataset(&e.dataset)],
            Self::RefreshFailed(e) => vec![dataset(&e.dataset)],
            Self::ViewDefined(e) => vec![view(&e.view), dataset(&e.spec.base)],
            Self::ViewDropped(e) => vec![view(&e.view)],
            Self::EvalCreated(e) => vec![eval(&e.eval), index(&e.spec.index)],
            Self::EvalsRetired(e) => e.evals.iter().map(|name| eval(name)).collect(),
            Self::TrialRecorded(e) => vec![index(&e.trial.index)],
            Self::IndexSloSet(e) => vec![index(&e.index)],
            Self::ProfileSaved(e) => vec![profile(&e.profile.id)],
            Self::ProfileActivated(e) => vec![profile(&e.profile)],
        }
    }
}

impl BucketEvent {
    fn bucket(&self) -> &str {
        match self {
            Self::BucketRegistered(e) => &e.bucket,
            Self::BucketUnregistered(e) => &e.bucket,
            Self::OrphansCollected(e) => &e.bucket,
            Self::ObjectStored(e) => &e.bucket,
            Self::ObjectRemoved(e) => &e.bucket,
            Self::ObjectsRescued(e) => &e.bucket,
            Self::RescueCopiesDropped(e) => &e.bucket,
        }
    }
}
