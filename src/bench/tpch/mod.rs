//! TPC-H for `lakehouse bench sql`: the eight tables at a scale factor and the 22 queries.
//! The benchmark streams the tables into the daemon and checks the answers; nothing here measures.
//! Rows come from the crate `tpchgen`; results are not TPC-H results in the sense of the TPC.

mod answers;
mod batches;
mod queries;
mod rows;
mod schema;

#[cfg(test)]
mod tests;

pub use answers::{AnswerDiffers, check_answer};
pub use batches::{BATCH_ROWS, Batches, batches, ipc_chunks, parallel_batches};
pub use queries::{QUERY_COUNT, query};
pub use schema::TpchTable;
