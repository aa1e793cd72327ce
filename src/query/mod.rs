//! The read path: a dataset as a table, a session, the statement gate.
