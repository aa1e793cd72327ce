//! Vector indexes on usearch.
