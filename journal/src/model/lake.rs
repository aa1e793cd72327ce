//! The whole state: every owner's fold side by side. Replay builds it, snapshots hold it, and its
//! hashes prove that live and replayed are the same.

use std::{collections::BTreeMap, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{
    Event, Fold,
    access::AccessState,
    bucket::BucketState,
    catalog::CatalogState,
    event::{EventError, OwnerHash},
    scheduler::SchedulerState,
};
use crate::record::{Record, Seq};

/// Who owns a part of the state.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum OwnerId {
    /// Datasets and indexes.
    Catalog,
    /// One bucket.
    Bucket(String),
    /// Tokens.
    Access,
    /// The daemon itself.
    Scheduler,
}

impl fmt::Display for OwnerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Catalog => f.write_str("catalog"),
            Self::Bucket(name) => write!(f, "bucket:{name}"),
            Self::Access => f.write_str("access"),
            Self::Scheduler => f.write_str("scheduler"),
        }
    }
}

impl From<OwnerId> for String {
    fn from(id: OwnerId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for OwnerId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for OwnerId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "catalog" => Ok(Self::Catalog),
            "access" => Ok(Self::Access),
            "scheduler" => Ok(Self::Scheduler),
            _ => text
                .strip_prefix("bucket:")
                .map(|name| Self::Bucket(name.to_owned()))
                .ok_or_else(|| format!("no owner `{text}`")),
        }
    }
}

/// Everything the journal's events add up to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LakeState {
    /// Datasets and indexes.
    pub catalog: Fold<CatalogState>,
    /// Buckets by name.
    pub buckets: BTreeMap<String, Fold<BucketState>>,
    /// Tokens.
    pub access: Fold<AccessState>,
    /// The daemon itself.
    pub scheduler: Fold<SchedulerState>,
}

/// A replay that had to stop.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReplayError {
    /// A record holds something that cannot be read.
    #[error("record {seq}: {source}")]
    Event {
        /// Its position.
        seq: Seq,
        /// Why.
        source: EventError,
    },
    /// A checkpoint says that the state was another one.
    #[error("record {seq}: `{owner}` has another state than when the checkpoint was taken")]
    Checkpoint {
        /// Position of the checkpoint.
        seq: Seq,
        /// Whose state differs.
        owner: OwnerId,
    },
}

impl LakeState {
    /// Decodes and applies one record, and checks the state where the record is a checkpoint.
    ///
    /// # Errors
    /// [`ReplayError`]; nothing is skipped.
    pub fn apply(&mut self, record: &Record) -> Result<(), ReplayError> {
        self.apply_until(record, |_| Seq::MAX)
    }

    /// As [`LakeState::apply`], but nothing beyond an owner's last position.
    ///
    /// # Errors
    /// As [`LakeState::apply`].
    pub fn apply_until(
        &mut self,
        record: &Record,
        last: impl Fn(&OwnerId) -> Seq,
    ) -> Result<(), ReplayError> {
        let draft = &record.draft;
        let event = Event::decode(&draft.kind, draft.schema, &draft.data).map_err(|source| {
            ReplayError::Event {
                seq: record.seq,
                source,
            }
        })?;
        if record.seq > last(&event.owner()) {
            return Ok(());
        }
        match &event {
            Event::Catalog(event) => self.catalog.apply(record.seq, draft, event),
            Event::Access(event) => self.access.apply(record.seq, draft, event),
            Event::Bucket(bucket) => {
                let OwnerId::Bucket(name) = event.owner() else {
                    return Ok(());
                };
                self.buckets
                    .entry(name)
                    .or_default()
                    .apply(record.seq, draft, bucket);
            }
            Event::Scheduler(event) => {
                if let super::event::SchedulerEvent::CheckpointTaken(checkpoint) = event {
                    self.check(record.seq, &checkpoint.owners)?;
                }
                self.scheduler.apply(record.seq, draft, event);
            }
        }
        Ok(())
    }

    /// Every owner's position and hash.
    pub fn hashes(&self) -> BTreeMap<OwnerId, OwnerHash> {
        self.hashable()
            .map(|(id, seq, hash)| (id, OwnerHash { seq, hash: hash() }))
            .collect()
    }

    /// One hash over all owners.
    pub fn hash(&self) -> String {
        let text = serde_json::to_vec(&self.hashes()).expect("hashes are plain strings");
        blake3::hash(&text).to_hex().to_string()
    }

    fn hashable(&self) -> impl Iterator<Item = (OwnerId, Seq, Box<dyn Fn() -> String + '_>)> {
        fn one<A: super::Aggregate>(
            id: OwnerId,
            fold: &Fold<A>,
        ) -> (OwnerId, Seq, Box<dyn Fn() -> String + '_>) {
            (id, fold.seq, Box::new(move || fold.hash()))
        }
        [
            one(OwnerId::Catalog, &self.catalog),
            one(OwnerId::Access, &self.access),
            one(OwnerId::Scheduler, &self.scheduler),
        ]
        .into_iter()
        .chain(
            self.buckets
                .iter()
                .map(|(name, fold)| one(OwnerId::Bucket(name.clone()), fold)),
        )
    }

    /// Compares with a checkpoint every owner that stands where it stood then. An owner that is
    /// further (its event was on its way when the checkpoint was taken) cannot be compared.
    fn check(&self, seq: Seq, owners: &BTreeMap<OwnerId, OwnerHash>) -> Result<(), ReplayError> {
        for (owner, at, hash) in self.hashable() {
            let Some(expected) = owners.get(&owner) else {
                continue;
            };
            if expected.seq == at && expected.hash != hash() {
                return Err(ReplayError::Checkpoint { seq, owner });
            }
        }
        Ok(())
    }
}
