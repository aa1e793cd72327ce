//! The scheduler: asks, by cron, for what the daemon does by itself, and notes each time in the
//! journal. Owns the trigger history; does no work of its own.

use std::{str::FromStr, sync::Arc, time::Duration};

use chrono::{DateTime, TimeZone, Utc};
use cron::Schedule;
use lakehouse_journal::{model::scheduler::SchedulerCommand, record::Micros};

use crate::{housekeeping::Chore, lake::Lake, owner::Caller};

/// How often due triggers are looked for.
const TICK: Duration = Duration::from_millis(500);
/// How often archive and snapshot are considered.
const UPKEEP_TICKS: u64 = 10;

/// A schedule of the daemon's own.
pub struct Trigger {
    /// Its name, as in `TriggerFired`.
    pub name: String,
    schedule: Schedule,
}

impl Trigger {
    /// A trigger by a cron expression: second minute hour day month weekday \[year\], UTC; with
    /// five fields the second is 0.
    ///
    /// # Errors
    /// The expression, and what is wrong with it.
    pub fn new(name: &str, expression: &str) -> Result<Self, String> {
        let fields = expression.split_whitespace().count();
        let full = if fields == 5 {
            format!("0 {expression}")
        } else {
            expression.to_owned()
        };
        let schedule = Schedule::from_str(&full)
            .map_err(|error| format!("`{expression}` is no cron expression: {error}"))?;
        Ok(Self {
            name: name.to_owned(),
            schedule,
        })
    }

    /// The last time it was due in `(after, now]`: several missed times are made up once.
    pub fn due(&self, after: Micros, now: Micros) -> Option<Micros> {
        let (after, now) = (time(after)?, time(now)?);
        let mut last = None;
        for at in self
            .schedule
            .after(&after)
            .take_while(|at| *at <= now)
            .take(100_000)
        {
            last = Some(at);
        }
        last.map(|at: DateTime<Utc>| at.timestamp_micros())
    }
}

fn time(at: Micros) -> Option<DateTime<Utc>> {
    Utc.timestamp_micros(at).single()
}

/// Runs until the lake is dropped: fires what is due and keeps pending work going.
pub(crate) async fn run(lake: Lake, triggers: Vec<Trigger>) {
    let triggers = Arc::new(triggers);
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
        for trigger in triggers.iter() {
            if note_if_due(&lake, trigger, started).await {
                for bucket in lake.buckets().into_keys() {
                    let _ = lake.chore(Chore::SweepOrphans { bucket });
                }
            }
        }
        for (dataset, trigger) in compactions(&lake) {
            if note_if_due(&lake, &trigger, started).await {
                lake.compact_when_free(&dataset);
            }
        }
    }
}

/// The schedules of datasets that are merged by one.
fn compactions(lake: &Lake) -> Vec<(String, Trigger)> {
    let catalog = lake.catalog();
    let scheduled = catalog.state.datasets.values().filter_map(|dataset| {
        let cron = dataset.compaction.schedule.as_deref()?;
        // What is no cron expression was refused when it was set.
        let trigger = Trigger::new(&format!("compaction:{}", dataset.id), cron).ok()?;
        Some((dataset.name.clone(), trigger))
    });
    scheduled.collect()
}

/// Whether the trigger is due and noted in the journal, so that it fires once.
async fn note_if_due(lake: &Lake, trigger: &Trigger, started: Micros) -> bool {
    let fired = lake.scheduler().state.fired.get(&trigger.name).copied();
    let Some(due) = trigger.due(fired.unwrap_or(started), lake.now()) else {
        return false;
    };
    let note = SchedulerCommand::NoteTrigger {
        trigger: trigger.name.clone(),
        due,
    };
    let noted = lake.ask_scheduler(note, Caller::daemon("scheduler")).await;
    noted
        .inspect_err(|error| {
            tracing::warn!(trigger = trigger.name, %error, "trigger not noted, it comes again");
        })
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        DateTime::parse_from_rfc3339(text)
            .expect("a time")
            .timestamp_micros()
    }

    #[test]
    fn five_fields_mean_second_zero() {
        let trigger = Trigger::new("hourly", "0 * * * *").expect("valid");
        let due = trigger.due(at("2026-01-01T00:00:01Z"), at("2026-01-01T01:30:00Z"));
        assert_eq!(due, Some(at("2026-01-01T01:00:00Z")));
    }

    #[test]
    fn missed_times_are_made_up_once() {
        let trigger = Trigger::new("hourly", "0 0 * * * *").expect("valid");
        let due = trigger.due(at("2026-01-01T00:00:00Z"), at("2026-01-03T00:30:00Z"));
        assert_eq!(due, Some(at("2026-01-03T00:00:00Z")));
        assert_eq!(
            trigger.due(at("2026-01-03T00:00:00Z"), at("2026-01-03T00:30:00Z")),
            None
        );
    }

    #[test]
    fn a_bad_expression_names_itself() {
        let error = Trigger::new("x", "every hour").err().expect("refused");
        assert!(error.contains("every hour"), "{error}");
    }
}
