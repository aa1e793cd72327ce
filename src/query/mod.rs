//! The read path: a dataset as a table, a caller's session, the statement gate, and answers as
//! bytes. The edge calls it with a published snapshot; it never writes and never opens the journal.

pub mod active;
pub mod cancel;
pub mod catalog;
pub mod engine;
pub mod error;
pub mod facts;
pub mod gate;
pub mod lookup;
pub mod output;
pub mod params;
pub mod row_key;
pub mod scan;
pub mod schema;
pub mod search;
pub mod session;
mod sift;
pub mod store;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use active::Drained;
pub use engine::{MemorySharing, QueryConfig, QueryEngine};
pub use error::QueryError;
pub use gate::GateLimits;
pub use lookup::{KeyedRows, Position, Resolved};
pub use output::{
    ByteStream, ColumnDoc, CsvOptions, JsonRows, arrow_ipc, csv, json_cells, rows_json,
};
pub use schema::{arrow_schema, schema_doc, wide_keys};
pub use search::{FoundRow, SearchSnapshot, SqlSearch};
pub use session::{Explained, QuerySession, QueryStream, SessionTables};
pub use table::DatasetTable;
