//! Notices that the index thread hangs inside the store, which may wait for ever on a dead thread of its own.
//! Tells the daemon once, which exits and starts anew; kills nothing by itself.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// What the daemon does about it; called once, with how long the thread has made no progress.
pub type OnStuck = Arc<dyn Fn(Duration) + Send + Sync>;

/// Where the index thread says what it is at.
#[derive(Debug)]
pub struct Progress {
    base: Instant,
    /// Milliseconds after `base` at which the current operation started, plus one; 0 when idle.
    busy_since: AtomicU64,
    patience: Duration,
    stuck: AtomicBool,
}

/// An operation under way; it ends when this is dropped.
#[derive(Debug)]
pub struct Working<'a>(&'a Progress);

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.0.busy_since.store(0, Ordering::Release);
    }
}

impl Progress {
    /// A thread that may take `patience` for one operation, watched until the last `Arc` of it is gone.
    pub fn watched(patience: Duration, on_stuck: Option<OnStuck>) -> Arc<Self> {
        let progress = Arc::new(Self {
            base: Instant::now(),
            busy_since: AtomicU64::new(0),
            patience,
            stuck: AtomicBool::new(false),
        });
        let watched = Arc::downgrade(&progress);
        let builder = std::thread::Builder::new().name("journal-watchdog".to_owned());
        if let Err(error) = builder.spawn(move || watch(&watched, on_stuck.as_ref())) {
            tracing::error!(%error, "the journal's index runs without a watchdog");
        }
        progress
    }

    /// Marks the start of an operation.
    pub fn work(&self) -> Working<'_> {
        self.busy_since.store(self.now() + 1, Ordering::Release);
        Working(self)
    }

    /// Whether the watchdog has given up on the thread.
    pub fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::Acquire)
    }

    /// How long an operation may take.
    pub fn patience(&self) -> Duration {
        self.patience
    }

    fn now(&self) -> u64 {
        u64::try_from(self.base.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }

    fn stalled(&self) -> Option<Duration> {
        let since = self.busy_since.load(Ordering::Acquire).checked_sub(1)?;
        let stalled = Duration::from_millis(self.now().saturating_sub(since));
        (stalled > self.patience).then_some(stalled)
    }
}

fn watch(progress: &Weak<Progress>, on_stuck: Option<&OnStuck>) {
    loop {
        let Some(alive) = progress.upgrade() else {
            return;
        };
        if let Some(stalled) = alive.stalled() {
            alive.stuck.store(true, Ordering::Release);
            let seconds = stalled.as_secs();
            tracing::error!(
                seconds,
                "the journal's index makes no progress; restart the daemon"
            );
            if let Some(on_stuck) = on_stuck {
                on_stuck(stalled);
            }
            return;
        }
        let pause = (alive.patience / 4).min(Duration::from_secs(1));
        drop(alive);
        std::thread::sleep(pause);
    }
}
