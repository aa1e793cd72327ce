//! `PostgreSQL`'s binary `COPY` format into Arrow: [`RowDecoder`] takes what the server sends and hands
//! out record batches. The edge's `engines::postgres` drives it. No I/O.

mod columns;
mod rows;
mod text;
mod wire;

pub use rows::RowDecoder;
pub use wire::{TextWire, Wire};

/// Why a stream is not decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CopyError {
    /// It is no binary `COPY`, or ends too early.
    #[error("the server sent a row stream that cannot be read: {reason}")]
    Protocol {
        /// What is wrong.
        reason: String,
    },
    /// A field that has no Arrow value.
    #[error("column `{column}` holds {reason}")]
    Value {
        /// The column's name.
        column: String,
        /// What is wrong with the field, without its value.
        reason: &'static str,
    },
}
