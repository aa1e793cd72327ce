//! What each token may use: requests a second, queries at a time, rows, memory, time. Holds the counts of
//! tokens that are in use; the edge asks here at the one place where it authenticates. Limits of a token win over
//! those of its role, which the configuration sets.

use std::{
    collections::{BTreeMap, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use datafusion::execution::memory_pool::MemoryPool;
use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock as _, DefaultClock},
};
use lakehouse_journal::model::access::{Token, TokenLimits};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::query::{QueryEngine, QuerySession};

/// Tokens whose counts are kept; when there are more, those that nobody uses are forgotten.
const HOLDERS_MAX: usize = 4096;

/// Why a request has to wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many in the last second.
    #[error("more than {per_s} requests a second; try again in {retry_after_s} s")]
    Requests {
        /// How many there may be.
        per_s: u32,
        /// When one more is taken, in seconds.
        retry_after_s: u32,
    },
    /// As many as may run at a time do.
    #[error("{most} queries of this token run already")]
    Queries {
        /// How many there may be.
        most: u32,
    },
}

impl Refused {
    /// The stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Requests { .. } => "rate_limited",
            Self::Queries { .. } => "too_many_queries",
        }
    }

    /// When to try again, in seconds.
    pub fn retry_after_s(&self) -> u32 {
        match self {
            Self::Requests { retry_after_s, .. } => *retry_after_s,
            Self::Queries { .. } => 1,
        }
    }
}

/// The limits of all tokens.
#[derive(Default)]
pub struct Limits {
    roles: BTreeMap<&'static str, TokenLimits>,
    holders: Mutex<HashMap<String, Arc<Holder>>>,
}

/// One token's limits, and what of them is used.
pub struct Holder {
    limits: TokenLimits,
    requests: Option<DefaultDirectRateLimiter>,
    running: Option<Arc<Semaphore>>,
    memory: Option<Arc<dyn MemoryPool>>,
}

/// A query that runs; another may when this is dropped.
#[derive(Debug)]
pub struct Slot {
    _permit: Option<OwnedSemaphorePermit>,
}

impl Limits {
    /// With these limits of roles, by their words.
    pub fn new(roles: BTreeMap<&'static str, TokenLimits>) -> Self {
        Self {
            roles,
            holders: Mutex::default(),
        }
    }

    /// The limits of a token.
    pub fn of(&self, token: &Token, query: &QueryEngine) -> Arc<Holder> {
        let role = self.roles.get(token.role.as_str()).copied();
        let limits = token
            .limits
            .unwrap_or_default()
            .or(role.unwrap_or_default());
        let mut holders = self.holders.lock();
        if let Some(known) = holders
            .get(&token.id)
            .filter(|known| known.limits == limits)
        {
            return Arc::clone(known);
        }
        if holders.len() >= HOLDERS_MAX {
            holders.retain(|_, holder| Arc::strong_count(holder) > 1);
        }
        let holder = Arc::new(Holder::new(limits, query));
        holders.insert(token.id.clone(), Arc::clone(&holder));
        holder
    }
}

impl Holder {
    fn new(limits: TokenLimits, query: &QueryEngine) -> Self {
        let requests = limits.requests_per_s.and_then(NonZeroU32::new);
        let running = limits
            .concurrent_queries
            .map(|most| Arc::new(Semaphore::new(most as usize)));
        let memory = limits
            .memory_bytes
            .map(|bytes| query.part_of_memory(usize::try_from(bytes).unwrap_or(usize::MAX)));
        Self {
            limits,
            requests: requests.map(|per_s| RateLimiter::direct(Quota::per_second(per_s))),
            running,
            memory,
        }
    }

    /// Counts a request.
    ///
    /// # Errors
    /// [`Refused::Requests`].
    pub fn request(&self) -> Result<(), Refused> {
        let Some(requests) = &self.requests else {
            return Ok(());
        };
        requests.check().map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            Refused::Requests {
                per_s: self.limits.requests_per_s.unwrap_or_default(),
                retry_after_s: u32::try_from(wait.as_secs())
                    .unwrap_or(u32::MAX)
                    .saturating_add(1),
            }
        })
    }

    /// A place for a query.
    ///
    /// # Errors
    /// [`Refused::Queries`].
    pub fn slot(&self) -> Result<Slot, Refused> {
        let Some(running) = &self.running else {
            return Ok(Slot { _permit: None });
        };
        let permit = Arc::clone(running).try_acquire_owned();
        permit
            .map(|permit| Slot {
                _permit: Some(permit),
            })
            .map_err(|_| Refused::Queries {
                most: self.limits.concurrent_queries.unwrap_or_default(),
            })
    }

    /// Most rows of one answer.
    pub fn rows(&self) -> Option<u64> {
        self.limits.rows
    }

    /// The session with this token's memory and time.
    #[must_use]
    pub fn applied_to(&self, session: QuerySession) -> QuerySession {
        let session = match self.limits.statement_ms {
            Some(most) => session.within(Duration::from_millis(most)),
            None => session,
        };
        match &self.memory {
            Some(memory) => session.with_memory(Arc::clone(memory)),
            None => session,
        }
    }

    /// How long a statement may take, where that is limited.
    pub fn statement(&self) -> Option<Duration> {
        self.limits.statement_ms.map(Duration::from_millis)
    }
}
