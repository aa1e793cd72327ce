//! Vector indexes on Lance.
