//! What was said: activities with a note, and mails. `World::push_row` calls it.
//! Some notes and mails name a candidate's phone, address or number, the same ones as in the
//! candidate's row, so that redaction of free text has something to find.

use super::csv::{Record, push_hundredths};
use super::random::{RowRng, Stream};
use super::tables::Table;
use super::templates::{Slot, Template, templates};
use super::world::{Candidate, Job, World};

/// What the slots of a template are filled with.
struct Facts<'a> {
    candidate: &'a Candidate,
    job: Option<&'a Job>,
    /// Made only for the few texts that name it.
    ssn: &'a dyn Fn() -> String,
}

impl World {
    pub(super) fn push_activity(&self, row: u64, out: &mut Vec<u8>) {
        let mut rng = self.rng(Stream::Activities, row);
        let (day, second) = Self::office_time(row, self.rows(Table::Activities));
        let (candidate_row, job_row) = self.who_about(day, &mut rng);
        let (candidate, _) = self.candidate(candidate_row);
        let job = job_row.map(|row| self.job(row).0);
        let kind = rng.pick(&templates().activities);
        let ssn = || self.ssn(candidate_row);
        let facts = Facts {
            candidate: &candidate,
            job: job.as_ref(),
            ssn: &ssn,
        };
        let mut note = String::with_capacity(240);
        facts.push(rng.pick(&kind.openings), &mut rng, &mut note);
        facts.push_aside(&mut rng, &mut note);
        facts.push(rng.pick(&kind.endings), &mut rng, &mut note);
        let mut record = Record::new(out);
        record.int(row + 1).int(candidate_row + 1);
        push_optional(&mut record, job_row.map(|row| row + 1));
        record.time(day, second).plain(kind.name);
        push_optional(
            &mut record,
            (kind.minutes > 0).then(|| rng.between(2, kind.minutes)),
        );
        record.text(&note).end();
    }

    pub(super) fn push_email(&self, row: u64, out: &mut Vec<u8>) {
        let mut rng = self.rng(Stream::Emails, row);
        let (day, second) = Self::office_time(row, self.rows(Table::Emails));
        let (candidate_row, job_row) = self.who_about(day, &mut rng);
        let (candidate, _) = self.candidate(candidate_row);
        let job = job_row.map(|row| self.job(row).0);
        let ssn = || self.ssn(candidate_row);
        let facts = Facts {
            candidate: &candidate,
            job: job.as_ref(),
            ssn: &ssn,
        };
        let inbound = rng.chance(45);
        let mail = rng.pick(if inbound {
            &templates().mails_in
        } else {
            &templates().mails_out
        });
        let desk = format!("desk{}@example.com", rng.between(1, 24));
        let (mut subject, mut body) = (String::with_capacity(80), String::with_capacity(400));
        facts.push(&mail.subject, &mut rng, &mut subject);
        facts.push(&mail.body, &mut rng, &mut body);
        if inbound {
            facts.push_aside(&mut rng, &mut body);
        }
        let address = &candidate.person.email;
        let (from, to) = if inbound {
            (address, &desk)
        } else {
            (&desk, address)
        };
        let mut record = Record::new(out);
        record.int(row + 1).int(candidate_row + 1).time(day, second);
        record
            .plain(if inbound { "in" } else { "out" })
            .plain(from)
            .plain(to);
        record.text(&subject).text(&body).end();
    }

    /// A candidate, and in most cases a job of their profession that is known on the day.
    fn who_about(&self, day: u64, rng: &mut RowRng) -> (u64, Option<u64>) {
        let candidate = rng.below(self.rows(Table::Candidates));
        let jobs = self.jobs_opened(day);
        if jobs == 0 || rng.chance(35) {
            return (candidate, None);
        }
        let profession = self.candidate_profession(candidate);
        (
            candidate,
            Some(self.row_in_profession(Table::Jobs, jobs, profession, rng)),
        )
    }
}

impl Facts<'_> {
    fn push(&self, template: &Template, rng: &mut RowRng, out: &mut String) {
        for (literal, slot) in &template.parts {
            out.push_str(literal);
            match slot {
                Slot::None => {}
                Slot::First => out.push_str(self.candidate.person.first),
                Slot::Last => out.push_str(self.candidate.person.last),
                Slot::Skill => out.push_str(rng.word(self.candidate.skills)),
                Slot::Title => out.push_str(self.candidate.profession.title),
                Slot::Work => out.push_str(rng.word(self.candidate.profession.work)),
                Slot::Phone => out.push_str(&self.candidate.person.phone),
                Slot::Email => out.push_str(&self.candidate.person.email),
                Slot::Ssn => out.push_str(&(self.ssn)()),
                Slot::Rate => self.push_rate(out),
                Slot::Day => out.push_str(rng.word(&[
                    "Monday",
                    "Tuesday",
                    "Wednesday",
                    "Thursday",
                    "Friday",
                ])),
                Slot::Count => out.push_str(rng.word(&["two", "three", "four", "five", "six"])),
            }
        }
    }

    /// Sometimes a sentence that names how to reach somebody, seldom their number.
    fn push_aside(&self, rng: &mut RowRng, out: &mut String) {
        let asides = &templates().asides;
        match rng.below(100) {
            0..7 => self.push(rng.pick(&asides.phone), rng, out),
            7..11 => self.push(rng.pick(&asides.email), rng, out),
            11..13 => self.push(rng.pick(&asides.ssn), rng, out),
            _ => {}
        }
    }

    /// The job's rate, or the middle of the profession's where there is no job.
    fn push_rate(&self, out: &mut String) {
        let (low, high) = self.candidate.profession.pay;
        let rate = self.job.map_or((low + high) * 50, |job| job.rate);
        let mut digits = Vec::with_capacity(8);
        push_hundredths(&mut digits, rate);
        out.push_str(std::str::from_utf8(&digits).expect("digits and a point are ASCII"));
    }
}

fn push_optional(record: &mut Record<'_>, value: Option<u64>) {
    match value {
        Some(value) => record.int(value),
        None => record.null(),
    };
}
