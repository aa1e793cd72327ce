//! A few threads for one ingest: jobs in two priorities, permits that bound what is in flight.
//! Format readers submit parsing, the writer submits encoding; nothing here knows either.
//! A job that panics fails the ingest and nothing else.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::error::IngestError;

type Job = Box<dyn FnOnce() -> Result<(), IngestError> + Send>;

/// Locks a mutex whose holder may have panicked; the ingest has failed by then.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Queue {
    /// Jobs that free memory: they go first.
    urgent: VecDeque<Job>,
    normal: VecDeque<Job>,
    /// Jobs queued or running.
    outstanding: usize,
    permits: usize,
    closed: bool,
    failure: Option<IngestError>,
}

struct Shared {
    queue: Mutex<Queue>,
    work: Condvar,
    /// Signalled when a permit comes back, a job ends, or the ingest fails.
    progress: Condvar,
    failed: AtomicBool,
}

/// The threads and queues of one ingest; cheap to clone.
#[derive(Clone)]
pub(super) struct Pool {
    shared: Arc<Shared>,
}

/// The threads of a pool; dropping it ends and joins them.
pub(super) struct Threads {
    pool: Pool,
    handles: Vec<JoinHandle<()>>,
}

/// The right to have one block in flight; comes back when dropped.
pub(super) struct Permit {
    pool: Pool,
}

impl Drop for Permit {
    fn drop(&mut self) {
        lock(&self.pool.shared.queue).permits += 1;
        self.pool.shared.progress.notify_all();
    }
}

impl Threads {
    /// Starts `threads` threads with `permits` blocks in flight at most.
    pub fn start(threads: usize, permits: usize) -> Result<Self, IngestError> {
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue {
                permits,
                ..Queue::default()
            }),
            work: Condvar::new(),
            progress: Condvar::new(),
            failed: AtomicBool::new(false),
        });
        let mut started = Self {
            pool: Pool { shared },
            handles: Vec::with_capacity(threads),
        };
        for number in 0..threads.max(1) {
            let pool = started.pool.clone();
            let handle = std::thread::Builder::new()
                .name(format!("ingest-{number}"))
                .spawn(move || pool.work())
                .map_err(IngestError::Staging)?;
            started.handles.push(handle);
        }
        Ok(started)
    }

    /// The pool that these threads serve.
    pub fn pool(&self) -> Pool {
        self.pool.clone()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        let discarded = {
            let mut queue = lock(&self.pool.shared.queue);
            queue.closed = true;
            let jobs: Vec<Job> = queue.take_jobs();
            queue.outstanding -= jobs.len();
            jobs
        };
        // Jobs own permits, which lock the queue when dropped: so not under the lock.
        drop(discarded);
        self.pool.shared.work.notify_all();
        for handle in self.handles.drain(..) {
            // A worker catches every panic of a job; one of its own has nothing to add here.
            let _ = handle.join();
        }
    }
}

impl Queue {
    fn take_jobs(&mut self) -> Vec<Job> {
        self.urgent.drain(..).chain(self.normal.drain(..)).collect()
    }

    fn next(&mut self) -> Option<Job> {
        self.urgent.pop_front().or_else(|| self.normal.pop_front())
    }
}

impl Pool {
    fn work(&self) {
        loop {
            let job = {
                let mut queue = lock(&self.shared.queue);
                loop {
                    if let Some(job) = queue.next() {
                        break job;
                    }
                    if queue.closed {
                        return;
                    }
                    queue = self
                        .shared
                        .work
                        .wait(queue)
                        .unwrap_or_else(PoisonError::into_inner);
                }
            };
            self.run(job);
        }
    }

    fn run(&self, job: Job) {
        if self.has_failed() {
            drop(job);
        } else {
            match catch_unwind(AssertUnwindSafe(job)) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => self.fail(error),
                Err(panic) => self.fail(IngestError::Internal(panic_text(panic.as_ref()))),
            }
        }
        lock(&self.shared.queue).outstanding -= 1;
        self.shared.progress.notify_all();
    }

    /// Queues a job; `urgent` ones go before the others.
    pub fn submit(
        &self,
        urgent: bool,
        job: impl FnOnce() -> Result<(), IngestError> + Send + 'static,
    ) {
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return;
        }
        queue.outstanding += 1;
        if urgent {
            queue.urgent.push_back(Box::new(job));
        } else {
            queue.normal.push_back(Box::new(job));
        }
        drop(queue);
        self.shared.work.notify_one();
    }

    /// Waits for the right to put one more block in flight.
    ///
    /// # Errors
    /// The failure of the ingest, when it failed meanwhile.
    pub fn permit(&self) -> Result<Permit, IngestError> {
        let mut queue = lock(&self.shared.queue);
        loop {
            if let Some(failure) = queue.failure.take() {
                return Err(failure);
            }
            if queue.permits > 0 {
                queue.permits -= 1;
                return Ok(Permit { pool: self.clone() });
            }
            queue = self
                .shared
                .progress
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until no job is queued or running.
    ///
    /// # Errors
    /// The failure of the ingest, when it failed.
    pub fn wait(&self) -> Result<(), IngestError> {
        let mut queue = lock(&self.shared.queue);
        while queue.outstanding > 0 {
            queue = self
                .shared
                .progress
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        queue.failure.take().map_or(Ok(()), Err)
    }

    /// Records the first failure; jobs that wait are dropped instead of run from then on.
    pub fn fail(&self, error: IngestError) {
        let mut queue = lock(&self.shared.queue);
        if !self.shared.failed.swap(true, Ordering::AcqRel) {
            queue.failure = Some(error);
        }
        drop(queue);
        self.shared.progress.notify_all();
    }

    /// Whether the ingest failed.
    pub fn has_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }
}

/// The words of a panic.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(ToString::to_string)
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without words".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_panics_fails_the_ingest_and_leaves_the_threads_alive() {
        let threads = Threads::start(2, 1).unwrap();
        let pool = threads.pool();
        pool.submit(false, || panic!("on purpose"));
        let error = pool.wait().unwrap_err();
        assert!(error.to_string().contains("on purpose"));
        pool.submit(false, || Ok(()));
        pool.wait().unwrap();
    }

    #[test]
    fn a_permit_comes_back_when_its_job_is_done() {
        let threads = Threads::start(1, 1).unwrap();
        let pool = threads.pool();
        for _ in 0..100 {
            let permit = pool.permit().unwrap();
            pool.submit(true, move || {
                drop(permit);
                Ok(())
            });
        }
        pool.wait().unwrap();
    }
}
