//! What actors exchange, own and supervise.
