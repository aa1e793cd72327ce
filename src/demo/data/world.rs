//! The facts of the made-up agency: who exists at a scale and a seed, and how they hang together.
//! The row writers ask it; every fact follows from (seed, scale, row), so a timesheet knows its
//! placement's rate without a table in memory. Ids start at 1, rows at 0: an id is its row + 1.

use std::ops::Range;
use std::sync::LazyLock;

use fake::locales::{Data, EN};

use super::random::{RowRng, Stream, as_index, share};
use super::skills::{PROFESSIONS, Profession, skills_of};
use super::tables::{Table, split};

/// Days from 2016-01-01, where the calendar starts, to Monday 2021-01-04, when the first job opens.
pub(super) const FIRST_MONDAY: u64 = 1_830;
/// Weeks of business from that Monday on; the books end on 2026-06-28.
pub(super) const WEEKS: u64 = 286;
/// No placement is longer at any scale, so that one fits behind every job that it may take.
const PLACEMENT_WEEKS_MAX: u64 = 80;
/// Towns of the made-up country.
pub(super) const CITIES: u64 = 400;

const DOMAINS: [&str; 3] = ["example.com", "example.org", "example.net"];

/// A place that does not exist, in a state that does.
pub(super) struct City {
    pub(super) name: String,
    pub(super) state: &'static str,
}

/// A made-up person with made-up ways to reach them.
pub(super) struct Person {
    pub(super) first: &'static str,
    pub(super) last: &'static str,
    pub(super) email: String,
    pub(super) phone: String,
}

/// What follows from a candidate's row.
pub(super) struct Candidate {
    pub(super) person: Person,
    pub(super) profession: &'static Profession,
    pub(super) skills: &'static [&'static str],
    pub(super) city: u64,
    pub(super) years: u64,
}

/// What follows from a job's row.
pub(super) struct Job {
    pub(super) client: u64,
    pub(super) profession: &'static Profession,
    pub(super) skills: &'static [&'static str],
    pub(super) level: &'static str,
    pub(super) city: u64,
    /// Cents an hour.
    pub(super) rate: u64,
    /// Days since the calendar's start.
    pub(super) opened: u64,
}

/// What follows from a placement's row.
pub(super) struct Placement {
    pub(super) candidate: u64,
    pub(super) job: u64,
    /// The first week, counted from [`FIRST_MONDAY`].
    pub(super) start_week: u64,
    pub(super) weeks: u64,
    /// Cents an hour.
    pub(super) pay_rate: u64,
    /// Cents an hour.
    pub(super) bill_rate: u64,
}

/// The placement whose timesheets are being written, and which of them are its own.
pub(super) struct CurrentPlacement {
    pub(super) row: u64,
    pub(super) sheets: Range<u64>,
    pub(super) facts: Placement,
}

/// All facts at one seed and scale.
pub(super) struct World {
    pub(super) seed: u64,
    counts: [u64; 7],
    cities: Vec<City>,
    /// The placement that the last timesheet belonged to; timesheets come in its order.
    pub(super) current: Option<CurrentPlacement>,
}

impl World {
    pub(super) fn new(rows: u64, seed: u64) -> Self {
        let cities = (0..CITIES).map(|n| city(&mut RowRng::new(seed, Stream::Cities, n)));
        Self {
            seed,
            counts: split(rows),
            cities: cities.collect(),
            current: None,
        }
    }

    pub(super) fn rows(&self, table: Table) -> u64 {
        self.counts[table as usize]
    }

    pub(super) fn rng(&self, stream: Stream, row: u64) -> RowRng {
        RowRng::new(self.seed, stream, row)
    }

    pub(super) fn city(&self, index: u64) -> &City {
        &self.cities[as_index(index)]
    }

    /// Somebody new; `id` makes the mail address unique.
    pub(super) fn person(rng: &mut RowRng, id: u64, mark: &str) -> Person {
        let (first, last) = (rng.word(EN::NAME_FIRST_NAME), rng.word(EN::NAME_LAST_NAME));
        let domain = rng.word(&DOMAINS);
        let mut email = String::with_capacity(48);
        push_address_part(&mut email, first);
        email.push('.');
        push_address_part(&mut email, last);
        email.push('.');
        email.push_str(mark);
        email.push_str(&id.to_string());
        email.push('@');
        email.push_str(domain);
        Person {
            first,
            last,
            email,
            phone: phone(rng),
        }
    }

    /// The profession of a row. In every block of as many rows as there are professions each has
    /// one row, at a place that the block's own rotation decides: see [`World::row_in_profession`].
    fn profession(&self, table: Table, row: u64) -> usize {
        let all = PROFESSIONS.len() as u64;
        as_index((row % all + self.rotation(table, row / all)) % all)
    }

    fn rotation(&self, table: Table, block: u64) -> u64 {
        self.rng(Stream::Rotations, block * 8 + table as u64)
            .below(PROFESSIONS.len() as u64)
    }

    /// A random row below `limit` of a table whose rows have professions, of the same profession as
    /// `like`; any row below the limit where there are fewer than one block.
    pub(super) fn row_in_profession(
        &self,
        table: Table,
        limit: u64,
        like: usize,
        rng: &mut RowRng,
    ) -> u64 {
        let all = PROFESSIONS.len() as u64;
        let blocks = limit / all;
        if blocks == 0 {
            return rng.below(limit);
        }
        let block = rng.below(blocks);
        block * all + (like as u64 + all - self.rotation(table, block)) % all
    }

    pub(super) fn candidate_profession(&self, row: u64) -> usize {
        self.profession(Table::Candidates, row)
    }

    pub(super) fn candidate(&self, row: u64) -> (Candidate, RowRng) {
        let mut rng = self.rng(Stream::Candidates, row);
        let profession = self.candidate_profession(row);
        let person = Self::person(&mut rng, row + 1, "");
        let city = rng.below(CITIES);
        let years = rng.below(36).min(rng.below(36));
        let (skills, profession) = (skills_of(profession), &PROFESSIONS[profession]);
        (
            Candidate {
                person,
                profession,
                skills,
                city,
                years,
            },
            rng,
        )
    }

    /// A number of the usual shape that was never issued and never will be: area 900–999 is not
    /// used for social security, and groups 01–49 there are not used for taxpayers either. No two
    /// candidates share one up to 48,995,100 of them.
    pub(super) fn ssn(&self, row: u64) -> String {
        const AREAS: u64 = 100;
        const GROUPS: u64 = 49;
        const SERIALS: u64 = 9_999;
        // A prime that divides none of the three, so the steps visit every number once.
        const STEP: u64 = 27_644_437;
        const ALL: u64 = AREAS * GROUPS * SERIALS;
        let offset = self.rng(Stream::SsnOffset, 0).below(ALL);
        let n = (row % ALL * STEP + offset) % ALL;
        let (area, group, serial) = (n % AREAS, n / AREAS % GROUPS, n / AREAS / GROUPS);
        format!("{}-{:02}-{:04}", 900 + area, 1 + group, 1 + serial)
    }

    pub(super) fn job(&self, row: u64) -> (Job, RowRng) {
        let mut rng = self.rng(Stream::Jobs, row);
        let profession = self.profession(Table::Jobs, row);
        let client = rng.below(self.rows(Table::Clients));
        let rank = rng.below(100);
        let city = rng.below(CITIES);
        let (skills, profession) = (skills_of(profession), &PROFESSIONS[profession]);
        let (low, high) = profession.pay;
        let rate = (low * 100 + (high - low) * rank + 12) / 25 * 25;
        let opened = FIRST_MONDAY + share(row, self.rows(Table::Jobs), WEEKS * 7);
        (
            Job {
                client,
                profession,
                skills,
                level: level_of(rank),
                city,
                rate,
                opened,
            },
            rng,
        )
    }

    /// How many jobs are open on or before a day: the first so many, as they open in order.
    pub(super) fn jobs_opened(&self, day: u64) -> u64 {
        let jobs = self.rows(Table::Jobs);
        share(day.saturating_sub(FIRST_MONDAY), WEEKS * 7, jobs).min(jobs)
    }

    /// The first timesheet of a placement. Two placements share the timesheets of two, in a
    /// proportion drawn for the pair; the last placement's end is the table's.
    pub(super) fn timesheets_before(&self, placement: u64) -> u64 {
        let (sheets, placements) = (self.rows(Table::Timesheets), self.rows(Table::Placements));
        let at = |placement: u64| share(placement, placements, sheets);
        if placement.is_multiple_of(2) || placement >= placements {
            return at(placement.min(placements));
        }
        let (low, high) = (at(placement - 1), at((placement + 1).min(placements)));
        let weight = self
            .rng(Stream::PlacementWeeks, placement / 2)
            .between(20, 236);
        low + (high - low) * weight / 256
    }

    pub(super) fn placement(&self, row: u64) -> Placement {
        let mut rng = self.rng(Stream::Placements, row);
        let weeks = self.timesheets_before(row + 1) - self.timesheets_before(row);
        let span = weeks.clamp(1, PLACEMENT_WEEKS_MAX);
        let jobs = self
            .jobs_opened(FIRST_MONDAY + (WEEKS - span - 1) * 7)
            .max(1);
        let job_row = rng.below(jobs);
        let (job, _) = self.job(job_row);
        let profession = self.profession(Table::Jobs, job_row);
        let candidate = self.row_in_profession(
            Table::Candidates,
            self.rows(Table::Candidates),
            profession,
            &mut rng,
        );
        let earliest = (job.opened - FIRST_MONDAY) / 7 + 1;
        let latest = WEEKS - span;
        let start_week = if rng.chance(9) {
            latest
        } else {
            rng.between(earliest, latest)
        };
        let pay_rate = job.rate + rng.below(9) * 25;
        let bill_rate = pay_rate * rng.between(128, 156) / 100;
        Placement {
            candidate,
            job: job_row,
            start_week,
            weeks,
            pay_rate,
            bill_rate,
        }
    }

    /// When the `row`-th of `rows` things happened: a working day and a second in its office hours,
    /// later rows later, all of them between the first Monday and the end of the books.
    pub(super) fn office_time(row: u64, rows: u64) -> (u64, u64) {
        const OPENS: u64 = 8 * 3600;
        const HOURS: u64 = 10 * 3600;
        const DAYS: u64 = WEEKS * 5;
        let at = share(row, rows, DAYS * HOURS);
        let (day, second) = (at / HOURS, at % HOURS);
        (FIRST_MONDAY + day / 5 * 7 + day % 5, OPENS + second)
    }
}

fn level_of(rank: u64) -> &'static str {
    match rank {
        0..22 => "Junior ",
        22..62 => "",
        62..88 => "Senior ",
        _ => "Lead ",
    }
}

fn city(rng: &mut RowRng) -> City {
    let mut name = String::new();
    if rng.chance(40) {
        name.push_str(rng.word(EN::ADDRESS_CITY_PREFIX));
        name.push(' ');
    }
    name.push_str(rng.word(EN::NAME_LAST_NAME));
    name.push_str(rng.word(EN::ADDRESS_CITY_SUFFIX));
    City {
        name,
        state: rng.word(EN::ADDRESS_STATE_ABBR),
    }
}

/// A number in the block 555-0100 to 555-0199, which is kept for fiction.
fn phone(rng: &mut RowRng) -> String {
    let area = rng.between(2, 9) * 100 + rng.below(9) * 10 + 2 + rng.below(8);
    format!("{area}-555-01{:02}", rng.below(100))
}

/// The letters and digits of a name in lower case.
fn push_address_part(out: &mut String, name: &str) {
    out.extend(
        name.chars()
            .filter(char::is_ascii_alphanumeric)
            .map(|c| c.to_ascii_lowercase()),
    );
}

/// The industries whose names need no quotes.
pub(super) static INDUSTRIES: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    EN::COMPANY_INDUSTRY
        .iter()
        .copied()
        .filter(|name| !name.contains(','))
        .collect()
});
