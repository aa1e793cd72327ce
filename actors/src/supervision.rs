//! Keeping actors alive: a panic becomes a restart with backoff, too many become quarantine, and
//! the tree shows it. actix's own supervisor catches no panic; `guard` does, in every handler.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use actix::{Actor, ActorContext};
use lakehouse_journal::record::Micros;
use parking_lot::Mutex;
use serde::Serialize;

use crate::ports::Clock;

/// Restarts within [`WINDOW_MICROS`] after which an actor is left alone.
pub const RESTARTS_MAX: usize = 5;
/// The window that restarts are counted in: ten minutes.
pub const WINDOW_MICROS: Micros = 600 * 1_000_000;

/// What an actor is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LifeState {
    /// It answers.
    Running,
    /// It waits out its backoff.
    Restarting,
    /// It failed too often and is left alone.
    Failed,
}

/// One line of the supervision tree.
#[derive(Debug, Clone, Serialize)]
pub struct ActorHealth {
    /// Its name.
    pub name: String,
    /// Who watches over it.
    pub parent: String,
    /// What it is doing.
    pub state: LifeState,
    /// Restarts since the daemon started.
    pub restarts: u32,
    /// What it died of last.
    pub last_error: Option<String>,
    /// Messages waiting.
    pub mailbox: u64,
    /// When it (re)started.
    pub started_at: Micros,
}

/// What to do with an actor that died.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Start again after this long.
    Restart(Duration),
    /// Leave it alone.
    Quarantine,
}

struct Pulse {
    state: LifeState,
    last_error: Option<String>,
    started_at: Micros,
    recent: VecDeque<Micros>,
}

/// An actor's life signs; it writes them, the tree reads them.
pub struct Vital {
    name: String,
    parent: String,
    clock: Arc<dyn Clock>,
    restarts: AtomicU32,
    /// Messages sent and not yet handled.
    pub(crate) waiting: AtomicU64,
    pulse: Mutex<Pulse>,
}

impl Vital {
    /// The actor's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is left alone.
    pub fn has_failed(&self) -> bool {
        self.pulse.lock().state == LifeState::Failed
    }

    /// Notes that it answers again.
    pub fn runs(&self) {
        let mut pulse = self.pulse.lock();
        if pulse.state != LifeState::Failed {
            pulse.state = LifeState::Running;
            pulse.started_at = self.clock.now();
        }
    }

    /// Notes what it died of.
    pub fn died(&self, error: String) {
        tracing::error!(actor = self.name, error, "actor died");
        self.pulse.lock().last_error = Some(error);
    }

    /// Counts a restart: backoff 0, 100, 200, 400, 800 ms, then quarantine.
    pub fn restarts(&self) -> Verdict {
        let now = self.clock.now();
        let mut pulse = self.pulse.lock();
        while pulse
            .recent
            .front()
            .is_some_and(|at| *at < now - WINDOW_MICROS)
        {
            pulse.recent.pop_front();
        }
        pulse.recent.push_back(now);
        self.restarts.fetch_add(1, Ordering::Relaxed);
        let count = pulse.recent.len();
        if count > RESTARTS_MAX {
            pulse.state = LifeState::Failed;
            tracing::error!(actor = self.name, restarts = count, "actor quarantined");
            return Verdict::Quarantine;
        }
        pulse.state = LifeState::Restarting;
        let backoff_ms = if count == 1 { 0 } else { 50 << (count - 1) };
        Verdict::Restart(Duration::from_millis(backoff_ms))
    }

    fn health(&self) -> ActorHealth {
        let pulse = self.pulse.lock();
        ActorHealth {
            name: self.name.clone(),
            parent: self.parent.clone(),
            state: pulse.state,
            restarts: self.restarts.load(Ordering::Relaxed),
            last_error: pulse.last_error.clone(),
            mailbox: self.waiting.load(Ordering::Relaxed),
            started_at: pulse.started_at,
        }
    }
}

/// Every actor's life signs.
#[derive(Clone)]
pub struct Tree {
    clock: Arc<dyn Clock>,
    vitals: Arc<Mutex<Vec<Arc<Vital>>>>,
}

impl Tree {
    /// An empty tree.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            vitals: Arc::default(),
        }
    }

    /// Adds an actor under its parent.
    pub fn add(&self, name: impl Into<String>, parent: &str) -> Arc<Vital> {
        let started_at = self.clock.now();
        let vital = Arc::new(Vital {
            name: name.into(),
            parent: parent.to_owned(),
            clock: Arc::clone(&self.clock),
            restarts: AtomicU32::new(0),
            waiting: AtomicU64::new(0),
            pulse: Mutex::new(Pulse {
                state: LifeState::Running,
                last_error: None,
                started_at,
                recent: VecDeque::new(),
            }),
        });
        self.vitals.lock().push(Arc::clone(&vital));
        vital
    }

    /// Every actor, parents first as they were added.
    pub fn health(&self) -> Vec<ActorHealth> {
        self.vitals
            .lock()
            .iter()
            .map(|vital| vital.health())
            .collect()
    }

    /// Whether any actor is left alone.
    pub fn degraded(&self) -> bool {
        self.vitals.lock().iter().any(|vital| vital.has_failed())
    }
}

/// Runs a handler's body; a panic stops the actor, and its supervisor calls `restarting`.
pub(crate) fn guard<A, R>(
    actor: &mut A,
    ctx: &mut A::Context,
    vital: &Vital,
    body: impl FnOnce(&mut A, &mut A::Context) -> R,
) -> Option<R>
where
    A: Actor,
    A::Context: ActorContext,
{
    match catch_unwind(AssertUnwindSafe(|| body(actor, ctx))) {
        Ok(value) => Some(value),
        Err(panic) => {
            vital.died(panic_text(panic.as_ref()));
            ctx.stop();
            None
        }
    }
}

/// What a panic said.
pub(crate) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned());
    format!(
        "panic: {}",
        text.unwrap_or_else(|| "without a text".to_owned())
    )
}
