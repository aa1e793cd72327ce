//! Events about where bytes lie: objects of others in a bucket, copies in its rescue bucket, datasets
//! that moved, and entries of files that were put right. Part of the closed set in `event`.

use serde::{Deserialize, Serialize};

use crate::model::catalog::SchemaDoc;

/// An object of somebody else's lies in a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectStored {
    /// The bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
}

/// An object of somebody else's is to be gone from a bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectRemoved {
    /// The bucket.
    pub bucket: String,
    /// Its key.
    pub key: String,
}

/// Objects of a bucket lie in its rescue bucket as well, compared byte for byte.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectsRescued {
    /// The bucket.
    pub bucket: String,
    /// Where the copies are, under the same keys.
    pub rescue: String,
    /// Keys and sizes.
    pub objects: Vec<(String, u64)>,
}

/// Copies that nothing needs any more are gone from a rescue bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RescueCopiesDropped {
    /// The bucket whose copies they were.
    pub bucket: String,
    /// Their keys.
    pub keys: Vec<String>,
}

/// A dataset's files lie in another bucket from here on, under the same keys; the old ones are to be
/// deleted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetMoved {
    /// The dataset.
    pub dataset: String,
    /// The bucket.
    pub bucket: String,
    /// Keys of the files that were copied.
    pub files: Vec<String>,
    /// Their bytes.
    pub bytes: u64,
}

/// What the catalog said of a dataset's files was not what lies in the buckets, and is put right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilesRepaired {
    /// The dataset.
    pub dataset: String,
    /// What is true of each of these files.
    pub repaired: Vec<FileRepair>,
    /// The columns that the files have, when the catalog had others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<SchemaDoc>,
    /// Keys of files that left the dataset by a commit that takes no file out, and are back.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub relisted: Vec<String>,
    /// Keys of files that are in no bucket. They stay in the catalog.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// What is true of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRepair {
    /// Its key.
    pub key: String,
    /// Where it lies.
    pub bucket: String,
    /// Rows in it.
    pub rows: u64,
    /// Its size.
    pub bytes: u64,
    /// blake3 (hex) of its bytes.
    pub blake3: String,
}
