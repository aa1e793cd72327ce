//! The read path: a dataset as a table, a caller's session, the statement gate, and answers as
//! bytes. The edge calls it with a published snapshot; it never writes and never opens the journal.

pub mod active;
pub mod barrier;
pub mod cancel;
pub mod catalog;
pub mod engine;
pub mod error;
pub mod facts;
mod functions;
pub mod gate;
mod groups;
pub mod lineage;
pub mod lookup;
mod memory;
pub mod output;
pub mod params;
pub mod policy;
pub mod reader;
pub mod row_key;
pub mod scan;
pub mod schema;
pub mod search;
mod session;
mod sift;
pub mod store;
pub mod stream;
pub mod table;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
pub mod view;
mod visible;
pub mod witness;

pub use active::{Drained, Pinned};
pub use engine::{MemorySharing, QueryConfig, QueryEngine};
pub use error::QueryError;
pub use gate::{GateLimits, tables_named};
pub use lineage::{KeyColumns, Lineage};
pub use lookup::{KeyedRows, Position, Resolved};
pub use output::{
    ByteStream, ColumnDoc, CsvOptions, JsonRows, arrow_ipc, column_docs, csv, json_cells,
    row_texts, rows_json,
};
pub use params::Params;
pub use reader::{Ceiling, Reader};
pub use schema::{arrow_schema, schema_doc, type_text, wide_keys};
pub use search::{FoundRow, SearchSight, SqlSearch};
pub use session::{Explained, QuerySession, SessionTables};
pub use stream::QueryStream;
pub use table::DatasetTable;
pub use view::SafeViewProvider;
pub use witness::{KeyTexts, Sources, Witness, key_texts};
