//! The scheduler: asks, by cron, for what the daemon does by itself, and notes each time in the
//! journal. Owns the trigger history, and which schedules rest; does no work of its own.

use std::time::Duration;

use lakehouse_journal::{
    model::{
        ModelError,
        catalog::{Dataset, RefreshCause, RefreshPolicy},
        error::near_names,
        scheduler::SchedulerCommand,
    },
    record::Micros,
};

pub use crate::trigger::Trigger;
use crate::{
    error::LakeError,
    housekeeping::Chore,
    lake::Lake,
    owner::{Caller, Committed},
};

/// How often due triggers are looked for.
const TICK: Duration = Duration::from_millis(500);
/// How often archive and snapshot are considered.
const UPKEEP_TICKS: u64 = 10;

/// What a schedule asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScheduledTask {
    /// Remove objects that no event points at, from every bucket.
    SweepOrphans,
    /// Merge a dataset's files.
    Compact {
        /// The dataset.
        dataset: String,
    },
    /// Bring a dataset's embeddings up to date.
    Refresh {
        /// The dataset.
        dataset: String,
    },
}

/// A schedule as it stands.
#[derive(Debug, Clone)]
pub struct ScheduleInfo {
    /// When.
    pub trigger: Trigger,
    /// What.
    pub task: ScheduledTask,
    /// Whether it rests.
    pub paused: bool,
    /// When it was last due.
    pub last_due: Option<Micros>,
    /// When it will be due; nothing while it rests.
    pub next_due: Option<Micros>,
    /// Times up to here are not made up.
    since: Micros,
}

/// Runs until the lake is dropped: fires what is due and keeps pending work going.
pub(crate) async fn run(lake: Lake) {
    let started = lake.now();
    let mut ticks: u64 = 0;
    loop {
        tokio::time::sleep(TICK).await;
        ticks += 1;
        lake.poke_pending();
        lake.poke_rescue();
        // A full worker gets them at the next tick.
        let _ = lake.chore(Chore::ListDeleted);
        let _ = lake.chore(Chore::WriteViews);
        if ticks.is_multiple_of(UPKEEP_TICKS) {
            let _ = lake.chore(Chore::Purge);
            let _ = lake.chore(Chore::Archive);
            let _ = lake.chore(Chore::Snapshot);
        }
        for schedule in lake.schedules() {
            fire_if_due(&lake, &schedule, started).await;
        }
    }
}

/// Asks for what a schedule is for, if it is due: noted in the journal, so that it fires once.
async fn fire_if_due(lake: &Lake, schedule: &ScheduleInfo, started: Micros) {
    if schedule.paused {
        return;
    }
    let from = match schedule.task {
        // A refresh that was missed while nobody was there is made up.
        ScheduledTask::Refresh { .. } => schedule.since,
        ScheduledTask::SweepOrphans | ScheduledTask::Compact { .. } => {
            schedule.last_due.unwrap_or(started)
        }
    };
    let Some(due) = schedule.trigger.due(from, lake.now()) else {
        return;
    };
    let name = &schedule.trigger.name;
    // Asked for first: a crash between the two asks twice, which is once.
    if let Err(error) = lake.carry_out(&schedule.task).await {
        tracing::warn!(trigger = name, %error, "not asked for, it comes again");
        return;
    }
    let note = SchedulerCommand::NoteTrigger {
        trigger: name.clone(),
        due,
    };
    let noted = lake.ask_scheduler(note, Caller::daemon("scheduler")).await;
    if let Err(error) = noted {
        tracing::warn!(trigger = name, %error, "trigger not noted, it comes again");
    }
}

impl Lake {
    /// Every schedule: the daemon's own, and those of datasets.
    pub fn schedules(&self) -> Vec<ScheduleInfo> {
        let own = self.inner.triggers.get().into_iter().flatten();
        let mut schedules: Vec<ScheduleInfo> = own
            .map(|trigger| self.schedule(trigger.clone(), ScheduledTask::SweepOrphans, 0))
            .collect();
        let catalog = self.catalog();
        for dataset in catalog.state.datasets.values() {
            schedules.extend(self.compaction_of(dataset));
            schedules.extend(self.refresh_of(dataset));
        }
        schedules
    }

    /// The schedule by which a dataset is refreshed.
    pub fn refresh_of(&self, dataset: &Dataset) -> Option<ScheduleInfo> {
        let RefreshPolicy::Scheduled(times) = &dataset.embedding_refresh_policy else {
            return None;
        };
        let name = format!("refresh:{}", dataset.id);
        // What is no cron expression was refused when it was set.
        let trigger = Trigger::in_zone(&name, &times.cron, times.time_zone.as_deref()).ok()?;
        let task = ScheduledTask::Refresh {
            dataset: dataset.name.clone(),
        };
        Some(self.schedule(trigger, task, dataset.refresh_policy_at.unwrap_or(0)))
    }

    fn compaction_of(&self, dataset: &Dataset) -> Option<ScheduleInfo> {
        let cron = dataset.compaction.schedule.as_deref()?;
        let trigger = Trigger::new(&format!("compaction:{}", dataset.id), cron).ok()?;
        let task = ScheduledTask::Compact {
            dataset: dataset.name.clone(),
        };
        Some(self.schedule(trigger, task, 0))
    }

    fn schedule(&self, trigger: Trigger, task: ScheduledTask, set_at: Micros) -> ScheduleInfo {
        let state = &self.scheduler().state;
        let last_due = state.fired.get(&trigger.name).copied();
        let paused = state.paused.contains(&trigger.name);
        let next_due = trigger.next(self.now());
        ScheduleInfo {
            since: last_due.unwrap_or(0).max(set_at),
            next_due: next_due.filter(|_| !paused),
            last_due,
            paused,
            task,
            trigger,
        }
    }

    /// The schedule of that name.
    ///
    /// # Errors
    /// `NotFound` with names like it.
    pub fn schedule_named(&self, name: &str) -> Result<ScheduleInfo, LakeError> {
        let schedules = self.schedules();
        let names: Vec<String> = schedules.iter().map(|s| s.trigger.name.clone()).collect();
        let mut found = schedules.into_iter();
        found
            .find(|schedule| schedule.trigger.name == name)
            .ok_or_else(|| {
                ModelError::NotFound {
                    what: "schedule",
                    name: name.to_owned(),
                    near: near_names(name, names.iter()),
                }
                .into()
            })
    }

    /// Lets a schedule rest, or run again; what passed while it rested is not made up.
    ///
    /// # Errors
    /// `NotFound`, and why it could not be noted.
    pub async fn pause_schedule(
        &self,
        name: &str,
        paused: bool,
        caller: Caller,
    ) -> Result<Committed, LakeError> {
        self.schedule_named(name)?;
        let trigger = name.to_owned();
        let command = if paused {
            SchedulerCommand::PauseTrigger { trigger }
        } else {
            SchedulerCommand::ResumeTrigger {
                trigger,
                from: self.now(),
            }
        };
        self.ask_scheduler(command, caller).await
    }

    /// Asks for what a schedule is for.
    ///
    /// # Errors
    /// When it cannot be asked for: a dataset that is gone, a worker that is full.
    pub async fn carry_out(&self, task: &ScheduledTask) -> Result<(), LakeError> {
        match task {
            ScheduledTask::SweepOrphans => {
                for bucket in self.buckets().into_keys() {
                    self.chore(Chore::SweepOrphans { bucket })?;
                }
            }
            ScheduledTask::Compact { dataset } => self.compact_when_free(dataset),
            ScheduledTask::Refresh { dataset } => {
                let caller = Caller::daemon("scheduler");
                self.request_refresh(dataset, RefreshCause::Schedule, caller)
                    .await?;
            }
        }
        Ok(())
    }
}
