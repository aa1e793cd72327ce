//! Every event as it was ever written still reads, and means the same. A line of the golden file is
//! never changed: a new schema version adds a line and an upcaster.

use std::collections::BTreeSet;

use lakehouse_journal::model::Event;
use serde::Deserialize;
use serde_json::value::RawValue;

const GOLDEN: &str = include_str!("golden/events.jsonl");

#[derive(Deserialize)]
struct Line {
    kind: String,
    schema: u16,
    data: Box<RawValue>,
}

fn lines() -> Vec<Line> {
    GOLDEN
        .lines()
        .map(|line| serde_json::from_str(line).expect("a golden line"))
        .collect()
}

#[test]
fn every_recorded_event_still_reads() {
    for line in lines() {
        let event = Event::decode(&line.kind, line.schema, &line.data);
        let event = event.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(event.kind(), line.kind);
        if line.schema == event.schema() {
            assert_eq!(
                event.encode().get(),
                line.data.get(),
                "{} is written otherwise",
                line.kind
            );
        }
    }
}

#[test]
fn every_event_and_every_version_of_it_is_recorded() {
    let recorded: BTreeSet<(String, u16)> = lines()
        .into_iter()
        .map(|line| (line.kind, line.schema))
        .collect();
    for (kind, newest) in Event::KINDS {
        for schema in 1..=*newest {
            assert!(
                recorded.contains(&((*kind).to_owned(), schema)),
                "no golden `{kind}` {schema}"
            );
        }
    }
}

#[test]
fn an_unknown_event_and_a_newer_schema_stop_the_reading() {
    let data = RawValue::from_string("{}".to_owned()).expect("an object");
    assert!(Event::decode("MoonLanded", 1, &data).is_err());
    assert!(Event::decode("DatasetDropped", 99, &data).is_err());
    assert!(
        Event::decode("DatasetDropped", 1, &data).is_err(),
        "its field is missing"
    );
}
