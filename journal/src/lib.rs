//! What happened: every event, the log that makes it durable, and the state that follows from it.
//! Pure in `model`; files and sled in `log`. No actors, no async runtime.

pub mod archive;
pub mod log;
pub mod model;
pub mod record;
pub mod snapshot;
pub mod upcast;
pub mod verify;
