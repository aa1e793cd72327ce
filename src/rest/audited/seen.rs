//! What the audit sees of rows: all of a page's at once, or batch by batch before they leave. Keeps keyed
//! hashes only.

use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::web;
use arrow::array::RecordBatch;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::{Asked, Told, entry, put};
use crate::{
    engines::audit::SeenRows,
    limits::Slot,
    query::{KeyTexts, Lineage, QueryError, Sources, Witness, key_texts, row_texts},
    rest::Edge,
};

/// The rows of a page, kept until it is known how many of them are shown.
pub struct Seen {
    edge: web::Data<Edge>,
    rows: Mutex<Marks>,
}

#[derive(Default)]
struct Marks {
    contents: Vec<u128>,
    /// By column of keys: dataset id, and the hash of each row's key.
    keys: Vec<(String, Vec<Option<String>>)>,
}

impl Marks {
    fn add(
        &mut self,
        edge: &Edge,
        lineage: &Lineage,
        batch: &RecordBatch,
    ) -> Result<(), QueryError> {
        let texts: KeyTexts = key_texts(lineage, batch)?;
        if self.keys.is_empty() {
            self.keys = texts
                .iter()
                .map(|(id, _)| (id.clone(), Vec::new()))
                .collect();
        }
        for ((dataset, all), (_, texts)) in self.keys.iter_mut().zip(texts) {
            let hash = |text: Option<String>| text.map(|text| edge.audit.row_hash(dataset, &text));
            all.extend(texts.into_iter().map(hash));
        }
        row_texts(batch, |row| {
            self.contents.push(edge.audit.content_hash(row));
        })
    }

    /// The marks of the first rows: keys by dataset, and one hash over all contents.
    fn first(&self, rows: usize) -> (Vec<SeenRows>, String) {
        let keys = self.keys.iter().map(|(dataset, hashes)| SeenRows {
            dataset: dataset.clone(),
            keys: hashes.iter().take(rows).flatten().cloned().collect(),
        });
        let contents = self.contents.iter().take(rows);
        let sum = contents.fold(0_u128, |sum, row| sum.wrapping_add(*row));
        (keys.collect(), format!("{sum:032x}"))
    }
}

impl Seen {
    /// Nothing yet.
    pub fn new(edge: web::Data<Edge>) -> Self {
        Self {
            edge,
            rows: Mutex::default(),
        }
    }

    /// What is to be told of the first rows.
    pub fn tell(&self, rows: usize, told: &mut Told) {
        let (keys, content) = self.rows.lock().first(rows);
        told.rows = Some(rows as u64);
        told.row_keys = keys;
        told.content = Some(content);
    }
}

#[async_trait]
impl Witness for Seen {
    async fn see(&self, sources: &Sources, batch: &RecordBatch) -> Result<(), QueryError> {
        self.rows.lock().add(&self.edge, &sources.lineage, batch)
    }
}

/// The rows of an answer that goes on: counted, and for an agent put down batch by batch.
pub struct Counted {
    edge: web::Data<Edge>,
    asked: Asked,
    told: Told,
    rows_max: Option<u64>,
    rows: AtomicU64,
    /// Held until the answer is over.
    _slot: Slot,
}

impl Counted {
    /// Of an answer to this caller, with what its first line says, of at most so many rows.
    pub fn new(
        edge: web::Data<Edge>,
        asked: Asked,
        told: Told,
        rows_max: Option<u64>,
        slot: Slot,
    ) -> Self {
        Self {
            edge,
            asked,
            told,
            rows_max,
            rows: AtomicU64::new(0),
            _slot: slot,
        }
    }
}

#[async_trait]
impl Witness for Counted {
    async fn see(&self, sources: &Sources, batch: &RecordBatch) -> Result<(), QueryError> {
        let new = batch.num_rows() as u64;
        let rows = self.rows.fetch_add(new, Ordering::Relaxed) + new;
        if self.rows_max.is_some_and(|most| rows > most) {
            return Err(QueryError::TooManyRows(self.rows_max.unwrap_or_default()));
        }
        if !self.asked.is_audited() {
            return Ok(());
        }
        let mut marks = Marks::default();
        marks.add(&self.edge, &sources.lineage, batch)?;
        let (row_keys, content) = marks.first(batch.num_rows());
        let told = Told {
            objects: sources.names.clone(),
            unnamed: sources.lineage.unnamed.clone(),
            rows: Some(new),
            row_keys,
            content: Some(content),
            sealed: None,
            ..self.told.clone()
        };
        let mut line = entry(&self.asked, told, None);
        line.goes_on = true;
        put(&self.edge, line)
            .await
            .map_err(|_| QueryError::Unaudited)
    }
}
