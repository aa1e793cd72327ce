//! What the made-up tables and the knowledge base promise, checked on their bytes.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use super::*;

const SMALL: u64 = 7_000;

/// A table's records, header first, as fields without their quotes.
fn records(table: Table, rows: u64) -> Vec<Vec<String>> {
    let mut text = String::new();
    csv_reader(table, rows, DEFAULT_SEED)
        .read_to_string(&mut text)
        .unwrap();
    text.lines().map(fields).collect()
}

fn fields(line: &str) -> Vec<String> {
    let (mut all, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => field.push(letters.next().unwrap()),
            '"' => quoted = !quoted,
            ',' if !quoted => all.push(std::mem::take(&mut field)),
            _ => field.push(letter),
        }
    }
    all.push(field);
    all
}

/// One column of a table, by name.
fn column(table: Table, rows: u64, name: &str) -> Vec<String> {
    let mut records = records(table, rows).into_iter();
    let at = records
        .next()
        .unwrap()
        .iter()
        .position(|field| field == name)
        .unwrap();
    records.map(|record| record[at].clone()).collect()
}

fn ids(table: Table, rows: u64) -> HashSet<String> {
    column(table, rows, "id").into_iter().collect()
}

#[test]
fn rows_add_up_at_every_scale() {
    for rows in (7..400).chain([SMALL, 123_457, DEFAULT_ROWS, 10 * DEFAULT_ROWS + 3]) {
        let specs = tables(rows);
        assert_eq!(specs.iter().map(|spec| spec.rows).sum::<u64>(), rows);
        assert!(specs.iter().all(|spec| spec.rows > 0));
    }
    assert_eq!(tables(0), tables(7));
}

#[test]
fn every_table_has_the_rows_and_columns_that_it_says() {
    for spec in tables(SMALL) {
        let mut records = records(spec.table, SMALL).into_iter();
        let names: Vec<_> = spec.columns.iter().map(|column| column.name).collect();
        assert_eq!(records.next().unwrap(), names);
        let mut count = 0;
        for record in records {
            assert_eq!(record.len(), names.len(), "{} {record:?}", spec.name);
            for (column, field) in spec.columns.iter().zip(&record) {
                assert!(
                    column.nullable || !field.is_empty(),
                    "{}.{}",
                    spec.name,
                    column.name
                );
            }
            count += 1;
        }
        assert_eq!(count, spec.rows, "{}", spec.name);
    }
}

#[test]
fn the_default_scale_has_its_rows_and_about_244_mebibytes() {
    let (mut rows, mut bytes) = (0, 0);
    for spec in tables(DEFAULT_ROWS) {
        let mut lines = 0;
        for chunk in csv_chunks(spec.table, DEFAULT_ROWS, DEFAULT_SEED) {
            lines += memchr::memchr_iter(b'\n', &chunk).count() as u64;
            bytes += chunk.len() as u64;
        }
        assert_eq!(lines, spec.rows + 1, "{}", spec.name);
        rows += spec.rows;
    }
    assert_eq!(rows, DEFAULT_ROWS);
    assert_eq!(bytes >> 20, 244);
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_every_machine() {
    let mut hashes = Vec::new();
    for table in Table::ALL {
        let mut bytes = Vec::new();
        let reader = csv_reader(table, DEFAULT_ROWS, DEFAULT_SEED);
        reader.take(1 << 20).read_to_end(&mut bytes).unwrap();
        let hash = blake3::hash(&bytes);
        hashes.push(format!("{} {}", table.name(), &hash.to_hex()[..16]));
    }
    assert_eq!(
        hashes,
        [
            "clients 58a17e6efbb49dbb",
            "candidates d9c39643c68c3d09",
            "jobs 3230d20ef71e40da",
            "placements 7669fc80873ee306",
            "timesheets ce1e7a3cf427885f",
            "activities 765ef11dd0afca6b",
            "emails 72ef49fb99a1ca04",
        ]
    );
}

#[test]
fn another_seed_gives_other_rows() {
    for table in Table::ALL {
        let one = csv_chunks(table, SMALL, 1).next().unwrap();
        assert_ne!(
            one,
            csv_chunks(table, SMALL, 2).next().unwrap(),
            "{}",
            table.name()
        );
    }
}

#[test]
fn chunks_end_at_a_record_and_join_to_what_the_writer_writes() {
    let mut written = Vec::new();
    let bytes = write_csv(Table::Activities, 100_000, 3, &mut written).unwrap();
    assert_eq!(bytes, written.len() as u64);
    let chunks: Vec<_> = csv_chunks(Table::Activities, 100_000, 3).collect();
    assert!(chunks.len() > 1);
    assert!(
        chunks
            .iter()
            .all(|chunk| chunk.ends_with(b"\n") && chunk.len() < (1 << 20) + 4096)
    );
    assert_eq!(chunks.concat(), written);
}

#[test]
fn every_reference_finds_its_row() {
    let references = [
        (Table::Jobs, "client_id", Table::Clients),
        (Table::Placements, "candidate_id", Table::Candidates),
        (Table::Placements, "job_id", Table::Jobs),
        (Table::Timesheets, "placement_id", Table::Placements),
        (Table::Activities, "candidate_id", Table::Candidates),
        (Table::Activities, "job_id", Table::Jobs),
        (Table::Emails, "candidate_id", Table::Candidates),
    ];
    for rows in [7, 8, 50, 105, 333, SMALL] {
        for (from, name, to) in references {
            let known = ids(to, rows);
            for id in column(from, rows, name) {
                assert!(
                    id.is_empty() || known.contains(&id),
                    "{} {name} {id} at {rows}",
                    from.name()
                );
            }
        }
    }
}

#[test]
fn keys_are_unique() {
    for table in Table::ALL {
        let rows = column(table, SMALL, "id");
        assert_eq!(
            rows.len(),
            rows.iter().collect::<HashSet<_>>().len(),
            "{}",
            table.name()
        );
    }
    for name in ["email", "ssn"] {
        let values = column(Table::Candidates, DEFAULT_ROWS / 10, name);
        assert_eq!(
            values.len(),
            values.iter().collect::<HashSet<_>>().len(),
            "{name}"
        );
    }
}

#[test]
fn a_placement_starts_after_its_job_opens_and_has_a_timesheet_for_each_week() {
    for rows in [60, 105, 140, SMALL, 60_000] {
        let opened = column(Table::Jobs, rows, "opened_at");
        let mut weeks: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for sheet in records(Table::Timesheets, rows).into_iter().skip(1) {
            weeks
                .entry(sheet[1].clone())
                .or_default()
                .push(sheet[2].clone());
        }
        for placement in records(Table::Placements, rows).into_iter().skip(1) {
            let [id, _, job, start, end, ..] = placement.as_slice() else {
                panic!("short")
            };
            assert!(
                opened[job.parse::<usize>().unwrap() - 1] < *start,
                "{id} at {rows}"
            );
            let Some(weeks) = weeks.get(id) else { continue };
            assert_eq!(weeks[0], *start, "{id} at {rows}");
            assert!(weeks.windows(2).all(|pair| pair[0] < pair[1]));
            let last = weeks.last().unwrap();
            assert!(last.as_str() <= "2026-06-22", "{id} at {rows}");
            assert!(end.is_empty() == (last == "2026-06-22") && (end.is_empty() || end > last));
        }
    }
}

/// Every run of digits and dashes of a text that has the given lengths between the dashes.
fn dashed<'a>(text: &'a str, lengths: &'a [usize]) -> impl Iterator<Item = Vec<&'a str>> {
    let runs = text.split(|c: char| !(c.is_ascii_digit() || c == '-'));
    runs.map(|run| run.split('-').collect::<Vec<_>>())
        .filter(move |parts| {
            parts
                .iter()
                .map(|part| part.len())
                .eq(lengths.iter().copied())
        })
}

#[test]
fn nobody_real_can_be_reached_or_named_by_number() {
    let (mut mails, mut phones, mut numbers) = (0, 0, 0);
    for table in Table::ALL {
        let mut text = String::new();
        csv_reader(table, 40_000, DEFAULT_SEED)
            .read_to_string(&mut text)
            .unwrap();
        for (at, _) in text.match_indices('@') {
            let behind = &text[at + 1..];
            let end = behind.find([',', ' ', '\n', '"']).unwrap();
            let domain = behind[..end].trim_end_matches('.');
            assert!(
                ["example.com", "example.org", "example.net"].contains(&domain),
                "{domain}"
            );
            mails += 1;
        }
        for phone in dashed(&text, &[3, 3, 4]) {
            assert!(phone[1] == "555" && phone[2].starts_with("01"), "{phone:?}");
            phones += 1;
        }
        for ssn in dashed(&text, &[3, 2, 4]) {
            assert!(
                ssn[0].starts_with('9') && (1..=49).contains(&ssn[1].parse().unwrap()),
                "{ssn:?}"
            );
            numbers += 1;
        }
    }
    assert!(
        mails > 3_000 && phones > 1_500 && numbers > 1_100,
        "{mails} {phones} {numbers}"
    );
}

#[test]
fn notes_name_the_same_numbers_as_the_candidates_rows() {
    let people = records(Table::Candidates, 60_000);
    let mut named = 0;
    for activity in records(Table::Activities, 60_000).iter().skip(1) {
        let person = &people[activity[1].parse::<usize>().unwrap()];
        assert!(dashed(&activity[6], &[3, 3, 4]).all(|phone| phone.join("-") == person[4]));
        assert!(dashed(&activity[6], &[3, 2, 4]).all(|ssn| ssn.join("-") == person[5]));
        named += dashed(&activity[6], &[3, 2, 4]).count();
    }
    assert!(named > 100, "{named}");
}

#[test]
fn the_knowledge_base_is_wordnet() {
    let mut text = String::new();
    wordnet_ndjson().read_to_string(&mut text).unwrap();
    assert_eq!(text.len() as u64, WORDNET_BYTES);
    assert_eq!(text.lines().count() as u64, WORDNET_ROWS);
    let line = |id: &str| -> serde_json::Value {
        let start = format!("{{\"id\":\"{id}\"");
        serde_json::from_str(text.lines().find(|line| line.starts_with(&start)).unwrap()).unwrap()
    };
    let dog = line("n02086723");
    assert_eq!(dog["lexname"], "noun.animal");
    assert_eq!(dog["lemmas"], "dog, domestic dog, Canis familiaris");
    assert_eq!(dog["example"], "the dog barked all night");
    let entity = line("n00001740");
    assert_eq!(entity["pos"], "noun");
    assert!(
        entity["gloss"]
            .as_str()
            .unwrap()
            .starts_with("that which is perceived or known")
    );
    assert!(entity["example"].is_null());
}

#[test]
fn the_knowledge_base_comes_in_whole_chunks() {
    let chunks: Vec<_> = wordnet_chunks().collect();
    assert_eq!(
        chunks.iter().map(|chunk| chunk.len() as u64).sum::<u64>(),
        WORDNET_BYTES
    );
    assert!(
        chunks[..chunks.len() - 1]
            .iter()
            .all(|chunk| chunk.len() == 1 << 20)
    );
}
