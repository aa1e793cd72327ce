//! Buckets: where each one is, which objects of others lie in it, what its rescue bucket has of it,
//! and what was tidied away.
//! Pure. One owner a bucket: `actors::bucket` calls `decide`; replay calls `apply`.

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Meta, ModelError, Stamp, Work,
    error::check_name,
    event::{
        BucketEvent, BucketRegistered, BucketUnregistered, ObjectRemoved, ObjectStored,
        ObjectsRescued, OrphansCollected, RescueCopiesDropped,
    },
};
use crate::record::Micros;

/// Where a bucket is. A secret is named by its handle, never held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "backend", rename_all = "snake_case")]
pub enum BucketSpec {
    /// A directory.
    Local {
        /// Its path.
        root: String,
        /// The bucket that answers when this one does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rescue_bucket: Option<String>,
    },
    /// An S3-compatible store.
    S3 {
        /// Endpoint and bucket.
        url: String,
        /// Region.
        region: Option<String>,
        /// Handle of the credentials.
        secret: Option<String>,
        /// Whether the bucket stands in the path of a request (`true`) or in its host; in the path
        /// unless told.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path_style: Option<bool>,
        /// The bucket that answers when this one does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rescue_bucket: Option<String>,
    },
}

impl BucketSpec {
    /// The bucket that answers when this one does not.
    pub fn rescue_bucket(&self) -> Option<&str> {
        match self {
            Self::Local { rescue_bucket, .. } | Self::S3 { rescue_bucket, .. } => {
                rescue_bucket.as_deref()
            }
        }
    }

    /// Handle of its credentials.
    pub fn secret(&self) -> Option<&str> {
        match self {
            Self::Local { .. } => None,
            Self::S3 { secret, .. } => secret.as_deref(),
        }
    }
}

/// An object that somebody put into a bucket through the lakehouse.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredObject {
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
}

/// One bucket.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct BucketState {
    /// Where it is, while it is registered.
    pub spec: Option<BucketSpec>,
    /// Since when.
    pub registered_at: Option<Micros>,
    /// Objects removed because no event pointed at them.
    pub orphans_collected: u64,
    /// Their bytes.
    pub orphan_bytes: u64,
    /// Objects of others by key.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub objects: OrdMap<String, StoredObject>,
    /// Keys and sizes of what lies in the rescue bucket as well.
    #[serde(default, skip_serializing_if = "OrdMap::is_empty")]
    pub rescued: OrdMap<String, u64>,
}

/// A request to a bucket's owner.
#[derive(Debug, Clone)]
pub enum BucketCommand {
    /// Make it known, or change where it is.
    Register {
        /// Its name.
        bucket: String,
        /// Where it is.
        spec: BucketSpec,
    },
    /// Forget it.
    Unregister {
        /// Its name.
        bucket: String,
    },
    /// Report an object of somebody's that lies in it.
    StoreObject(ObjectStored),
    /// Let go of one.
    RemoveObject(ObjectRemoved),
    /// Report copies in its rescue bucket.
    NoteRescued(ObjectsRescued),
    /// Report copies that are gone from there.
    NoteDropped(RescueCopiesDropped),
    /// Report what a sweep removed.
    ReportOrphans {
        /// Its name.
        bucket: String,
        /// Objects removed.
        objects: u64,
        /// Their bytes.
        bytes: u64,
    },
}

impl Aggregate for BucketState {
    type Command = BucketCommand;
    type Event = BucketEvent;

    fn decide(&self, command: &BucketCommand, _: &Stamp) -> Result<Vec<BucketEvent>, ModelError> {
        match command {
            BucketCommand::Register { bucket, spec } => {
                check_name("bucket", bucket)?;
                if self.spec.as_ref() == Some(spec) {
                    return Ok(Vec::new());
                }
                Ok(vec![
                    BucketRegistered {
                        bucket: bucket.clone(),
                        spec: spec.clone(),
                    }
                    .into(),
                ])
            }
            BucketCommand::Unregister { bucket } => {
                self.must_be_registered(bucket)?;
                Ok(vec![
                    BucketUnregistered {
                        bucket: bucket.clone(),
                    }
                    .into(),
                ])
            }
            BucketCommand::StoreObject(object) => self.store_object(object),
            BucketCommand::RemoveObject(object) => {
                self.must_be_registered(&object.bucket)?;
                Ok(vec![object.clone().into()])
            }
            BucketCommand::NoteRescued(copies) => self.note_rescued(copies),
            BucketCommand::NoteDropped(copies) => self.note_dropped(copies),
            BucketCommand::ReportOrphans { objects: 0, .. } => Ok(Vec::new()),
            BucketCommand::ReportOrphans {
                bucket,
                objects,
                bytes,
            } => {
                self.must_be_registered(bucket)?;
                let (bucket, objects, bytes) = (bucket.clone(), *objects, *bytes);
                Ok(vec![
                    OrphansCollected {
                        bucket,
                        objects,
                        bytes,
                    }
                    .into(),
                ])
            }
        }
    }

    fn apply(&mut self, meta: Meta<'_>, event: &BucketEvent) {
        match event {
            BucketEvent::BucketRegistered(e) => {
                let rescue = |spec: &BucketSpec| spec.rescue_bucket().map(str::to_owned);
                if self.spec.as_ref().and_then(rescue) != rescue(&e.spec) {
                    self.rescued.clear();
                }
                self.spec = Some(e.spec.clone());
                self.registered_at = Some(meta.at);
            }
            BucketEvent::BucketUnregistered(_) => {
                self.spec = None;
                self.registered_at = None;
                self.objects.clear();
                self.rescued.clear();
            }
            BucketEvent::OrphansCollected(e) => {
                self.orphans_collected += e.objects;
                self.orphan_bytes += e.bytes;
            }
            BucketEvent::ObjectStored(e) => {
                let object = StoredObject {
                    bytes: e.bytes,
                    blake3: e.blake3.clone(),
                };
                self.objects.insert(e.key.clone(), object);
            }
            BucketEvent::ObjectRemoved(e) => {
                self.objects.remove(&e.key);
            }
            BucketEvent::ObjectsRescued(e) => {
                self.rescued.extend(e.objects.iter().cloned());
            }
            BucketEvent::RescueCopiesDropped(e) => {
                for key in &e.keys {
                    self.rescued.remove(key);
                }
            }
        }
    }

    fn pending(&self) -> Vec<Work> {
        Vec::new()
    }
}

impl BucketState {
    fn store_object(&self, object: &ObjectStored) -> Result<Vec<BucketEvent>, ModelError> {
        self.must_be_registered(&object.bucket)?;
        match self.objects.get(&object.key) {
            Some(there) if there.blake3 == object.blake3 => Ok(Vec::new()),
            Some(_) => Err(ModelError::Exists {
                what: "object",
                name: object.key.clone(),
            }),
            None => Ok(vec![object.clone().into()]),
        }
    }

    /// Only copies in the bucket that is the rescue bucket now count.
    fn note_rescued(&self, copies: &ObjectsRescued) -> Result<Vec<BucketEvent>, ModelError> {
        self.must_be_registered(&copies.bucket)?;
        let rescue = self.spec.as_ref().and_then(BucketSpec::rescue_bucket);
        let mut new = copies.clone();
        new.objects
            .retain(|(key, _)| !self.rescued.contains_key(key));
        if new.objects.is_empty() || rescue != Some(copies.rescue.as_str()) {
            return Ok(Vec::new());
        }
        Ok(vec![new.into()])
    }

    fn note_dropped(&self, copies: &RescueCopiesDropped) -> Result<Vec<BucketEvent>, ModelError> {
        self.must_be_registered(&copies.bucket)?;
        let mut gone = copies.clone();
        gone.keys.retain(|key| self.rescued.contains_key(key));
        if gone.keys.is_empty() {
            return Ok(Vec::new());
        }
        Ok(vec![gone.into()])
    }

    fn must_be_registered(&self, bucket: &str) -> Result<(), ModelError> {
        if self.spec.is_some() {
            return Ok(());
        }
        Err(ModelError::NotFound {
            what: "bucket",
            name: bucket.to_owned(),
            near: Vec::new(),
        })
    }
}
