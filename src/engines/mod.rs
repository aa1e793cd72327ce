//! One adapter to the outside a file; each implements a port of the actors or serves one that does.

pub mod adopt;
pub mod audit;
pub mod buckets;
pub mod compaction;
mod data_file;
pub mod egress;
pub mod embedder;
pub mod errors;
pub mod index_files;
pub mod indexes;
pub mod ingest;
pub mod issuer;
pub mod keyring;
#[cfg(feature = "lance")]
pub mod lance;
#[cfg(not(feature = "lance"))]
#[path = "without_lance.rs"]
pub mod lance;
pub mod ledger;
pub mod leftovers;
pub mod object_store;
pub mod postgres;
pub mod receipts;
pub mod repair;
pub mod row_keys;
pub mod secrets;
pub mod sidecar;
pub mod tables;
pub mod token_hashes;
pub mod usearch;
pub mod vectors;
