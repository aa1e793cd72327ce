//! Workers: long work beside the owners, a few tasks at a time, each on the async runtime.
//! A worker keeps nothing that matters: a lost task is asked for again by whoever waits for it, or
//! comes back out of the owner's `pending`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Supervised, WrapFuture,
};
use async_trait::async_trait;
use lakehouse_journal::{model::Work, record::Micros};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::Semaphore};

#[cfg(any(test, feature = "testing"))]
use crate::owner::Crash;
use crate::supervision::{Verdict, Vital, guard, panic_text};

/// Messages that may wait for a worker.
const MAILBOX_MAX: usize = 256;

/// Work that somebody has in hand, so that the same work is not given out twice; and when work that
/// failed may be tried again.
#[derive(Clone, Default)]
pub(crate) struct Claims {
    taken: Arc<Mutex<BTreeMap<Work, Claimed>>>,
}

#[derive(Default)]
struct Claimed {
    in_hand: bool,
    failures: u32,
    not_before: Micros,
}

/// Work in hand; let go of when dropped, however the one who had it ended.
pub(crate) struct Claim {
    claims: Claims,
    work: Work,
}

/// The longest that work which failed rests: a minute.
const REST_MAX: Duration = Duration::from_mins(1);

impl Claims {
    /// Takes the work, unless somebody has it or it rests after a failure.
    pub fn claim(&self, work: Work, now: Micros) -> Option<Claim> {
        let mut taken = self.taken.lock();
        let claimed = taken.entry(work.clone()).or_default();
        if claimed.in_hand || now < claimed.not_before {
            return None;
        }
        claimed.in_hand = true;
        Some(Claim {
            claims: self.clone(),
            work,
        })
    }
}

impl Claims {
    /// Takes the work although it may rest after a failure, unless somebody has it.
    pub fn take(&self, work: Work) -> Option<Claim> {
        self.claim(work, Micros::MAX)
    }
}

impl Claim {
    /// Notes how the work ended: after each failure it rests longer.
    pub fn ended(self, well: bool, now: Micros) {
        let mut taken = self.claims.taken.lock();
        if well {
            taken.remove(&self.work);
        } else if let Some(claimed) = taken.get_mut(&self.work) {
            claimed.failures += 1;
            let rest = Duration::from_secs(1 << claimed.failures.min(6)).min(REST_MAX);
            claimed.not_before = now + i64::try_from(rest.as_micros()).unwrap_or(Micros::MAX / 4);
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(claimed) = self.claims.taken.lock().get_mut(&self.work) {
            claimed.in_hand = false;
        }
    }
}

/// What a worker does with a task.
#[async_trait]
pub(crate) trait Duty: Send + Sync + 'static {
    /// What it is given.
    type Task: Send + Unpin + 'static;

    /// Does it. Reports to an owner or answers through the task; returns nothing.
    async fn run(&self, task: Self::Task);
}

/// One task for a worker.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Do<T: Send + 'static>(pub T);

/// The actor round a duty.
pub(crate) struct Worker<D: Duty> {
    duty: Arc<D>,
    vital: Arc<Vital>,
    runtime: Handle,
    slots: Arc<Semaphore>,
    queue: VecDeque<D::Task>,
    queue_max: usize,
    restarted: bool,
}

impl<D: Duty> Worker<D> {
    pub fn new(
        duty: Arc<D>,
        vital: Arc<Vital>,
        runtime: Handle,
        slots: usize,
        queue_max: usize,
    ) -> Self {
        Self {
            duty,
            vital,
            runtime,
            slots: Arc::new(Semaphore::new(slots)),
            queue: VecDeque::new(),
            queue_max,
            restarted: false,
        }
    }

    /// Starts what there is a slot for.
    fn start_due(&mut self, ctx: &mut Context<Self>) {
        while !self.queue.is_empty() {
            let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
                return;
            };
            let Some(task) = self.queue.pop_front() else {
                return;
            };
            let duty = Arc::clone(&self.duty);
            let running = self.runtime.spawn(async move {
                duty.run(task).await;
                drop(slot);
            });
            ctx.spawn(running.into_actor(self).map(|result, worker, ctx| {
                if let Err(error) = result
                    && error.is_panic()
                {
                    worker.vital.died(panic_text(error.into_panic().as_ref()));
                    actix::ActorContext::stop(ctx);
                    return;
                }
                worker.start_due(ctx);
            }));
        }
    }
}

impl<D: Duty> Actor for Worker<D> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MAX);
        if !self.restarted {
            self.vital.runs();
        }
    }
}

impl<D: Duty> Supervised for Worker<D> {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        self.restarted = true;
        match self.vital.restarts() {
            // What waited is dropped: whoever asked sees its answer gone and asks again.
            Verdict::Quarantine => self.queue.clear(),
            Verdict::Restart(backoff) => {
                let rest = tokio::time::sleep(backoff).into_actor(self);
                ctx.wait(rest.map(|(), worker, ctx| {
                    worker.vital.runs();
                    worker.start_due(ctx);
                }));
            }
        }
    }
}

impl<D: Duty> Handler<Do<D::Task>> for Worker<D> {
    type Result = ();

    fn handle(&mut self, Do(task): Do<D::Task>, ctx: &mut Self::Context) {
        let vital = Arc::clone(&self.vital);
        vital.waiting.fetch_sub(1, Ordering::Relaxed);
        // A task that is not taken is dropped, and its sender sees that at once.
        if vital.has_failed() || self.queue.len() >= self.queue_max {
            return;
        }
        guard(self, ctx, &vital, |worker, ctx| {
            worker.queue.push_back(task);
            worker.start_due(ctx);
        });
    }
}

#[cfg(any(test, feature = "testing"))]
impl<D: Duty> Handler<Crash> for Worker<D> {
    type Result = ();

    fn handle(&mut self, _: Crash, ctx: &mut Self::Context) {
        let vital = Arc::clone(&self.vital);
        guard(self, ctx, &vital, |_, _| panic!("injected"));
    }
}
