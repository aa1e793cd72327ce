//! What the daemon does by itself: starts, schedules that came due, checkpoints.
//! Pure. `actors::scheduler` calls `decide`; replay calls `apply`.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Meta, ModelError, Stamp, Work,
    event::{
        CheckpointTaken, DaemonStarted, OwnerHash, SchedulerEvent, TriggerFired, TriggerPaused,
        TriggerResumed,
    },
    lake::OwnerId,
};
use crate::record::{Micros, Seq};

/// The daemon's own history, in short.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct SchedulerState {
    /// How often it started.
    pub starts: u64,
    /// Trigger → when it was last due.
    pub fired: BTreeMap<String, Micros>,
    /// Position of the last checkpoint.
    pub checkpoint_seq: Seq,
    /// Triggers that rest.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub paused: BTreeSet<String>,
}

/// A request to the scheduler.
#[derive(Debug, Clone)]
pub enum SchedulerCommand {
    /// Note a start.
    NoteStart {
        /// Program version.
        version: String,
    },
    /// Note that a schedule came due.
    NoteTrigger {
        /// Which one.
        trigger: String,
        /// When it was due.
        due: Micros,
    },
    /// Let a schedule rest.
    PauseTrigger {
        /// Which one.
        trigger: String,
    },
    /// Let a schedule run again; times that passed while it rested are not made up.
    ResumeTrigger {
        /// Which one.
        trigger: String,
        /// From when on it is due again.
        from: Micros,
    },
    /// Note the state's hashes.
    NoteCheckpoint {
        /// Owner → position and hash.
        owners: BTreeMap<OwnerId, OwnerHash>,
    },
}

impl Aggregate for SchedulerState {
    type Command = SchedulerCommand;
    type Event = SchedulerEvent;

    fn decide(
        &self,
        command: &SchedulerCommand,
        _: &Stamp,
    ) -> Result<Vec<SchedulerEvent>, ModelError> {
        Ok(match command.clone() {
            SchedulerCommand::NoteStart { version } => vec![DaemonStarted { version }.into()],
            SchedulerCommand::NoteTrigger { trigger, due } => {
                if self.fired.get(&trigger).is_some_and(|last| *last >= due) {
                    return Ok(Vec::new());
                }
                vec![TriggerFired { trigger, due }.into()]
            }
            SchedulerCommand::PauseTrigger { trigger } => {
                if self.paused.contains(&trigger) {
                    return Ok(Vec::new());
                }
                vec![TriggerPaused { trigger }.into()]
            }
            SchedulerCommand::ResumeTrigger { trigger, from } => {
                if !self.paused.contains(&trigger) {
                    return Ok(Vec::new());
                }
                vec![TriggerResumed { trigger, from }.into()]
            }
            SchedulerCommand::NoteCheckpoint { owners } => vec![CheckpointTaken { owners }.into()],
        })
    }

    fn apply(&mut self, meta: Meta<'_>, event: &SchedulerEvent) {
        match event {
            SchedulerEvent::DaemonStarted(_) => self.starts += 1,
            SchedulerEvent::TriggerFired(e) => {
                self.fired.insert(e.trigger.clone(), e.due);
            }
            SchedulerEvent::TriggerPaused(e) => {
                self.paused.insert(e.trigger.clone());
            }
            SchedulerEvent::TriggerResumed(e) => {
                self.paused.remove(&e.trigger);
                let last = self.fired.entry(e.trigger.clone()).or_default();
                *last = (*last).max(e.from);
            }
            SchedulerEvent::CheckpointTaken(_) => self.checkpoint_seq = meta.seq,
        }
    }

    fn pending(&self) -> Vec<Work> {
        Vec::new()
    }
}
