//! What the daemon does by itself: starts, schedules that come due or rest, checkpoints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    model::lake::OwnerId,
    record::{Micros, Seq},
};

/// The daemon came up and had replayed its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DaemonStarted {
    /// Program version.
    pub version: String,
}

/// A schedule came due.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerFired {
    /// Which one.
    pub trigger: String,
    /// When it was due.
    pub due: Micros,
}

/// Somebody wants a schedule to rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerPaused {
    /// Which one.
    pub trigger: String,
}

/// A schedule that rested runs again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TriggerResumed {
    /// Which one.
    pub trigger: String,
    /// Times up to here are not made up.
    pub from: Micros,
}

/// What the state's hashes were, so that a later replay can prove that it is the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointTaken {
    /// Owner → position of its last event and hash of its state there.
    pub owners: BTreeMap<OwnerId, OwnerHash>,
}

/// A state's hash at a position.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerHash {
    /// Position of the owner's last event.
    pub seq: Seq,
    /// blake3 (hex) of the canonical state.
    pub hash: String,
}
