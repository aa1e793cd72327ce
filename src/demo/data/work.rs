//! Who works where, and for how many hours: placements and their weekly timesheets.
//! `World::push_row` calls it. A placement has exactly one timesheet for each of its weeks, and an
//! ended one ends with the last of them.

use super::csv::Record;
use super::random::{RowRng, Stream};
use super::world::{CurrentPlacement, FIRST_MONDAY, WEEKS, World};

/// Quarter hours of a full week.
const FULL_WEEK: u64 = 160;

impl World {
    pub(super) fn push_placement(&self, row: u64, out: &mut Vec<u8>) {
        let facts = self.placement(row);
        let weeks = facts.weeks.max(1);
        let first = FIRST_MONDAY + facts.start_week * 7;
        let running = facts.start_week + weeks >= WEEKS;
        let broken_off = RowRng::new(self.seed, Stream::PlacementWeeks, u64::MAX - row).chance(6);
        let mut record = Record::new(out);
        record
            .int(row + 1)
            .int(facts.candidate + 1)
            .int(facts.job + 1)
            .date(first);
        if running {
            record.null();
        } else {
            record.date(first + weeks * 7 - 3);
        }
        record
            .hundredths(facts.pay_rate)
            .hundredths(facts.bill_rate);
        record.plain(match (running, broken_off) {
            (true, _) => "active",
            (false, true) => "terminated",
            (false, false) => "completed",
        });
        record.end();
    }

    pub(super) fn push_timesheet(&mut self, row: u64, out: &mut Vec<u8>) {
        self.advance_to(row);
        let current = self
            .current
            .as_ref()
            .expect("advance_to leaves a placement behind");
        let week = current.facts.start_week + (row - current.sheets.start);
        let mut rng = self.rng(Stream::Timesheets, row);
        let (hours, overtime) = quarters(&mut rng);
        let monday = FIRST_MONDAY + week * 7;
        let mut record = Record::new(out);
        record.int(row + 1).int(current.row + 1).date(monday);
        record.hundredths(hours * 25).hundredths(overtime * 25);
        record.hundredths(amount(current.facts.bill_rate, hours, overtime));
        if week + 2 >= WEEKS {
            record.plain("pending").null();
        } else if rng.below(200) == 0 {
            record.plain("disputed").null();
        } else {
            record
                .plain("approved")
                .time(monday + 7 + rng.below(3), rng.between(8 * 3600, 17 * 3600));
        }
        record.end();
    }

    /// Makes the placement that owns a timesheet the current one. Rows come in order, so it is the
    /// current one or one of the next; it starts over where they do not.
    fn advance_to(&mut self, row: u64) {
        let mut placement = match &self.current {
            Some(current) if current.sheets.contains(&row) => return,
            Some(current) if current.sheets.end <= row => current.row + 1,
            _ => 0,
        };
        while self.timesheets_before(placement + 1) <= row {
            placement += 1;
        }
        let sheets = self.timesheets_before(placement)..self.timesheets_before(placement + 1);
        self.current = Some(CurrentPlacement {
            row: placement,
            sheets,
            facts: self.placement(placement),
        });
    }
}

/// Hours and overtime of a week, in quarters of an hour.
fn quarters(rng: &mut RowRng) -> (u64, u64) {
    match rng.below(100) {
        0..62 => (FULL_WEEK, 0),
        62..80 => (FULL_WEEK, rng.between(1, 48)),
        80..90 => (FULL_WEEK - 32, 0),
        90..97 => (rng.between(96, FULL_WEEK - 1), 0),
        _ => (rng.between(16, 95), 0),
    }
}

/// Cents billed for a week at a rate in cents: overtime counts one and a half times.
fn amount(rate: u64, hours: u64, overtime: u64) -> u64 {
    (rate * (2 * hours + 3 * overtime) + 4) / 8
}
