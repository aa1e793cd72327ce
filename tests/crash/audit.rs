//! What must hold after every restart: nothing acknowledged is lost, nothing is there that nobody asked for,
//! the journal has no gap and does not change, and the rows are those of the model.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::Method;
use serde_json::Value;

use super::ledger::{Entry, Outcome};
use super::model::{Model, Rows, SHARED};
use crate::support::api::{Api, is_daemons_own, list};

/// The journal as far as it was read: its events never change again.
#[derive(Debug, Default)]
pub struct Seen {
    seq: u64,
    last: Value,
}

/// Events by the request that caused them.
pub type ByRequest = BTreeMap<String, Vec<Value>>;

impl Seen {
    /// How many events the journal had.
    pub fn count(&self) -> u64 {
        self.seq
    }

    /// Reads on: checks that the numbers go on without a gap and that the past is as it was.
    pub async fn read_on(&mut self, api: &Api) -> Vec<Value> {
        let from = self.seq.saturating_sub(1);
        let mut events = api.events(from).await;
        for (event, expected) in events.iter().zip(from + 1..) {
            assert_eq!(event["seq"], expected, "the numbers have no gap: {event}");
        }
        if self.seq > 0 {
            assert!(
                !events.is_empty(),
                "event {} was there before the restart",
                self.seq
            );
            assert_eq!(events.remove(0), self.last, "the past does not change");
        }
        if let Some(last) = events.last() {
            self.seq = last["seq"].as_u64().expect("a number");
            self.last = last.clone();
        }
        events
    }
}

/// Groups events by request; the daemon's own are left out.
pub fn by_request(events: &[Value]) -> ByRequest {
    let mut groups = ByRequest::new();
    for event in events.iter().filter(|event| !is_daemons_own(event)) {
        let request = event["request_id"]
            .as_str()
            .expect("an event has a request id")
            .to_owned();
        groups.entry(request).or_default().push(event.clone());
    }
    groups
}

/// Every acknowledged request is there exactly once, no refused one is, and no event has no request.
pub fn ledger_matches(entries: &[Entry], groups: &ByRequest) {
    for entry in entries {
        let events = groups.get(&entry.id).map_or(&[][..], Vec::as_slice);
        match &entry.outcome {
            Outcome::Ok { seq } => {
                assert!(
                    entry.op.events().contains(&events.len()),
                    "LOST OR DOUBLED: acknowledged at {seq}, {} events: {entry:?}",
                    events.len()
                );
                let there = events.is_empty() || events.iter().any(|event| event["seq"] == *seq);
                assert!(
                    there,
                    "acknowledged at {seq}, found elsewhere: {entry:?} {events:?}"
                );
            }
            Outcome::Refused { .. } => {
                assert!(
                    events.is_empty(),
                    "PHANTOM: refused, and yet there: {entry:?} {events:?}"
                );
            }
            Outcome::Unknown => {
                let whole = events.is_empty() || entry.op.events().contains(&events.len());
                assert!(whole, "HALF A DECISION: {entry:?} {events:?}");
            }
        }
    }
    let asked: BTreeSet<&String> = entries.iter().map(|entry| &entry.id).collect();
    let phantoms: Vec<_> = groups
        .keys()
        .filter(|request| !asked.contains(request))
        .collect();
    assert!(
        phantoms.is_empty(),
        "PHANTOM: nobody asked for {phantoms:?}"
    );
}

/// The datasets are those of the models, row by row, and so are the tokens.
pub async fn rows_match(api: &Api, models: &[Model]) {
    let mut expected: BTreeMap<&str, Rows> = BTreeMap::from([(SHARED, Rows::new())]);
    for (name, table) in models.iter().flat_map(|model| &model.tables) {
        expected.entry(name).or_default().extend(table.rows.clone());
    }
    let manifests = list(&api.get("/catalog/datasets?limit=1000").await.ok());
    let names: BTreeSet<&str> = manifests
        .iter()
        .map(|manifest| manifest["name"].as_str().expect("a name"))
        .collect();
    // The shared dataset starts with one row of nobody's.
    assert_eq!(
        names,
        expected.keys().copied().collect::<BTreeSet<_>>(),
        "datasets"
    );
    for manifest in &manifests {
        let name = manifest["name"].as_str().expect("a name");
        let mut rows = expected.remove(name).expect("the names are equal");
        if name == SHARED {
            rows.insert(0, "nobody".to_owned());
        }
        assert_eq!(manifest["row_count"], rows.len(), "row count of {name}");
        let found = table(api, name).await;
        if found != rows {
            let lost: Vec<_> = rows
                .iter()
                .filter(|(id, v)| found.get(id) != Some(v))
                .take(5)
                .collect();
            let more: Vec<_> = found
                .iter()
                .filter(|(id, v)| rows.get(id) != Some(v))
                .take(5)
                .collect();
            panic!("rows of {name}: lost {lost:?}, too many {more:?}");
        }
        let owner = models
            .iter()
            .find_map(|model| model.tables.get(name))
            .expect("somebody's");
        if name != SHARED {
            assert_eq!(
                manifest["description"], owner.description,
                "description of {name}"
            );
        }
    }
}

/// Tokens work when they must, and are dead when they must be.
pub async fn tokens_match(api: &Api, with_token: impl Fn(&str) -> Api, models: &[Model]) {
    let listed = list(&api.get("/auth/tokens?limit=1000").await.ok());
    for (name, token) in models.iter().flat_map(|model| &model.tokens) {
        let times = listed
            .iter()
            .filter(|entry| entry["name"] == **name)
            .count();
        assert!(
            times == 1 || (token.revoked && times == 0),
            "token {name} is listed {times} times"
        );
    }
    for model in models {
        for (name, token) in model.tokens.iter().rev().take(4) {
            let Some(secret) = &token.secret else {
                continue;
            };
            let status = with_token(secret)
                .get("/catalog/datasets?limit=1")
                .await
                .status;
            let expected = if token.revoked { 401 } else { 200 };
            assert_eq!(status, expected, "token {name}, revoked: {}", token.revoked);
        }
    }
}

/// The chain holds, and the live state is the replayed one.
pub async fn verifies(api: &Api) {
    let verified = api.call(Method::POST, "/journal/verify").send().await.ok();
    assert_eq!(verified["ok"], true, "{verified}");
    assert_eq!(
        verified["state_hash_live"], verified["state_hash_replayed"],
        "{verified}"
    );
}

async fn table(api: &Api, name: &str) -> Rows {
    let call = api
        .call(Method::POST, "/query/sql")
        .header("accept", "text/csv");
    let sql = format!("SELECT id, v FROM {name}");
    let answer = call.json(&serde_json::json!({ "sql": sql })).send().await;
    assert!(
        answer.is_ok(),
        "{name}: {} {}",
        answer.status,
        answer.text()
    );
    let text = answer.text();
    let mut rows = Rows::new();
    for line in text.lines().skip(1) {
        let (id, v) = line.split_once(',').expect("two columns");
        let earlier = rows.insert(id.parse().expect("a number"), v.to_owned());
        assert!(earlier.is_none(), "row {id} of {name} is there twice");
    }
    rows
}

/// The audit itself: what it is there to find, it finds.
mod the_audit {
    use serde_json::json;

    use super::super::model::Op;
    use super::{ByRequest, Entry, Outcome, ledger_matches};

    fn entry(outcome: Outcome) -> Entry {
        let op = Op::Create {
            dataset: "d".to_owned(),
            rows: super::Rows::new(),
        };
        Entry {
            id: "r".to_owned(),
            writer: 0,
            op,
            outcome,
        }
    }

    fn events(count: u64) -> ByRequest {
        let events = (1..=count).map(|seq| json!({ "seq": seq })).collect();
        ByRequest::from([("r".to_owned(), events)])
    }

    #[test]
    fn accepts_what_is_there_once_and_what_is_open() {
        ledger_matches(&[entry(Outcome::Ok { seq: 2 })], &events(2));
        ledger_matches(&[entry(Outcome::Unknown)], &events(2));
        ledger_matches(&[entry(Outcome::Unknown)], &ByRequest::new());
    }

    #[test]
    #[should_panic(expected = "LOST OR DOUBLED")]
    fn finds_a_lost_acknowledgement() {
        ledger_matches(&[entry(Outcome::Ok { seq: 2 })], &ByRequest::new());
    }

    #[test]
    #[should_panic(expected = "LOST OR DOUBLED")]
    fn finds_a_second_effect() {
        ledger_matches(&[entry(Outcome::Ok { seq: 2 })], &events(4));
    }

    #[test]
    #[should_panic(expected = "HALF A DECISION")]
    fn finds_half_a_decision() {
        ledger_matches(&[entry(Outcome::Unknown)], &events(1));
    }

    #[test]
    #[should_panic(expected = "PHANTOM")]
    fn finds_an_event_that_nobody_asked_for() {
        ledger_matches(&[], &events(2));
    }

    #[test]
    #[should_panic(expected = "PHANTOM")]
    fn finds_a_refusal_that_took_effect() {
        let refused = Outcome::Refused {
            status: 409,
            body: String::new(),
        };
        ledger_matches(&[entry(refused)], &events(2));
    }
}
