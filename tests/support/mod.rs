//! What the tests that drive the real binary share: a daemon in a directory of its own, a client, rows to send.
//! Nothing here sleeps for a guess: what takes time is polled until a deadline, and the deadline names what it waited for.

#![allow(dead_code, reason = "each test crate uses the part that it needs")]

pub mod api;
pub mod daemon;
pub mod hostile;
pub mod rows;
pub mod s3;
pub mod scan;
pub mod wired;

use std::time::{Duration, Instant};

/// How long anything that must happen may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_mins(1);
/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Asks until the answer is there.
///
/// # Panics
/// When it is not there in time; names `what` was waited for.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Option<T>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(
            Instant::now() < deadline,
            "waited {PATIENCE:?} in vain for {what}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// The number in an environment variable, or `default`.
///
/// # Panics
/// When the variable is set to something else than a number.
pub fn number_from_env(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("{name}={text} is not a number")),
        Err(_) => default,
    }
}
