//! Rows out of PostgreSQL.
