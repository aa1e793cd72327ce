//! Buckets: where each one is, and what was tidied away in it.
//! Pure. One owner a bucket: `actors::bucket` calls `decide`; replay calls `apply`.

use serde::{Deserialize, Serialize};

use super::{
    Aggregate, Meta, ModelError, Stamp, Work,
    error::check_name,
    event::{BucketEvent, BucketRegistered, BucketUnregistered, OrphansCollected},
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
        /// The bucket that answers when this one does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rescue_bucket: Option<String>,
    },
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
                self.spec = Some(e.spec.clone());
                self.registered_at = Some(meta.at);
            }
            BucketEvent::BucketUnregistered(_) => {
                self.spec = None;
                self.registered_at = None;
            }
            BucketEvent::OrphansCollected(e) => {
                self.orphans_collected += e.objects;
                self.orphan_bytes += e.bytes;
            }
        }
    }

    fn pending(&self) -> Vec<Work> {
        Vec::new()
    }
}

impl BucketState {
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
