//! End to end: the real binary on a free port, spoken to over REST as `contract.md` has it, one module a resource.
//! Every test has a daemon and a directory of its own; there is no order between tests.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod agents;
mod audit;
mod catalog;
mod chunks;
mod command_line;
mod compliance;
mod composite;
mod delete;
mod deltas;
mod disk_full;
mod doors;
mod erased_bytes;
mod erasure;
mod health;
mod history;
mod idempotency;
mod index_files;
mod ingest;
mod ingest_refused;
mod journal;
mod model;
mod openapi;
mod postgres;
mod process;
mod quality;
mod query;
mod races;
mod refresh;
mod refresh_gates;
mod refresh_providers;
mod repair;
mod rescue;
mod s3;
mod searching;
mod statements;
mod storage;
mod store_faults;
mod vectors;
mod views;
mod visible;
