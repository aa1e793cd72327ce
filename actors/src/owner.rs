//! Decide, append, apply, publish: written once for every owner.
//!
//! An owner takes what waits, decides one after the other on a working copy, appends all in one
//! go, applies what became durable, publishes the new state and answers each. It is the only
//! writer of its state; a reader takes the published snapshot and never waits for it.

use std::sync::{Arc, atomic::Ordering};

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, Supervised, WrapFuture,
};
use arc_swap::ArcSwap;
use lakehouse_journal::{
    log::LogError,
    model::{Aggregate, Event, Fold, LakeState, Stamp, lake::OwnerId},
    record::{self, Draft, Idempotency, Micros, Record, Seq},
};
use tokio::sync::oneshot;

use crate::{
    background::Background,
    error::LakeError,
    ports::Clock,
    supervision::{Verdict, Vital, guard},
    writer::{Journal, RebuildError},
};

/// Requests decided in one batch at most.
const BATCH_MAX: usize = 512;
/// Where the positions of events begin that are decided but not yet appended.
const PROVISIONAL: Seq = Seq::MAX / 2;
/// Messages that may wait for an owner.
pub(crate) const MAILBOX_MAX: usize = 4096;

/// Who asks for a mutation, and on which request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Who.
    pub actor: record::Actor,
    /// The request.
    pub request_id: String,
    /// `Idempotency-Key` (scoped to the caller) and fingerprint of the request.
    pub idempotency: Option<(String, String)>,
}

impl Caller {
    /// A part of the daemon that acts by itself.
    pub fn daemon(part: &str) -> Self {
        Self {
            actor: record::Actor {
                name: part.to_owned(),
                role: "daemon".to_owned(),
            },
            request_id: format!("{part}-{}", uuid::Uuid::new_v4()),
            idempotency: None,
        }
    }
}

/// A decision that is durable.
#[derive(Debug, Clone)]
pub struct Committed {
    /// Position of its last event, or of the owner's last when there was nothing to do.
    pub seq: Seq,
    /// When it was decided.
    pub at: Micros,
    /// What happened; empty when the command changed nothing.
    pub events: Vec<Event>,
    /// Whether an earlier request with the same key did it.
    pub repeated: bool,
}

/// One command with its caller; answered through `reply` when it is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Ask<A: Aggregate> {
    pub command: A::Command,
    pub caller: Caller,
    pub reply: oneshot::Sender<Result<Committed, LakeError>>,
}

/// Read what became durable without an answer: the log was closed and is open again.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub(crate) struct CatchUp;

/// Panic inside a handler, for tests of supervision.
#[cfg(any(test, feature = "testing"))]
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub struct Crash;

/// An owner's state as everybody may read it.
pub type Published<A> = Arc<ArcSwap<Fold<A>>>;

/// What an owner is made of.
pub(crate) struct OwnerParts<A: Aggregate> {
    pub id: OwnerId,
    pub journal: Journal,
    pub clock: Arc<dyn Clock>,
    pub vital: Arc<Vital>,
    pub published: Published<A>,
    /// Takes the owner's part out of a replayed lake.
    pub part: fn(&LakeState, &OwnerId) -> Fold<A>,
    /// Called after every publication and every replay.
    pub effects: Box<dyn Fn(&A) + Send>,
    /// What it does by itself from time to time, beside its messages.
    pub background: Option<Background>,
}

/// The actor that owns one aggregate.
pub(crate) struct Owner<A: Aggregate> {
    parts: OwnerParts<A>,
    waiting: Vec<Ask<A>>,
    /// The batch that is on its way to the log.
    in_flight: Vec<Pending<A>>,
    busy: bool,
    /// The log may hold events of ours that we have not seen.
    behind: bool,
}

struct Pending<A: Aggregate> {
    reply: oneshot::Sender<Result<Committed, LakeError>>,
    answer: Answer<A>,
}

enum Answer<A: Aggregate> {
    /// Known already; given when the batch is durable, as it was decided on top of it.
    Ready(Result<Committed, LakeError>),
    /// The next events of the batch.
    Events { events: Vec<A::Event>, at: Micros },
    /// What an earlier request did.
    Repeated { seq: Seq, records: u32 },
}

impl<A: Aggregate> Owner<A> {
    pub fn new(parts: OwnerParts<A>) -> Self {
        Self {
            parts,
            waiting: Vec::new(),
            in_flight: Vec::new(),
            busy: false,
            behind: false,
        }
    }

    fn accept(&mut self, ask: Ask<A>, ctx: &mut Context<Self>) {
        self.waiting.push(ask);
        if !self.busy {
            self.busy = true;
            // After the messages that are here already: they make one batch.
            ctx.spawn(
                async {}
                    .into_actor(self)
                    .map(|(), owner, ctx| owner.turn(ctx)),
            );
        }
    }

    /// One turn of decide, append, apply, publish.
    fn turn(&mut self, ctx: &mut Context<Self>) {
        let vital = Arc::clone(&self.parts.vital);
        guard(self, ctx, &vital, Self::start_batch);
    }

    fn start_batch(&mut self, ctx: &mut Context<Self>) {
        if self.behind && !self.catch_up() {
            self.refuse_waiting(&LakeError::JournalUnavailable);
        }
        let take = self.waiting.len().min(BATCH_MAX);
        let batch: Vec<Ask<A>> = self.waiting.drain(..take).collect();
        if batch.is_empty() {
            self.busy = false;
            return;
        }
        let drafts = self.decide(batch);
        if drafts.is_empty() {
            self.finish(Ok(Vec::new()), ctx);
            return;
        }
        let durable = self.parts.journal.submit(drafts);
        ctx.spawn(durable.into_actor(self).map(|result, owner, ctx| {
            let vital = Arc::clone(&owner.parts.vital);
            // A dropped answer means that the queue refused: nothing was written.
            let result = result.unwrap_or(Err(LogError::Closed));
            guard(owner, ctx, &vital, |owner, ctx| owner.finish(result, ctx));
        }));
    }

    fn decide(&mut self, batch: Vec<Ask<A>>) -> Vec<Draft> {
        let mut working = Fold::clone(&self.parts.published.load());
        let mut drafts = Vec::new();
        for ask in batch {
            let answer = match known_answer(&working, &ask.caller) {
                Known::No => self.decide_one(&mut working, &ask, &mut drafts),
                Known::Yes(answer) => answer,
                Known::InThisBatch => {
                    self.waiting.push(ask);
                    continue;
                }
            };
            self.in_flight.push(Pending {
                reply: ask.reply,
                answer,
            });
        }
        drafts
    }

    fn decide_one(
        &self,
        working: &mut Fold<A>,
        ask: &Ask<A>,
        drafts: &mut Vec<Draft>,
    ) -> Answer<A> {
        let at = self.parts.clock.now();
        let id = uuid::Uuid::new_v4().to_string();
        let stamp = Stamp {
            at,
            id,
            actor: ask.caller.actor.clone(),
        };
        let events = match working.state.decide(&ask.command, &stamp) {
            Err(error) => return Answer::Ready(Err(error.into())),
            Ok(events) => events,
        };
        if events.is_empty() {
            let seq = self.parts.published.load().seq;
            return Answer::Ready(Ok(Committed {
                seq,
                at,
                events: vec![],
                repeated: false,
            }));
        }
        let own = draft_all(&events, &ask.caller, at);
        for (position, (draft, event)) in own.iter().zip(&events).enumerate() {
            // Positions are not known before the append; these are later than any that is.
            let provisional = PROVISIONAL + (drafts.len() + position) as Seq;
            working.apply(provisional, draft, event);
        }
        drafts.extend(own);
        Answer::Events { events, at }
    }

    fn finish(&mut self, result: Result<Vec<Record>, LogError>, ctx: &mut Context<Self>) {
        match result {
            Ok(records) => self.committed(&records),
            Err(error) => {
                tracing::error!(owner = %self.parts.id, %error, "append failed");
                self.behind = true;
                let error = LakeError::of_log(&error);
                for pending in self.in_flight.drain(..) {
                    let _ = pending.reply.send(Err(error.clone()));
                }
            }
        }
        if self.waiting.is_empty() {
            self.busy = false;
        } else {
            ctx.spawn(
                async {}
                    .into_actor(self)
                    .map(|(), owner, ctx| owner.turn(ctx)),
            );
        }
    }

    fn committed(&mut self, records: &[Record]) {
        let mut fold = Fold::clone(&self.parts.published.load());
        let mut next = records.iter();
        let mut answers = Vec::with_capacity(self.in_flight.len());
        for Pending { reply, answer } in std::mem::take(&mut self.in_flight) {
            let answer = match answer {
                Answer::Events { events, at } => {
                    for (event, record) in events.iter().zip(next.by_ref()) {
                        fold.apply(record.seq, &record.draft, event);
                    }
                    let events = events.into_iter().map(Into::into).collect();
                    Answer::Ready(Ok(Committed {
                        seq: fold.seq,
                        at,
                        events,
                        repeated: false,
                    }))
                }
                other => other,
            };
            answers.push((reply, answer));
        }
        if !records.is_empty() {
            self.publish(fold);
        }
        for (reply, answer) in answers {
            self.answer(reply, answer);
        }
    }

    fn publish(&self, fold: Fold<A>) {
        let fold = Arc::new(fold);
        self.parts.published.store(Arc::clone(&fold));
        (self.parts.effects)(&fold.state);
    }

    fn answer(&self, reply: oneshot::Sender<Result<Committed, LakeError>>, answer: Answer<A>) {
        match answer {
            Answer::Ready(result) => {
                let _ = reply.send(result);
            }
            Answer::Events { .. } => {
                let _ = reply.send(Err(LakeError::Unknown));
            }
            Answer::Repeated { seq, records } => {
                let journal = self.parts.journal.clone();
                // The only blocking read an answer needs; off the actor's thread.
                std::thread::spawn(move || {
                    let _ = reply.send(read_again(&journal, seq, records));
                });
            }
        }
    }

    fn refuse_waiting(&mut self, error: &LakeError) {
        for ask in self.waiting.drain(..) {
            let _ = ask.reply.send(Err(error.clone()));
        }
    }

    /// Applies what the log holds and the state does not; says whether that worked.
    fn catch_up(&mut self) -> bool {
        match self.replayed() {
            Ok(fold) => {
                self.publish(fold);
                self.behind = false;
                true
            }
            Err(error) => {
                tracing::error!(owner = %self.parts.id, %error, "replay failed");
                false
            }
        }
    }

    /// The state out of the journal, after everything that is on its way there is decided.
    fn replayed(&self) -> Result<Fold<A>, RebuildError> {
        self.parts.journal.barrier();
        let replayed = self.parts.journal.replay()?;
        Ok((self.parts.part)(&replayed.lake, &self.parts.id))
    }
}

/// Whether a request was carried out before.
enum Known<A: Aggregate> {
    No,
    Yes(Answer<A>),
    /// It is on its way: ask again when that is decided.
    InThisBatch,
}

fn known_answer<A: Aggregate>(working: &Fold<A>, caller: &Caller) -> Known<A> {
    let Some((key, fingerprint)) = caller.idempotency.as_ref() else {
        return Known::No;
    };
    let Some(remembered) = working.remembered(key) else {
        return Known::No;
    };
    if remembered.fingerprint != *fingerprint {
        let key = key.rsplit('/').next().unwrap_or_default().to_owned();
        return Known::Yes(Answer::Ready(Err(LakeError::KeyReused { key })));
    }
    if remembered.seq >= PROVISIONAL {
        return Known::InThisBatch;
    }
    Known::Yes(Answer::Repeated {
        seq: remembered.seq,
        records: remembered.records,
    })
}

fn draft_all<E: Clone + Into<Event>>(events: &[E], caller: &Caller, at: Micros) -> Vec<Draft> {
    let records = u32::try_from(events.len()).expect("a decision has few events");
    events
        .iter()
        .enumerate()
        .map(|(position, event)| {
            let event: Event = event.clone().into();
            let idempotency = caller.idempotency.as_ref().filter(|_| position == 0);
            Draft {
                at,
                request_id: caller.request_id.clone(),
                actor: caller.actor.clone(),
                idempotency: idempotency.map(|(key, fingerprint)| Idempotency {
                    key: key.clone(),
                    fingerprint: fingerprint.clone(),
                    records,
                }),
                subjects: event.subjects(),
                kind: event.kind().to_owned(),
                schema: event.schema(),
                data: event.encode(),
            }
        })
        .collect()
}

fn read_again(journal: &Journal, seq: Seq, records: u32) -> Result<Committed, LakeError> {
    let found = journal
        .decision(seq, records)
        .map_err(|error| LakeError::of_log(&error))?;
    let at = found.first().map_or(0, |record| record.draft.at);
    let seq = found.last().map_or(seq, |record| record.seq);
    let events = found
        .iter()
        .map(|record| {
            let draft = &record.draft;
            Event::decode(&draft.kind, draft.schema, &draft.data)
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_| LakeError::JournalUnavailable)?;
    Ok(Committed {
        seq,
        at,
        events,
        repeated: true,
    })
}

impl<A: Aggregate> Actor for Owner<A> {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(MAILBOX_MAX);
        // A restart comes through here as well, with the intervals of the time before gone.
        if let Some(background) = &self.parts.background {
            background.run(ctx);
        }
        if self.behind {
            // A restart: `restarting` has put the replay in front of every message.
            return;
        }
        let vital = Arc::clone(&self.parts.vital);
        guard(self, ctx, &vital, |owner, _| {
            (owner.parts.effects)(&owner.parts.published.load().state);
        });
        vital.runs();
    }
}

impl<A: Aggregate> Supervised for Owner<A> {
    fn restarting(&mut self, ctx: &mut Context<Self>) {
        // Whoever waits for the batch in flight learns that its outcome is open.
        self.in_flight.clear();
        self.busy = false;
        match self.parts.vital.restarts() {
            Verdict::Quarantine => {
                let actor = self.parts.id.to_string();
                self.refuse_waiting(&LakeError::Unavailable { actor });
            }
            Verdict::Restart(backoff) => {
                self.behind = true;
                let rest = tokio::time::sleep(backoff).into_actor(self);
                ctx.wait(rest.map(|(), owner, ctx| {
                    let vital = Arc::clone(&owner.parts.vital);
                    guard(owner, ctx, &vital, |owner, ctx| {
                        if owner.catch_up() {
                            owner.parts.vital.runs();
                        }
                        owner.busy = true;
                        owner.start_batch(ctx);
                    });
                }));
            }
        }
    }
}

impl<A: Aggregate> Handler<Ask<A>> for Owner<A> {
    type Result = ();

    fn handle(&mut self, ask: Ask<A>, ctx: &mut Self::Context) {
        let vital = Arc::clone(&self.parts.vital);
        vital.waiting.fetch_sub(1, Ordering::Relaxed);
        if vital.has_failed() {
            let actor = self.parts.id.to_string();
            let _ = ask.reply.send(Err(LakeError::Unavailable { actor }));
            return;
        }
        guard(self, ctx, &vital, |owner, ctx| owner.accept(ask, ctx));
    }
}

impl<A: Aggregate> Handler<CatchUp> for Owner<A> {
    type Result = ();

    fn handle(&mut self, _: CatchUp, ctx: &mut Self::Context) {
        let vital = Arc::clone(&self.parts.vital);
        guard(self, ctx, &vital, |owner, _| {
            // A batch in flight catches up when its answer is there.
            owner.behind = true;
            if !owner.busy {
                owner.catch_up();
            }
        });
    }
}

#[cfg(any(test, feature = "testing"))]
impl<A: Aggregate> Handler<Crash> for Owner<A> {
    type Result = ();

    fn handle(&mut self, _: Crash, ctx: &mut Self::Context) {
        let vital = Arc::clone(&self.parts.vital);
        guard(self, ctx, &vital, |_, _| panic!("injected"));
    }
}
