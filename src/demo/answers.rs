//! The demo's questions: SQL over the tables, searches over the knowledge base, and what all of
//! them answer together, so that the answers before and after a crash can be compared.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{
    DemoError, Doing as _,
    data::{Table, TableSpec, WORDNET_ROWS},
    forget::Forgotten,
    load::{INDEX, KNOWLEDGE},
};
use crate::cli::client::{Client, items};

/// Hits of each search.
pub(super) const HITS: usize = 5;
/// The expected word is among the first so many.
const EXPECTED_WITHIN: usize = 3;

/// A question in SQL. Sums are of decimals, so that they are the same in any order.
pub(super) struct Question {
    /// What it asks, for a person.
    pub(super) title: &'static str,
    /// How it is asked.
    pub(super) sql: &'static str,
}

/// A join of four tables and an aggregate.
pub(super) const INDUSTRIES: Question = Question {
    title: "Which industries do the people work in, and what was billed for them?",
    sql: "SELECT c.industry, count(DISTINCT p.candidate_id) AS people, \
                 sum(CAST(t.hours AS DECIMAL(12, 2))) AS hours, \
                 sum(CAST(t.amount AS DECIMAL(14, 2))) AS billed \
          FROM timesheets t \
          JOIN placements p ON p.id = t.placement_id \
          JOIN jobs j ON j.id = p.job_id \
          JOIN clients c ON c.id = j.client_id \
          WHERE t.status = 'approved' \
          GROUP BY c.industry ORDER BY billed DESC, c.industry LIMIT 6",
};

/// Its first row is the person who will be deleted.
pub(super) const PEOPLE: Question = Question {
    title: "Who has worked most hours?",
    sql: "SELECT d.id, split_part(split_part(d.headline, ' with ', 1), ' at ', 1) AS profession, \
                 count(*) AS weeks, \
                 sum(CAST(t.hours AS DECIMAL(12, 2))) AS hours \
          FROM candidates d \
          JOIN placements p ON p.candidate_id = d.id \
          JOIN timesheets t ON t.placement_id = p.id \
          GROUP BY d.id, profession ORDER BY hours DESC, d.id LIMIT 4",
};

/// A search in plain words.
pub(super) struct Search {
    /// The words.
    pub(super) query: &'static str,
    /// A word that means this, which is to be found.
    pub(super) expected: &'static str,
}

/// The three searches. The first one's answer will be deleted.
pub(super) const SEARCHES: [Search; 3] = [
    Search {
        query: "fear of closed spaces",
        expected: "claustrophobia",
    },
    Search {
        query: "shop that sells medicine",
        expected: "drugstore",
    },
    Search {
        query: "person who writes music",
        expected: "composer",
    },
];

/// Everything that the demo's questions answer at one time.
#[derive(Debug, PartialEq)]
pub(super) struct Answers(BTreeMap<String, Value>);

impl Answers {
    /// Asks all of them.
    pub(super) async fn gather(
        client: &Client,
        forgotten: &[Forgotten],
    ) -> Result<Self, DemoError> {
        let mut answers = BTreeMap::new();
        answers.insert("rows of every table".to_owned(), counts(client).await?);
        for question in [&INDUSTRIES, &PEOPLE] {
            let answer = ask(client, question).await?;
            answers.insert(question.title.to_owned(), answer["rows"].clone());
        }
        for search in &SEARCHES {
            let hits = find(client, search.query).await?;
            answers.insert(
                format!("search for \"{}\"", search.query),
                Value::Array(hits),
            );
        }
        for row in forgotten {
            let what = format!("history of {}", row.what);
            answers.insert(what, Value::Array(row.history(client).await?));
        }
        Ok(Self(answers))
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The first difference to answers that should be the same.
    pub(super) fn difference(&self, later: &Self) -> Option<String> {
        let changed = self
            .0
            .iter()
            .find(|(what, answer)| later.0.get(*what) != Some(answer));
        changed.map(|(what, answer)| {
            let now = later.0.get(what).unwrap_or(&Value::Null);
            format!("{what}: it was {answer}, it is {now}")
        })
    }
}

/// Asks a question in SQL; the whole answer.
pub(super) async fn ask(client: &Client, question: &Question) -> Result<Value, DemoError> {
    let body = json!({ "sql": question.sql });
    client
        .post(&["query", "sql"], &body)
        .await
        .doing(question.title)
}

/// Checks that every table has the rows that were sent; how many there are in all.
pub(super) async fn check_counts(client: &Client, specs: &[TableSpec]) -> Result<u64, DemoError> {
    let sent = specs.iter().map(|spec| (spec.name, spec.rows));
    let mut sent: Vec<_> = sent.chain([(KNOWLEDGE, WORDNET_ROWS)]).collect();
    sent.sort_unstable();
    let counted = counts(client).await?;
    let expected: Value = sent
        .iter()
        .map(|(name, rows)| json!([name, rows]))
        .collect();
    if counted != expected {
        let found = format!("{expected} were sent, {counted} are there");
        return Err(DemoError::wrong("count of every table", found));
    }
    Ok(sent.iter().map(|(_, rows)| rows).sum())
}

/// The rows of every table, as `[[name, count], …]` by name.
async fn counts(client: &Client) -> Result<Value, DemoError> {
    let names = Table::ALL.map(Table::name).into_iter().chain([KNOWLEDGE]);
    let each = names.map(|name| format!("SELECT '{name}' AS name, count(*) AS rows FROM {name}"));
    let sql = format!(
        "{} ORDER BY name",
        each.collect::<Vec<_>>().join(" UNION ALL ")
    );
    let answer = client.post(&["query", "sql"], &json!({ "sql": sql })).await;
    Ok(answer.doing("count of every table")?["rows"].clone())
}

/// Searches the knowledge base; the hits, of which there are always [`HITS`].
pub(super) async fn find(client: &Client, query: &str) -> Result<Vec<Value>, DemoError> {
    let doing = format!("search for \"{query}\"");
    let body = json!({
        "index": INDEX, "query": query, "k": HITS, "columns": ["lemmas", "gloss"],
    });
    let answer = client
        .post(&["vectors", "search"], &body)
        .await
        .doing(&doing)?;
    let hits = items(&answer["hits"]);
    if hits.len() != HITS {
        let found = format!("{} hits instead of {HITS}: {answer}", hits.len());
        return Err(DemoError::wrong(doing, found));
    }
    Ok(hits.to_vec())
}

/// The hit that has the expected word, which is among the first.
pub(super) fn expected_hit<'a>(search: &Search, hits: &'a [Value]) -> Result<&'a Value, DemoError> {
    let first = &hits[..hits.len().min(EXPECTED_WITHIN)];
    let has_word = |hit: &&Value| lemmas(hit).split(", ").any(|word| word == search.expected);
    first.iter().find(has_word).ok_or_else(|| {
        let doing = format!("search for \"{}\"", search.query);
        let found: Vec<&str> = first.iter().map(lemmas).collect();
        DemoError::wrong(
            doing,
            format!("`{}` is not among {found:?}", search.expected),
        )
    })
}

/// The words that a hit stands for.
pub(super) fn lemmas(hit: &Value) -> &str {
    hit["row"]["lemmas"].as_str().unwrap_or_default()
}
