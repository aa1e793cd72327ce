//! Times by a cron line, in a time zone: when a schedule is due, and when it will be.
//! Pure. A line that names its hours means times of day: each comes once a day whatever the clocks
//! do, one that is skipped in spring when the clocks have been set forward, one that comes twice in
//! autumn at the first of them. A line for every hour follows the time that passes.

use std::str::FromStr;

use chrono::{DateTime, Duration, LocalResult, NaiveDateTime, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use cron::Schedule;
use lakehouse_journal::record::Micros;

/// The longest that clocks have ever been set forward at once, a day.
const GAP_MAX_MINUTES: i64 = 26 * 60;
/// Around the moment when clocks are set, times are looked at one by one.
const CHANGE_HOURS: i64 = 3;
/// How far back missed times are looked for first; then as often again, until one is found.
const LOOK_BACK: [i64; 4] = [3_600, 86_400, 40 * 86_400, 3_000 * 86_400];

/// A schedule of the daemon's own.
#[derive(Debug, Clone)]
pub struct Trigger {
    /// Its name, as in `TriggerFired`.
    pub name: String,
    /// The line that it was made of.
    pub cron: String,
    /// The zone that it is read in.
    pub zone: Tz,
    schedule: Schedule,
    /// Whether it means times of day.
    of_day: bool,
}

impl Trigger {
    /// A trigger by a cron expression: second minute hour day month weekday \[year\], UTC; with
    /// five fields the second is 0.
    ///
    /// # Errors
    /// The expression, and what is wrong with it.
    pub fn new(name: &str, expression: &str) -> Result<Self, String> {
        Self::in_zone(name, expression, None)
    }

    /// A trigger by a cron expression that is read in a zone by its IANA name.
    ///
    /// # Errors
    /// The expression or the zone, and what is wrong with it.
    pub fn in_zone(name: &str, expression: &str, zone: Option<&str>) -> Result<Self, String> {
        let fields = expression.split_whitespace().count();
        let full = if fields == 5 {
            format!("0 {expression}")
        } else {
            expression.to_owned()
        };
        let schedule = Schedule::from_str(&full)
            .map_err(|error| format!("`{expression}` is no cron expression: {error}"))?;
        let zone = match zone {
            None => Tz::UTC,
            Some(zone) => {
                Tz::from_str(zone).map_err(|_| format!("`{zone}` is no IANA time zone"))?
            }
        };
        let hours = full.split_whitespace().nth(2).unwrap_or("*");
        Ok(Self {
            name: name.to_owned(),
            cron: expression.to_owned(),
            zone,
            schedule,
            of_day: !hours.starts_with('*'),
        })
    }

    /// The last time it was due in `(after, now]`: several missed times are made up once.
    pub fn due(&self, after: Micros, now: Micros) -> Option<Micros> {
        for seconds in LOOK_BACK {
            let from = now
                .saturating_sub(seconds.saturating_mul(1_000_000))
                .max(after);
            let mut last = None;
            let mut at = from;
            while let Some(next) = self.next(at).filter(|next| *next <= now) {
                last = Some(next);
                at = next;
            }
            if last.is_some() || from == after {
                return last;
            }
        }
        None
    }

    /// The first time it is due after a time; nothing when it never is again.
    pub fn next(&self, after: Micros) -> Option<Micros> {
        let after = Utc.timestamp_micros(after).single()?;
        let local = after.with_timezone(&self.zone);
        let found = if self.of_day {
            self.next_of_day(&local)?
        } else {
            self.next_as_time_passes(&local)?
        };
        Some(found.timestamp_micros())
    }

    /// Goes through the times of day as the clock on the wall shows them.
    fn next_of_day(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        // A time that was skipped comes later than it says: begin before the longest gap.
        let wall = after.naive_local() - Duration::minutes(GAP_MAX_MINUTES);
        let times = self.schedule.after_owned(wall.and_utc());
        times
            .filter_map(|wall| self.on_the_clock(wall.naive_utc()))
            .find(|at| at > after)
    }

    /// Goes through the times as they pass. Where clocks are set, an hour is shown twice or not at all.
    fn next_as_time_passes(&self, after: &DateTime<Tz>) -> Option<DateTime<Tz>> {
        let around = Duration::hours(CHANGE_HOURS);
        let offset = |at: DateTime<Tz>| at.offset().fix();
        if offset(*after - around) != offset(*after + around) {
            let wall = after.naive_local();
            let shown = self.schedule.after_owned((wall - around).and_utc());
            let near = shown
                .map(|shown| shown.naive_utc())
                .take_while(|shown| *shown <= wall + around)
                .flat_map(|shown| match self.zone.from_local_datetime(&shown) {
                    LocalResult::Single(at) => [Some(at), None],
                    LocalResult::Ambiguous(first, second) => [Some(first), Some(second)],
                    LocalResult::None => [None, None],
                })
                .flatten()
                .filter(|at| at > after)
                .min();
            if near.is_some() {
                return near;
            }
        }
        self.schedule.after(after).next()
    }

    /// The moment when the clock on the wall shows a time for the first time, or has passed it.
    fn on_the_clock(&self, wall: NaiveDateTime) -> Option<DateTime<Tz>> {
        (0..=GAP_MAX_MINUTES).find_map(|minutes| {
            let shown = wall + Duration::minutes(minutes);
            match self.zone.from_local_datetime(&shown) {
                LocalResult::Single(at) | LocalResult::Ambiguous(at, _) => Some(at),
                LocalResult::None => None,
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        DateTime::parse_from_rfc3339(text)
            .expect("a time")
            .timestamp_micros()
    }

    fn text(at: Micros) -> String {
        let at = Utc.timestamp_micros(at).single().expect("a time");
        at.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    /// Every time that a trigger is due in a year, by a clock that is looked at every ten minutes.
    fn year(trigger: &Trigger, from: &str, to: &str) -> Vec<String> {
        let (mut fired, to) = (at(from), at(to));
        let mut now = fired;
        let mut times = Vec::new();
        while now < to {
            now += 600 * 1_000_000;
            if let Some(due) = trigger.due(fired, now) {
                assert!(due > fired, "each time once");
                fired = due;
                times.push(text(due));
            }
        }
        times
    }

    fn berlin(cron: &str) -> Trigger {
        Trigger::in_zone("x", cron, Some("Europe/Berlin")).expect("valid")
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
        let none = trigger.due(at("2026-01-03T00:00:00Z"), at("2026-01-03T00:30:00Z"));
        assert_eq!(none, None);
    }

    #[test]
    fn years_of_missed_seconds_are_made_up_once_and_at_once() {
        let trigger = Trigger::new("always", "* * * * * *").expect("valid");
        let due = trigger.due(at("2016-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
        assert_eq!(due, Some(at("2026-01-01T00:00:00Z")));
        let yearly = Trigger::new("yearly", "0 0 0 1 1 *").expect("valid");
        let due = yearly.due(at("2020-06-01T00:00:00Z"), at("2026-06-01T00:00:00Z"));
        assert_eq!(due, Some(at("2026-01-01T00:00:00Z")));
    }

    #[test]
    fn a_bad_expression_names_itself() {
        let error = Trigger::new("x", "every hour").expect_err("refused");
        assert!(error.contains("every hour"), "{error}");
        let error = Trigger::in_zone("x", "0 0 2 * * *", Some("Mars/Base")).expect_err("refused");
        assert!(error.contains("Mars/Base"), "{error}");
    }

    #[test]
    fn a_year_of_nights_has_one_run_each_summer_time_or_not() {
        let trigger = berlin("0 30 2 * * *");
        let times = year(&trigger, "2026-01-01T00:00:00Z", "2026-12-31T23:59:00Z");
        assert_eq!(times.len(), 365);
        assert!(times.contains(&"2026-01-15T01:30:00Z".to_owned()), "winter");
        assert!(times.contains(&"2026-07-15T00:30:00Z".to_owned()), "summer");
        // The night of 29 March has no half past two: it runs when the clocks show three.
        assert!(times.contains(&"2026-03-29T01:00:00Z".to_owned()));
        // The night of 25 October has two: it runs at the first.
        assert!(times.contains(&"2026-10-25T00:30:00Z".to_owned()));
        assert!(!times.contains(&"2026-10-25T01:30:00Z".to_owned()));
    }

    #[test]
    fn a_year_of_half_hours_follows_the_time_that_passes() {
        let trigger = berlin("0 */30 * * * *");
        let times = year(&trigger, "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z");
        assert_eq!(times.len(), 365 * 48);
    }

    #[test]
    fn a_line_in_utc_knows_no_summer_time() {
        let trigger = Trigger::new("x", "0 30 2 * * *").expect("valid");
        let times = year(&trigger, "2026-01-01T00:00:00Z", "2026-12-31T23:59:00Z");
        assert_eq!(times.len(), 365);
        assert!(times.iter().all(|time| time.ends_with("T02:30:00Z")));
    }

    #[test]
    fn the_next_time_is_told() {
        let trigger = berlin("0 0 2 * * Mon");
        let next = trigger.next(at("2026-11-28T13:00:00Z")).map(text);
        assert_eq!(next.as_deref(), Some("2026-11-30T01:00:00Z"));
        let never = Trigger::new("x", "0 0 0 1 1 * 2020").expect("valid");
        assert_eq!(never.next(at("2026-01-01T00:00:00Z")), None);
    }
}
