//! The loop that all crash tests share: load a daemon, kill it, start it again, hold it against ledger and model.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::audit::{self, Seen};
use super::ledger::{Entry, Outcome};
use super::model::{Model, SHARED};
use super::writer;
use crate::support::api::Api;
use crate::support::daemon::{Daemon, Site};
use crate::support::number_from_env;

const WRITERS: usize = 4;
/// A long run says how far it is after this many checks.
const CHECKS_A_LINE: usize = 50;

/// The state of one crash test.
pub struct Harness {
    /// Decides everything that is left to chance.
    pub rng: StdRng,
    models: Vec<Model>,
    entries: Vec<Entry>,
    seen: Seen,
    cycle: usize,
    begun: Instant,
    tally: Tally,
}

#[derive(Debug, Default)]
struct Tally {
    acknowledged: usize,
    refused: usize,
    unknown_and_there: usize,
    unknown_and_not: usize,
    ready: Vec<Duration>,
}

impl Harness {
    /// A daemon with the shared dataset, and a harness that knows of it. Prints the seed.
    pub async fn start(test: &str) -> (Self, Daemon) {
        Self::start_at(test, Site::new(&[])).await
    }

    /// The same in this directory.
    pub async fn start_at(test: &str, site: Site) -> (Self, Daemon) {
        let chance = number_from_env("LAKEHOUSE_CRASH_SEED", rand::random::<u32>().into());
        println!("{test}: LAKEHOUSE_CRASH_SEED={chance}");
        let daemon = Daemon::start_at(site);
        let api = daemon.admin();
        api.create(SHARED, "id,v\n0,nobody\n").await;
        let mut seen = Seen::default();
        seen.read_on(&api).await;
        let models = (0..WRITERS).map(Model::new).collect();
        let rng = StdRng::seed_from_u64(chance);
        (
            Self {
                rng,
                models,
                entries: Vec::new(),
                seen,
                cycle: 0,
                begun: Instant::now(),
                tally: Tally::default(),
            },
            daemon,
        )
    }

    /// Lets the writers work for a random while and kills the daemon under them.
    pub async fn load_and_kill(&mut self, daemon: Daemon) -> Site {
        let alive = Duration::from_millis(self.rng.random_range(5..=1500));
        self.load_and_kill_after(daemon, alive).await
    }

    /// Lets the writers work for that long and kills the daemon under them.
    pub async fn load_and_kill_after(&mut self, daemon: Daemon, alive: Duration) -> Site {
        self.load_and_end(daemon, alive, Daemon::kill9).await
    }

    /// Lets the writers work for that long and ends the daemon under them.
    pub async fn load_and_end(
        &mut self,
        daemon: Daemon,
        alive: Duration,
        end: impl FnOnce(Daemon) -> Site,
    ) -> Site {
        self.cycle += 1;
        let mut writers = Vec::new();
        for model in self.models.drain(..) {
            let prefix = format!("cycle-{}", self.cycle);
            let work = writer::write(daemon.admin(), model, prefix, self.rng.random());
            writers.push(tokio::spawn(work));
        }
        tokio::time::sleep(alive).await;
        let site = end(daemon);
        self.entries.clear();
        for writer in writers {
            let (model, ledger) = writer.await.expect("a writer's own assertions hold");
            self.models.push(model);
            self.entries.extend(ledger.entries);
        }
        site
    }

    /// Holds a restarted daemon against everything that is known, and settles what was left open.
    pub async fn check(&mut self, daemon: &Daemon) {
        let api = daemon.admin();
        self.tally.ready.push(daemon.ready_after);
        let events = self.seen.read_on(&api).await;
        let groups = audit::by_request(&events);
        audit::ledger_matches(&self.entries, &groups);
        for entry in std::mem::take(&mut self.entries) {
            match entry.outcome {
                Outcome::Ok { .. } => self.tally.acknowledged += 1,
                Outcome::Refused { .. } => self.tally.refused += 1,
                Outcome::Unknown => {
                    let there = groups.contains_key(&entry.id);
                    self.settle(&api, &entry, there).await;
                }
            }
        }
        audit::rows_match(&api, &self.models).await;
        audit::tokens_match(&api, |token| daemon.client(Some(token)), &self.models).await;
        audit::verifies(&api).await;
        self.say_how_far();
    }

    fn say_how_far(&self) {
        let Tally {
            acknowledged,
            ready,
            ..
        } = &self.tally;
        if ready.len().is_multiple_of(CHECKS_A_LINE) {
            println!(
                "{} restarts, {acknowledged} acknowledged, {} s, {} events",
                ready.len(),
                self.begun.elapsed().as_secs(),
                self.seen.count()
            );
        }
    }

    /// Sends a request whose outcome was unknown again, under its key: it must succeed, and take effect once in all.
    async fn settle(&mut self, api: &Api, entry: &Entry, there: bool) {
        if there {
            self.tally.unknown_and_there += 1;
        } else {
            self.tally.unknown_and_not += 1;
        }
        let model = &mut self.models[entry.writer];
        let again = format!("{}-again", entry.id);
        let answer = writer::send(api, model, &entry.op, &entry.id, &again).await;
        let answer = answer.unwrap_or_else(|| panic!("no answer to {entry:?}"));
        assert!(
            answer.is_ok(),
            "sent again, {entry:?} answers {}: {}",
            answer.status,
            answer.text()
        );
        model.apply(&entry.op);
        writer::learn(model, &entry.op, &answer.ok());
        if let super::model::Op::Issue { name } = &entry.op {
            let id = writer::find_token(api, name).await;
            model.tokens.get_mut(name).expect("it was applied").id = id;
        }
        let groups = audit::by_request(&self.seen.read_on(api).await);
        let events = groups.get(&again).map_or(0, Vec::len);
        if there {
            assert_eq!(
                events, 0,
                "TWICE: it was there, and took effect again: {entry:?}"
            );
        } else {
            assert!(
                entry.op.events().contains(&events),
                "{events} events of {entry:?}"
            );
        }
        assert!(
            groups.keys().all(|request| *request == again),
            "PHANTOM: {groups:?}"
        );
    }

    /// Says what was done.
    pub fn report(&mut self, test: &str) {
        let tally = &mut self.tally;
        tally.ready.sort();
        let ready = |share: usize| tally.ready[(tally.ready.len() - 1) * share / 100];
        println!(
            "{test}: {} restarts, {} acknowledged, 0 lost, 0 phantoms; {} refused, {} unknown ({} were there); \
             ready p50 {:?}, p95 {:?}, max {:?}",
            tally.ready.len(),
            tally.acknowledged,
            tally.refused,
            tally.unknown_and_there + tally.unknown_and_not,
            tally.unknown_and_there,
            ready(50),
            ready(95),
            ready(100),
        );
        assert!(
            tally.acknowledged > 0,
            "nothing was acknowledged: the test tested nothing"
        );
    }
}
