//! The in-process embedder.
