//! The REST interface: one file a resource, its routes listed first. Turns a request into a command
//! or a read of a published snapshot; keeps no state and never opens the journal.

pub mod access;
pub mod ask;
pub mod audit;
pub mod audited;
pub mod auth;
mod body;
pub mod catalog;
pub mod compliance;
mod console;
pub mod deletion;
pub mod erasure;
pub mod health;
pub mod identified;
pub mod ingest;
pub mod jobs;
pub mod journal;
pub mod mcp;
pub mod openapi;
mod past;
pub mod peer;
pub mod places;
mod predicate;
pub mod problem;
pub mod profiles;
pub mod quality;
pub mod query;
pub mod readable;
pub mod receipts;
pub mod request_id;
mod row_keys;
pub mod schedules;
pub mod storage;
pub mod system;
pub mod times;
pub mod tools;
pub mod vectors;
pub mod views;

use std::{sync::Arc, time::Instant};

use actix_web::web;
use lakehouse_actors::Lake;

use crate::{
    config::Config,
    engines::{
        audit::AuditLog, buckets::LakeBuckets, indexes::LakeIndexes, issuer::Issuers,
        object_store::Buckets, receipts::SigningKey, secrets::SecretsProvider, tables::LakeTables,
        token_hashes::TokenHashes,
    },
    limits::Limits,
    query::QueryEngine,
};

/// What the routes work with.
pub struct Edge {
    /// The actors.
    pub lake: Lake,
    /// SQL.
    pub query: Arc<QueryEngine>,
    /// Files in.
    pub tables: LakeTables,
    /// Vector indexes.
    pub indexes: Arc<LakeIndexes>,
    /// Open buckets.
    pub buckets: Arc<Buckets>,
    /// Secrets by handle.
    pub secrets: Arc<dyn SecretsProvider>,
    /// Probes of buckets.
    pub store: Arc<LakeBuckets>,
    /// Who read what.
    pub audit: AuditLog,
    /// Who else may vouch for a caller.
    pub issuers: Issuers,
    /// How tokens are known.
    pub tokens: TokenHashes,
    /// What each token may use.
    pub limits: Limits,
    /// Signs receipts of erasures.
    pub receipts: Arc<SigningKey>,
    /// The settings.
    pub config: Config,
    /// When the daemon came up.
    pub started: Instant,
    /// How long the replay took, in milliseconds.
    pub replay_ms: u64,
    /// Where metrics are counted.
    pub metrics: health::Metrics,
}

/// Every route.
pub fn routes(config: &mut web::ServiceConfig) {
    // Paths are tried in this order: what is asked most comes first.
    query::routes(config);
    vectors::routes(config);
    health::routes(config);
    openapi::routes(config);
    console::routes(config);
    catalog::routes(config);
    deletion::routes(config);
    erasure::routes(config);
    ingest::routes(config);
    jobs::routes(config);
    schedules::routes(config);
    places::routes(config);
    views::routes(config);
    quality::routes(config);
    profiles::routes(config);
    journal::routes(config);
    storage::routes(config);
    access::routes(config);
    audit::routes(config);
    tools::routes(config);
    mcp::routes(config);
    receipts::routes(config);
    compliance::routes(config);
}
