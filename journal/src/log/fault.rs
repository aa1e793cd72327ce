//! Fault injection (feature `testing`): the real disk, until the n-th operation.
//! A failing write leaves half of its bytes behind, as a full disk does.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::io::{IndexOperation, Io, IoFile, RealIo};

/// How long the fault lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultMode {
    /// The n-th operation fails, later ones work.
    Once,
    /// Every operation from the n-th on fails.
    FromThenOn,
}

/// Which operations count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultScope {
    /// All of them.
    All,
    /// Those on files and directories.
    Files,
    /// `fdatasync` and directory syncs.
    Syncs,
    /// Those of the index.
    Index,
}

/// The real disk with a plan for its failure.
#[derive(Debug, Clone)]
pub struct FaultIo {
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    seen: AtomicU64,
    fired: AtomicU64,
    plan: Mutex<Plan>,
}

#[derive(Debug, Clone, Copy)]
struct Plan {
    nth: u64,
    mode: FaultMode,
    scope: FaultScope,
    index_delay: Duration,
    delayed: u64,
}

impl FaultIo {
    /// Fails the `nth` operation (from 1) of `scope`; 0 fails none.
    pub fn new(nth: u64, mode: FaultMode, scope: FaultScope) -> Self {
        let plan = Plan {
            nth,
            mode,
            scope,
            index_delay: Duration::ZERO,
            delayed: 0,
        };
        Self {
            state: Arc::new(State {
                seen: AtomicU64::new(0),
                fired: AtomicU64::new(0),
                plan: Mutex::new(plan),
            }),
        }
    }

    /// Fails nothing, until [`FaultIo::fail_from_now`] says so.
    pub fn sound() -> Self {
        Self::new(0, FaultMode::Once, FaultScope::All)
    }

    /// Fails the `nth` operation of `scope` counted from now.
    pub fn fail_from_now(&self, nth: u64, mode: FaultMode, scope: FaultScope) {
        let mut plan = self
            .state
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        self.state.seen.store(0, Ordering::SeqCst);
        (plan.nth, plan.mode, plan.scope) = (nth, mode, scope);
    }

    /// Makes every operation work again.
    pub fn heal(&self) {
        self.fail_from_now(0, FaultMode::Once, FaultScope::All);
    }

    /// Makes the next `operations` of the index take this long.
    pub fn delay_index(&self, delay: Duration, operations: u64) {
        let mut plan = self
            .state
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (plan.index_delay, plan.delayed) = (delay, operations);
    }

    /// How many operations failed so far.
    pub fn fired(&self) -> u64 {
        self.state.fired.load(Ordering::SeqCst)
    }

    fn take_delay(&self) -> Duration {
        let mut plan = self
            .state
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if plan.delayed == 0 {
            return Duration::ZERO;
        }
        plan.delayed -= 1;
        plan.index_delay
    }

    fn gate(&self, kind: FaultScope, what: &str) -> io::Result<()> {
        let plan = *self
            .state
            .plan
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let counts = match plan.scope {
            FaultScope::All => true,
            FaultScope::Files => kind != FaultScope::Index,
            FaultScope::Syncs | FaultScope::Index => kind == plan.scope,
        };
        if !counts || plan.nth == 0 {
            return Ok(());
        }
        let n = self.state.seen.fetch_add(1, Ordering::SeqCst) + 1;
        let fails = n == plan.nth || (n > plan.nth && plan.mode == FaultMode::FromThenOn);
        if !fails {
            return Ok(());
        }
        self.state.fired.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::other(format!("injected failure of {what}")))
    }
}

impl Io for FaultIo {
    fn create(&self, path: &Path) -> io::Result<Box<dyn IoFile>> {
        self.gate(FaultScope::Files, "create")?;
        let file = RealIo.create(path)?;
        Ok(Box::new(FaultFile {
            file,
            io: self.clone(),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.gate(FaultScope::Files, "rename")?;
        RealIo.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.gate(FaultScope::Files, "remove")?;
        RealIo.remove(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.gate(FaultScope::Files, "create_dir")?;
        RealIo.create_dir(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.gate(FaultScope::Syncs, "sync_dir")?;
        RealIo.sync_dir(dir)
    }

    fn index(&self, operation: IndexOperation) -> io::Result<()> {
        let delay = self.take_delay();
        if !delay.is_zero() {
            std::thread::sleep(delay);
        }
        self.gate(FaultScope::Index, &format!("index {operation:?}"))
    }
}

#[derive(Debug)]
struct FaultFile {
    file: Box<dyn IoFile>,
    io: FaultIo,
}

impl IoFile for FaultFile {
    fn allocate(&mut self, bytes: u64) -> io::Result<()> {
        self.io.gate(FaultScope::Files, "allocate")?;
        self.file.allocate(bytes)
    }

    fn write_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Err(error) = self.io.gate(FaultScope::Files, "write") {
            self.file.write_at(&bytes[..bytes.len() / 2], offset)?;
            return Err(error);
        }
        self.file.write_at(bytes, offset)
    }

    fn set_len(&mut self, bytes: u64) -> io::Result<()> {
        self.io.gate(FaultScope::Files, "set_len")?;
        self.file.set_len(bytes)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        self.io.gate(FaultScope::Syncs, "fdatasync")?;
        self.file.sync_data()
    }
}
