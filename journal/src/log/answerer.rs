//! The thread that answers submissions, in order, while the committer already writes the next group.
//! Waking a writer costs about as much as writing its event; the disk should not wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use super::committer::{Answer, RecoveredFn, ReplyFn, or_abort};
use super::error::LogError;
use super::queue::Queue;
use crate::record::Record;

/// So few answers are given by the committer itself when none is under way: a hop would take longer.
const INLINE_MAX: usize = 2;

/// What is to be told.
enum Outcome {
    /// One group's answers.
    Answers(Vec<(ReplyFn, Answer)>),
    /// Records that were never acknowledged and are committed.
    Recovered(Vec<Record>),
}

/// The committer's end of the thread.
pub struct Answerer {
    queue: Arc<Queue<Outcome>>,
    under_way: Arc<AtomicUsize>,
    thread: Option<JoinHandle<()>>,
}

impl Answerer {
    /// Starts the thread.
    ///
    /// # Errors
    /// `Io` when the system gives no thread.
    pub fn spawn(mut on_recovered: RecoveredFn) -> Result<Self, LogError> {
        let queue: Arc<Queue<Outcome>> = Arc::default();
        let under_way = Arc::new(AtomicUsize::new(0));
        let (taken, done) = (queue.clone(), under_way.clone());
        let run = move || {
            while let Some(outcomes) = taken.take(usize::MAX, usize::MAX, None) {
                for outcome in outcomes {
                    tell(outcome, &mut on_recovered);
                    done.fetch_sub(1, Ordering::AcqRel);
                }
            }
        };
        let builder = std::thread::Builder::new().name("journal-answers".to_owned());
        let thread = builder
            .spawn(move || or_abort(run))
            .map_err(|e| LogError::io("start", std::path::Path::new("journal-answers"), &e))?;
        Ok(Self {
            queue,
            under_way,
            thread: Some(thread),
        })
    }

    /// Gives these answers after all that were given before.
    pub fn answer(&self, answers: Vec<(ReplyFn, Answer)>) {
        if answers.len() <= INLINE_MAX && self.under_way.load(Ordering::Acquire) == 0 {
            for (reply, answer) in answers {
                reply(answer);
            }
            return;
        }
        self.send(Outcome::Answers(answers));
    }

    /// Tells of recovered records after all answers that were given before.
    pub fn recovered(&self, records: Vec<Record>) {
        self.send(Outcome::Recovered(records));
    }

    fn send(&self, outcome: Outcome) {
        self.under_way.fetch_add(1, Ordering::AcqRel);
        // The queue is unbounded and closed by nobody but the drop below; what is in it is bounded by the writers that wait.
        let _ = self.queue.offer(outcome, 1, usize::MAX);
    }
}

impl Drop for Answerer {
    fn drop(&mut self) {
        self.queue.close();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has ended the process.
            let _ = thread.join();
        }
    }
}

fn tell(outcome: Outcome, on_recovered: &mut RecoveredFn) {
    match outcome {
        Outcome::Answers(answers) => {
            for (reply, answer) in answers {
                reply(answer);
            }
        }
        Outcome::Recovered(records) => on_recovered(records),
    }
}
