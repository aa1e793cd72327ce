//! The rules of the house that a machine can check, read off the source tree itself.
//! Each rule is a test; each failure lists every place that breaks it.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should say where"
)]

mod code;
mod errors;
mod pages;
mod rings;
mod tree;
