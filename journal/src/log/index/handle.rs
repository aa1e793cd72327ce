//! The log's end of the index thread: starting it, feeding it, ending it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::batch::{Head, Posting};
use super::super::error::LogError;
use super::super::queue::Queue;
use super::super::watchdog::Progress;
use super::{Boot, IndexConfig, IndexState, IndexThread, Message};

/// The log's end of the index thread.
#[derive(Debug)]
pub struct Index {
    /// Its questions.
    pub queue: Arc<Queue<Message>>,
    /// What it tells of itself.
    pub state: Arc<IndexState>,
    thread: Option<JoinHandle<()>>,
}

impl Index {
    /// Hands it durable frames that follow those before.
    pub fn apply(&self, frames: Vec<u8>, postings: Vec<Posting>, head: Head) {
        let weight = frames.len();
        let message = Message::Apply {
            frames,
            postings,
            head,
        };
        // Refused only when the thread has ended; the next start copies what is missing.
        let _ = self.queue.offer(message, weight, usize::MAX);
    }

    /// Flushes and ends the thread, unless it hangs.
    pub fn stop(&mut self) {
        let (reply, done) = sync_channel(1);
        let asked = self.queue.offer(Message::Close { reply }, 0, usize::MAX);
        self.queue.close();
        let patience = self.state.progress.patience();
        let ended = asked.is_ok() && done.recv_timeout(patience).is_ok();
        if let (true, Some(thread)) = (ended, self.thread.take()) {
            // A panic of the thread was turned into a rebuild long before.
            let _ = thread.join();
        }
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        // Ends the thread when a log could not be opened after all.
        self.queue.close();
    }
}

/// Starts the index thread; when it does not come up in time it is left behind, and one that rebuilds is started.
///
/// # Errors
/// `Io` on the files around it, `Stuck` when even a new index does not open.
pub fn start(
    config: &IndexConfig,
    progress: impl Fn() -> Arc<Progress>,
    patience: Duration,
) -> Result<(Index, Boot), LogError> {
    let mut distrust = None;
    for _ in 0..2 {
        let state = Arc::new(IndexState::new(progress()));
        let queue = Arc::new(Queue::default());
        let mut thread = IndexThread::new(config.clone(), queue.clone(), state.clone());
        let (booted, boot) = sync_channel(1);
        let run = move || {
            let boot = thread.boot(distrust);
            let serve = !thread.is_abandoned() && matches!(boot, Ok(Boot::Ready | Boot::Ahead(_)));
            if booted.send(boot).is_ok() && serve {
                thread.run();
            }
        };
        let builder = std::thread::Builder::new().name("journal-index".to_owned());
        let handle = builder
            .spawn(run)
            .map_err(|e| LogError::io("start", &config.dir, &e))?;
        let index = Index {
            queue,
            state: state.clone(),
            thread: Some(handle),
        };
        match wait_for_boot(&boot, &state, patience) {
            Ok(boot) => return Ok((index, boot?)),
            Err(reason) => distrust = Some(reason),
        }
    }
    Err(LogError::Stuck {
        seconds: patience.as_secs(),
    })
}

/// Waits as long as the thread makes steps; a rebuild may take any time, a hang may not.
fn wait_for_boot(
    boot: &Receiver<Result<Boot, LogError>>,
    state: &IndexState,
    patience: Duration,
) -> Result<Result<Boot, LogError>, &'static str> {
    let mut seen = None;
    loop {
        match boot.recv_timeout(patience) {
            Ok(boot) => return Ok(boot),
            Err(RecvTimeoutError::Disconnected) => return Err("opening it ended its thread"),
            Err(RecvTimeoutError::Timeout) => {}
        }
        let steps = state.steps.load(Ordering::Acquire);
        if seen == Some(steps) {
            state.abandoned.store(true, Ordering::Release);
            return Err("opening it took too long");
        }
        seen = Some(steps);
    }
}
