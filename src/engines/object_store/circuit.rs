//! When a bucket counts as down: opens after failures in a row, closes after looks in a row that went
//! well, and later each time that it opened again soon. Pure: whoever asks says what time it is.

use std::time::{Duration, Instant};

/// Failures in a row after which a bucket counts as down.
pub const FAILURES_TO_OPEN: u32 = 3;
/// Looks in a row that must go well before it counts as up again.
const LOOKS_TO_CLOSE: u32 = 2;
/// The most that are asked for, of a bucket that comes and goes.
const LOOKS_TO_CLOSE_MAX: u32 = 32;
/// A bucket that goes down again within this time comes and goes.
const FLAPPING: Duration = Duration::from_mins(1);

/// What a bucket counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CircuitState {
    /// Up: everything is tried.
    Closed,
    /// Down: nothing but looks.
    Open,
    /// Down, and the last look went well.
    HalfOpen,
}

impl CircuitState {
    /// The word of the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// One bucket's circuit.
#[derive(Debug, Clone)]
pub struct Circuit {
    open: bool,
    failures: u32,
    looks: u32,
    looks_needed: u32,
    closed_at: Option<Instant>,
    /// How often it opened.
    pub times_opened: u64,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            open: false,
            failures: 0,
            looks: 0,
            looks_needed: LOOKS_TO_CLOSE,
            closed_at: None,
            times_opened: 0,
        }
    }
}

impl Circuit {
    /// What the bucket counts as.
    pub fn state(&self) -> CircuitState {
        match (self.open, self.looks) {
            (false, _) => CircuitState::Closed,
            (true, 0) => CircuitState::Open,
            (true, _) => CircuitState::HalfOpen,
        }
    }

    /// Whether it counts as up.
    pub fn is_closed(&self) -> bool {
        !self.open
    }

    /// Whether something failed since it last went well.
    pub fn is_suspect(&self) -> bool {
        self.failures > 0
    }

    /// Something failed, for the bucket's own reasons. Returns whether it has just gone down.
    pub fn failed(&mut self, now: Instant) -> bool {
        self.looks = 0;
        if self.open {
            return false;
        }
        self.failures += 1;
        if self.failures < FAILURES_TO_OPEN {
            return false;
        }
        let again = self
            .closed_at
            .is_some_and(|at| now.duration_since(at) < FLAPPING);
        self.looks_needed = if again {
            (self.looks_needed * 2).min(LOOKS_TO_CLOSE_MAX)
        } else {
            LOOKS_TO_CLOSE
        };
        self.open = true;
        self.times_opened += 1;
        true
    }

    /// Something went well. What began before the bucket went down says nothing of it now.
    pub fn succeeded(&mut self) {
        if !self.open {
            self.failures = 0;
        }
    }

    /// A look went well. Returns whether the bucket has just come up.
    pub fn looked(&mut self, now: Instant) -> bool {
        if !self.open {
            self.failures = 0;
            return false;
        }
        self.looks += 1;
        if self.looks < self.looks_needed {
            return false;
        }
        self.open = false;
        self.failures = 0;
        self.looks = 0;
        self.closed_at = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn down(circuit: &mut Circuit, now: Instant) {
        for _ in 0..FAILURES_TO_OPEN {
            circuit.failed(now);
        }
        assert!(!circuit.is_closed());
    }

    #[test]
    fn failures_open_it_only_in_a_row() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        for _ in 0..10 {
            circuit.failed(now);
            circuit.failed(now);
            circuit.succeeded();
        }
        assert!(circuit.is_closed());
        down(&mut circuit, now);
        assert_eq!(circuit.times_opened, 1);
    }

    #[test]
    fn only_looks_close_it_and_only_in_a_row() {
        let (mut circuit, now) = (Circuit::default(), Instant::now());
        down(&mut circuit, now);
        circuit.succeeded();
        assert_eq!(circuit.state(), CircuitState::Open);
        assert!(!circuit.looked(now));
        assert_eq!(circuit.state(), CircuitState::HalfOpen);
        circuit.failed(now);
        assert!(!circuit.looked(now));
        assert!(circuit.looked(now));
        assert_eq!(circuit.state(), CircuitState::Closed);
    }

    #[test]
    fn a_bucket_that_comes_and_goes_is_let_in_later_each_time() {
        let (mut circuit, mut now) = (Circuit::default(), Instant::now());
        let mut needed = Vec::new();
        for _ in 0..6 {
            down(&mut circuit, now);
            let mut looks = 1;
            while !circuit.looked(now) {
                looks += 1;
            }
            needed.push(looks);
            now += Duration::from_secs(1);
        }
        assert_eq!(needed, [2, 4, 8, 16, 32, 32]);
        now += FLAPPING;
        down(&mut circuit, now);
        assert!(!circuit.looked(now));
        assert!(circuit.looked(now), "after a quiet time it begins anew");
    }
}
