//! Who hires, who looks for work, and the jobs between them: clients, candidates, jobs.
//! `World::push_row` calls it. Names come from word lists drawn at random: a person or a company
//! that exists under one of them is a coincidence.

use std::fmt::Write as _;

use fake::locales::{Data, EN};

use super::csv::Record;
use super::random::{RowRng, Stream, share};
use super::tables::Table;
use super::world::{CITIES, FIRST_MONDAY, INDUSTRIES, WEEKS, World};

impl World {
    pub(super) fn push_client(&self, row: u64, out: &mut Vec<u8>) {
        let mut rng = self.rng(Stream::Clients, row);
        let name = company(&mut rng);
        let industry = rng.word(&INDUSTRIES);
        let city = self.city(rng.below(CITIES));
        let tier = rng.word(&["gold", "silver", "silver", "bronze", "bronze", "bronze"]);
        let contact = Self::person(&mut rng, row + 1, "c");
        let mut record = Record::new(out);
        record
            .int(row + 1)
            .text(&name)
            .plain(industry)
            .text(&city.name)
            .plain(city.state)
            .plain(tier);
        record.text(&format!("{} {}", contact.first, contact.last));
        record.plain(&contact.email).plain(&contact.phone);
        record.date(rng.below(FIRST_MONDAY)).end();
    }

    /// The industry of a client, as its row has it.
    pub(super) fn industry(&self, row: u64) -> &'static str {
        let mut rng = self.rng(Stream::Clients, row);
        company(&mut rng);
        rng.word(&INDUSTRIES)
    }

    pub(super) fn push_candidate(&self, row: u64, out: &mut Vec<u8>) {
        let (candidate, mut rng) = self.candidate(row);
        let person = &candidate.person;
        let city = self.city(candidate.city);
        let count = 5 + rng.index(7);
        let skills = distinct(candidate.skills, count, &mut rng);
        let headline = headline(candidate.profession.title, candidate.years, &skills);
        let status = match rng.below(100) {
            0..58 => "active",
            58..82 => "passive",
            82..96 => "inactive",
            _ => "blocked",
        };
        let created = share(row, self.rows(Table::Candidates), FIRST_MONDAY);
        let mut record = Record::new(out);
        record
            .int(row + 1)
            .text(person.first)
            .text(person.last)
            .plain(&person.email)
            .plain(&person.phone);
        record
            .plain(&self.ssn(row))
            .text(&city.name)
            .plain(city.state)
            .int(candidate.years);
        record
            .text(&headline)
            .text(&skills.join(", "))
            .plain(status);
        record.time(created, rng.between(7 * 3600, 20 * 3600)).end();
    }

    pub(super) fn push_job(&self, row: u64, out: &mut Vec<u8>) {
        let (job, mut rng) = self.job(row);
        let city = self.city(job.city);
        let recent = job.opened + 26 * 7 > FIRST_MONDAY + WEEKS * 7;
        let status = match rng.below(10) {
            0..7 if recent => "open",
            0..8 => "filled",
            _ => "closed",
        };
        let skills = distinct(job.skills, 3, &mut rng);
        let work = rng.word(job.profession.work);
        let extra = rng.word(JOB_EXTRAS);
        let description = format!(
            "A client in {} is looking for a {} in {}. You will {work}. You bring {}. {extra}",
            self.industry(job.client),
            job.profession.title,
            city.name,
            and_list(&skills),
        );
        let mut record = Record::new(out);
        record.int(row + 1).int(job.client + 1);
        record
            .plain(&[job.level, job.profession.title].concat())
            .plain(job.profession.category);
        record
            .text(&city.name)
            .plain(city.state)
            .hundredths(job.rate)
            .int(rng.between(1, 5));
        record
            .plain(status)
            .date(job.opened)
            .text(&description)
            .end();
    }
}

const JOB_EXTRAS: &[&str] = &[
    "Two days a week at home are fine.",
    "The contract runs for six months and may be extended.",
    "Early shift, parking in front of the door.",
    "The team is small and helps each other.",
    "You report to the head of the department.",
    "A start within two weeks would be ideal.",
    "Weekends are free, overtime is paid.",
    "The client takes people on after a year.",
    "Some travel between two sites is part of it.",
    "Tools and training are provided.",
];

/// A company's name out of family names and a legal form.
fn company(rng: &mut RowRng) -> String {
    let (one, two) = (rng.word(EN::NAME_LAST_NAME), rng.word(EN::NAME_LAST_NAME));
    let form = rng.word(EN::COMPANY_SUFFIX);
    match rng.below(3) {
        0 => format!("{one} {form}"),
        1 => format!("{one} & {two} {form}"),
        _ => format!("{one}-{two} {form}"),
    }
}

/// `count` different skills, or fewer where the draw repeats itself.
fn distinct(skills: &[&'static str], count: usize, rng: &mut RowRng) -> Vec<&'static str> {
    let mut chosen: Vec<&'static str> = Vec::with_capacity(count);
    for _ in 0..count {
        let skill = rng.word(skills);
        if !chosen.contains(&skill) {
            chosen.push(skill);
        }
    }
    chosen
}

fn headline(title: &str, years: u64, skills: &[&str]) -> String {
    let mut text = match years {
        0 => format!("{title} at the start of a career"),
        1 => format!("{title} with a year of experience"),
        _ => format!("{title} with {years} years of experience"),
    };
    let best = &skills[..skills.len().min(3)];
    write!(text, " in {}", and_list(best)).expect("writing to a string cannot fail");
    text
}

/// `a`, `a and b`, `a, b and c`.
fn and_list(items: &[&str]) -> String {
    match items {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}
