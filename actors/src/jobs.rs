//! Jobs: the long operations that somebody watches. Shown, never relied on: what is left to do
//! stands in the owners' state, and a job that a restart interrupted shows up again from there.

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use lakehouse_journal::record::Micros;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::Value;

use crate::ports::{Clock, Progress};

/// Jobs that are remembered after their end.
const JOBS_MAX: usize = 1000;

/// How a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// It waits for its turn.
    Queued,
    /// It is at work.
    Running,
    /// It is done.
    Done,
    /// It could not be done.
    Failed,
}

/// A job as the contract shows it.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Its id.
    pub id: String,
    /// `ingest`, `index_build`, …
    pub kind: String,
    /// What it works on.
    pub subject: String,
    /// How it stands.
    pub state: JobState,
    /// Units done.
    pub done: u64,
    /// Units in all; absent while unknown.
    pub total: Option<u64>,
    /// Units a second since it began.
    pub rate_per_s: f64,
    /// Seconds left at that rate.
    pub eta_s: Option<f64>,
    /// Why it failed.
    pub error: Option<String>,
    /// What it gave.
    pub result: Option<Value>,
    /// When it was made.
    pub created_at: Micros,
}

struct Status {
    state: JobState,
    error: Option<String>,
    result: Option<Value>,
    ended_at: Option<Micros>,
}

/// One job.
pub struct Job {
    id: String,
    kind: &'static str,
    subject: String,
    created_at: Micros,
    /// How far it is.
    pub progress: Arc<Progress>,
    status: Mutex<Status>,
    clock: Arc<dyn Clock>,
}

impl Job {
    /// Its id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Notes that it is at work.
    pub fn runs(&self) {
        self.status.lock().state = JobState::Running;
    }

    /// Notes that it is done.
    pub fn done(&self, result: Option<Value>) {
        let mut status = self.status.lock();
        status.state = JobState::Done;
        status.result = result;
        status.ended_at = Some(self.clock.now());
    }

    /// Notes that it failed.
    pub fn failed(&self, error: String) {
        let mut status = self.status.lock();
        status.state = JobState::Failed;
        status.error = Some(error);
        status.ended_at = Some(self.clock.now());
    }

    fn view(&self) -> JobView {
        let status = self.status.lock();
        let done = self.progress.done.load(Ordering::Relaxed);
        let total = Some(self.progress.total.load(Ordering::Relaxed)).filter(|total| *total > 0);
        let end = status.ended_at.unwrap_or_else(|| self.clock.now());
        #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
        let rate = done as f64 / ((end - self.created_at).max(1) as f64 / 1e6);
        #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
        let eta_s = total
            .filter(|_| status.ended_at.is_none() && rate > 0.0)
            .map(|total| total.saturating_sub(done) as f64 / rate);
        JobView {
            id: self.id.clone(),
            kind: self.kind.to_owned(),
            subject: self.subject.clone(),
            state: status.state,
            done,
            total,
            rate_per_s: rate,
            eta_s,
            error: status.error.clone(),
            result: status.result.clone(),
            created_at: self.created_at,
        }
    }
}

/// Every job that is at work, and the last ones that ended.
#[derive(Clone)]
pub struct Jobs {
    clock: Arc<dyn Clock>,
    list: Arc<Mutex<VecDeque<Arc<Job>>>>,
}

impl Jobs {
    /// No jobs.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            list: Arc::default(),
        }
    }

    /// The job of that id, made when it is not there.
    pub fn open(&self, id: &str, kind: &'static str, subject: &str) -> Arc<Job> {
        let mut list = self.list.lock();
        if let Some(job) = list.iter().find(|job| job.id == id) {
            return Arc::clone(job);
        }
        while list.len() >= JOBS_MAX {
            let ended = list
                .iter()
                .position(|job| job.status.lock().ended_at.is_some());
            let Some(position) = ended else { break };
            list.remove(position);
        }
        let job = Arc::new(Job {
            id: id.to_owned(),
            kind,
            subject: subject.to_owned(),
            created_at: self.clock.now(),
            progress: Arc::default(),
            status: Mutex::new(Status {
                state: JobState::Queued,
                error: None,
                result: None,
                ended_at: None,
            }),
            clock: Arc::clone(&self.clock),
        });
        list.push_back(Arc::clone(&job));
        job
    }

    /// The job of that id.
    pub fn find(&self, id: &str) -> Option<JobView> {
        let job = self.list.lock().iter().find(|job| job.id == id).cloned()?;
        Some(job.view())
    }

    /// Every job, newest first.
    pub fn all(&self) -> Vec<JobView> {
        let jobs: Vec<Arc<Job>> = self.list.lock().iter().rev().cloned().collect();
        jobs.iter().map(|job| job.view()).collect()
    }
}
