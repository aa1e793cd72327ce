//! What an owner does by itself beside its messages: a bucket's owner looks after its bucket. Runs on
//! the async runtime, never in the owner's mailbox, and touches no state.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use actix::{AsyncContext, Context};
use futures::future::BoxFuture;
use lakehouse_journal::model::Aggregate;
use tokio::runtime::Handle;

use crate::owner::Owner;

/// Work that an owner starts again and again; the next begins only when the last has ended.
pub(crate) struct Background {
    pub every: Duration,
    pub runtime: Handle,
    pub work: Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>,
}

/// Lets the next round begin, however this one ended.
struct Round(Arc<AtomicBool>);

impl Drop for Round {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Background {
    /// Goes on until the context ends; a restarted owner begins anew.
    pub fn run<A: Aggregate>(&self, ctx: &mut Context<Owner<A>>) {
        let busy = Arc::new(AtomicBool::new(false));
        let (runtime, work) = (self.runtime.clone(), Arc::clone(&self.work));
        ctx.run_interval(self.every, move |_, _| {
            if busy.swap(true, Ordering::AcqRel) {
                return;
            }
            let (round, work) = (Round(Arc::clone(&busy)), work());
            runtime.spawn(async move {
                work.await;
                drop(round);
            });
        });
    }
}
