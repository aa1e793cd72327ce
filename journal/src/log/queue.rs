//! A bounded queue between threads whose taker takes all that waits, up to a weight.
//! The committer and the index each have one; nothing here knows what is in it.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A queue of items with weights (bytes, or 1 each).
#[derive(Debug)]
pub struct Queue<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    emptied: Condvar,
}

#[derive(Debug)]
struct State<T> {
    items: VecDeque<(T, usize)>,
    weight: usize,
    closed: bool,
    taker_waits: bool,
}

/// Why an item was not queued; it comes back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// So many wait already.
    Full(T),
    /// Nobody takes any more.
    Closed(T),
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                items: VecDeque::new(),
                weight: 0,
                closed: false,
                taker_waits: false,
            }),
            filled: Condvar::new(),
            emptied: Condvar::new(),
        }
    }
}

impl<T> Queue<T> {
    /// Queues an item when fewer than `most` wait.
    ///
    /// # Errors
    /// `Full` or `Closed`, with the item.
    pub fn offer(&self, item: T, weight: usize, most: usize) -> Result<(), Refused<T>> {
        let mut state = self.lock();
        if state.closed {
            return Err(Refused::Closed(item));
        }
        if state.items.len() >= most {
            return Err(Refused::Full(item));
        }
        state.items.push_back((item, weight));
        state.weight += weight;
        let wake = std::mem::take(&mut state.taker_waits);
        drop(state);
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.lock().items.len()
    }

    /// Waits until what is queued weighs at most `weight`; `false` when `patience` ran out first.
    pub fn wait_below(&self, weight: usize, patience: Duration) -> bool {
        let state = self.lock();
        let (state, _) = self
            .emptied
            .wait_timeout_while(state, patience, |s| s.weight > weight && !s.closed)
            .unwrap_or_else(PoisonError::into_inner);
        state.weight <= weight || state.closed
    }

    /// Takes the first item and as many more as keep the weight at or below `weight` and their number at or below `most`;
    /// waits for the first until `deadline`. `None` when the queue is closed and empty.
    pub fn take(&self, weight: usize, most: usize, deadline: Option<Instant>) -> Option<Vec<T>> {
        let mut state = self.lock();
        while state.items.is_empty() {
            if state.closed {
                return None;
            }
            state.taker_waits = true;
            state = match deadline {
                None => self
                    .filled
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        state.taker_waits = false;
                        return Some(Vec::new());
                    }
                    let waited = self.filled.wait_timeout(state, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        state.taker_waits = false;
        let mut taken = Vec::with_capacity(state.items.len().min(most));
        let mut sum = 0;
        while let Some((_, next)) = state.items.front() {
            if !taken.is_empty() && (sum + next > weight || taken.len() >= most) {
                break;
            }
            let (item, own) = state.items.pop_front().expect("there is a front");
            sum += own;
            taken.push(item);
        }
        state.weight -= sum;
        drop(state);
        self.emptied.notify_all();
        Some(taken)
    }

    /// Refuses further items; what waits is still taken.
    pub fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_taker_gets_all_that_fits_in_order() {
        let queue = Queue::default();
        for n in 0..5 {
            queue.offer(n, 10, 100).unwrap();
        }
        assert_eq!(queue.take(25, 100, None).unwrap(), [0, 1]);
        assert_eq!(queue.take(1, 100, None).unwrap(), [2]);
        assert_eq!(queue.take(100, 1, None).unwrap(), [3]);
        queue.close();
        assert_eq!(queue.take(100, 100, None).unwrap(), [4]);
        assert_eq!(queue.take(100, 100, None), None);
        assert_eq!(queue.offer(9, 1, 100), Err(Refused::Closed(9)));
    }

    #[test]
    fn a_full_queue_refuses_and_a_deadline_ends_a_wait() {
        let queue = Queue::default();
        queue.offer('a', 1, 1).unwrap();
        assert_eq!(queue.offer('b', 1, 1), Err(Refused::Full('b')));
        assert!(!queue.wait_below(0, Duration::from_millis(5)));
        assert!(queue.wait_below(1, Duration::from_millis(5)));
        queue.take(9, 9, None);
        let soon = Instant::now() + Duration::from_millis(5);
        assert_eq!(queue.take(9, 9, Some(soon)), Some(Vec::new()));
    }
}
