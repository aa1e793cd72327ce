//! One bucket's health: whether it counts as down, how fast it answers, what failed in the last hour.
//! Every operation of every path runs through `run`; failures are noted in the error journal by
//! `note`, which knows whether a rescue bucket answered.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use object_store::{Error, Result};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    circuit::{Circuit, CircuitState},
    failure::{CountsAsDown, is_the_buckets, words},
};
use crate::engines::errors::{BucketErrors, Failure};

/// How long a failure counts.
const HOUR: Duration = Duration::from_hours(1);
/// Failures counted of an hour at most.
const FAILURES_KEPT: usize = 100_000;
/// Weight of the latest latency in the average.
const LATEST: f64 = 0.2;

/// What is known of a bucket.
#[derive(Debug)]
pub struct BucketHealth {
    name: String,
    errors: Arc<BucketErrors>,
    known: Mutex<Known>,
    /// Whether it counts as down, for whoever waits for an answer of it.
    down: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Known {
    circuit: Circuit,
    failures: VecDeque<Instant>,
    last_error: Option<&'static str>,
    latency_ms: Option<f64>,
    last_success: Option<Instant>,
    last_look: Option<Instant>,
}

/// A bucket's health as it is shown.
#[derive(Debug, Clone)]
pub struct HealthView {
    /// Whether it counts as up.
    pub circuit: CircuitState,
    /// How often it went down since the start.
    pub times_opened: u64,
    /// How long its operations take, on average of late.
    pub latency_ms: Option<f64>,
    /// Operations that failed in the last hour.
    pub errors_last_hour: usize,
    /// The last of them in words.
    pub last_error: Option<&'static str>,
}

impl BucketHealth {
    /// Of a bucket that nothing is known of yet.
    pub fn new(name: &str, errors: Arc<BucketErrors>) -> Self {
        Self {
            name: name.to_owned(),
            errors,
            known: Mutex::default(),
            down: watch::Sender::new(false),
        }
    }

    /// Does the work, unless the bucket counts as down or goes down meanwhile.
    ///
    /// # Errors
    /// What the work fails with; [`CountsAsDown`] inside of a generic one.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut down = self.down.subscribe();
        if *down.borrow_and_update() {
            return Err(CountsAsDown.into());
        }
        let started = Instant::now();
        let result = tokio::select! {
            biased;
            result = work => result,
            () = goes_down(down) => Err(CountsAsDown.into()),
        };
        match &result {
            Err(error) if is_the_buckets(error) => self.failed(error),
            _ => self.went_well(started.elapsed()),
        }
        result
    }

    /// As [`BucketHealth::run`] for work that blocks and is done.
    pub fn done<T>(&self, started: Instant, result: &Result<T>) {
        match result {
            Err(error) if is_the_buckets(error) => self.failed(error),
            _ => self.went_well(started.elapsed()),
        }
    }

    fn went_well(&self, took: Duration) {
        let took_ms = took.as_secs_f64() * 1000.0;
        let mut known = self.known.lock();
        known.circuit.succeeded();
        known.last_success = Some(Instant::now());
        let before = known.latency_ms.unwrap_or(took_ms);
        known.latency_ms = Some(before + LATEST * (took_ms - before));
    }

    fn failed(&self, error: &Error) {
        let mut known = self.known.lock();
        let now = Instant::now();
        known.forget_old(now);
        if known.failures.len() < FAILURES_KEPT {
            known.failures.push_back(now);
        }
        known.last_error = Some(words(error));
        if known.circuit.failed(now) {
            tracing::warn!(bucket = self.name, "bucket counts as down");
            self.down.send_replace(true);
        }
    }

    /// A look went well.
    pub fn looked(&self, took: Duration) {
        self.went_well(took);
        let mut known = self.known.lock();
        if known.circuit.looked(Instant::now()) {
            tracing::warn!(bucket = self.name, "bucket counts as up again");
            self.down.send_replace(false);
        }
    }

    /// A look failed.
    pub fn look_failed(&self, error: &Error) {
        self.failed(error);
        self.note("probe", "", error, false);
    }

    /// Whether it is time for a look, which counts as taken then: seldom while all is well and others
    /// use the bucket, at once when something failed.
    pub fn look_is_due(&self, quiet: Duration, anxious: Duration) -> bool {
        let mut known = self.known.lock();
        let calm = known.circuit.is_closed() && !known.circuit.is_suspect();
        let wait = if calm { quiet } else { anxious };
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < wait);
        if recent(known.last_look) || (calm && recent(known.last_success)) {
            return false;
        }
        known.last_look = Some(Instant::now());
        true
    }

    /// Puts a failed operation into the error journal.
    pub fn note(&self, operation: &'static str, key: &str, error: &Error, rescued: bool) {
        self.errors.note(Failure {
            bucket: self.name.clone(),
            operation: operation.to_owned(),
            key: key.to_owned(),
            error: words(error).to_owned(),
            rescued,
        });
    }

    /// Whether it counts as up.
    pub fn is_up(&self) -> bool {
        self.known.lock().circuit.is_closed()
    }

    /// Whether it counts as up and nothing failed of late.
    pub fn is_well(&self) -> bool {
        let known = self.known.lock();
        known.circuit.is_closed() && !known.circuit.is_suspect()
    }

    /// As it is shown.
    pub fn view(&self) -> HealthView {
        let mut known = self.known.lock();
        known.forget_old(Instant::now());
        HealthView {
            circuit: known.circuit.state(),
            times_opened: known.circuit.times_opened,
            latency_ms: known.latency_ms,
            errors_last_hour: known.failures.len(),
            last_error: known.last_error,
        }
    }
}

/// Waits until a bucket counts as down.
async fn goes_down(mut down: watch::Receiver<bool>) {
    // Whoever tells it lives as long as whoever waits.
    let _ = down.wait_for(|down| *down).await;
}

impl Known {
    fn forget_old(&mut self, now: Instant) {
        while let Some(at) = self.failures.front()
            && now.duration_since(*at) > HOUR
        {
            self.failures.pop_front();
        }
    }
}
