//! Crash tests: the real binary, killed at any moment under load, started again and compared with a plain model.
//! The seed is printed; `LAKEHOUSE_CRASH_SEED` repeats a run, `LAKEHOUSE_CRASH_CYCLES` and `LAKEHOUSE_CRASH_ROUNDS` lengthen it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod cycles;
mod harness;
mod ledger;
mod mirror;
mod model;
mod power;
mod recovery;
mod writer;
