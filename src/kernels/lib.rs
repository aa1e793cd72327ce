//! Loops over every field, number and letter that the edge takes in or searches. They are a crate of
//! their own so that they are optimised in every profile, the one of the tests and the demo too
//! (ADR-035). It stands on Arrow and knows nothing of the rings.

pub mod hnsw;
pub mod json;
pub mod pgcopy;
pub mod scaling;
pub mod wordpiece;
