//! The journal as people read it: events, the history of a thing, a live stream, verification.

use std::{fmt::Write as _, time::Duration};

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::StreamExt;
use lakehouse_journal::{
    log::Order,
    record::{Micros, Record, Seq},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Edge,
    auth::{May, ReadJournal},
    body::query,
    problem::Problem,
    row_keys::row_name,
    times,
};

/// Events of a page unless asked otherwise.
const PAGE: usize = 100;
/// Most events of a page.
const PAGE_MAX: usize = 1000;
/// Events looked at for one page of a filter that few pass.
const SCAN_MAX: usize = 200_000;
/// Events read at a time.
const SCAN_STEP: usize = 5_000;
/// Between two looks for new events.
const STREAM_EVERY: Duration = Duration::from_millis(200);
/// Silence after which a stream says that it is alive.
const STREAM_IDLE_LOOKS: u32 = 50;

/// `/journal/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/journal/events", web::get().to(events))
        .route("/journal/history/{key:.*}", web::get().to(history))
        .route("/journal/stream", web::get().to(stream))
        .route("/journal/stats", web::get().to(stats))
        .route("/journal/verify", web::post().to(verify));
}

/// Which events are asked for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventQuery {
    after: Option<Seq>,
    kind: Option<String>,
    subject: Option<String>,
    actor: Option<String>,
    since: Option<String>,
    until: Option<String>,
    limit: Option<usize>,
}

struct Wanted {
    kind: Option<String>,
    subject: Option<String>,
    actor: Option<String>,
    since: Option<Micros>,
    until: Option<Micros>,
}

impl Wanted {
    fn of(asked: &EventQuery) -> Result<Self, Problem> {
        Ok(Self {
            kind: asked.kind.clone(),
            subject: asked.subject.clone(),
            actor: asked.actor.clone(),
            since: asked.since.as_deref().map(times::parse).transpose()?,
            until: asked.until.as_deref().map(times::parse).transpose()?,
        })
    }

    fn takes(&self, record: &Record) -> bool {
        let draft = &record.draft;
        self.kind.as_ref().is_none_or(|kind| *kind == draft.kind)
            && self
                .actor
                .as_ref()
                .is_none_or(|actor| *actor == draft.actor.name)
            && self.since.is_none_or(|since| draft.at >= since)
            && self.until.is_none_or(|until| draft.at < until)
            && self
                .subject
                .as_ref()
                .is_none_or(|subject| is_about(draft, subject))
    }
}

/// Whether an event is about a subject, given whole (`dataset:people`) or by its name alone.
fn is_about(draft: &lakehouse_journal::record::Draft, subject: &str) -> bool {
    draft
        .subjects
        .iter()
        .any(|own| own == subject || own.split_once(':').is_some_and(|(_, name)| name == subject))
}

/// Events, oldest first.
#[utoipa::path(get, path = "/journal/events", tag = "journal",
    params(("after" = Option<u64>, Query), ("kind" = Option<String>, Query), ("subject" = Option<String>, Query),
        ("actor" = Option<String>, Query), ("since" = Option<String>, Query), ("until" = Option<String>, Query),
        ("limit" = Option<usize>, Query)),
    responses((status = 200, description = "{items: [{seq, at, kind, version, actor, request_id, subjects, data, hash}], next}"),
        (status = 400, body = Problem)))]
pub async fn events(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: EventQuery = query(&request)?;
    let wanted = Wanted::of(&asked)?;
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let reader = edge.lake.journal().reader().clone();
    let page = web::block(move || {
        let mut found = Vec::new();
        let mut after = asked.after.unwrap_or(0);
        let mut looked_at = 0;
        loop {
            let records = reader.scan(after, SCAN_STEP.min(SCAN_MAX - looked_at))?;
            let Some(last) = records.last() else {
                return Ok((found, None));
            };
            let end = last.seq;
            looked_at += records.len();
            for record in records {
                after = record.seq;
                if wanted.takes(&record) {
                    found.push(event(&record));
                    if found.len() == limit {
                        return Ok((found, Some(after)));
                    }
                }
            }
            after = end;
            if looked_at >= SCAN_MAX {
                return Ok((found, Some(after)));
            }
        }
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    let (items, next) =
        page.map_err(|error: lakehouse_journal::log::LogError| Problem::from(error))?;
    Ok(HttpResponse::Ok().json(json!({ "items": items, "next": next })))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct HistoryQuery {
    dataset: Option<String>,
    after: Option<Seq>,
    limit: Option<usize>,
}

/// Every event that touched a row key, dataset, index, bucket or token, oldest first.
#[utoipa::path(get, path = "/journal/history/{key}", tag = "journal",
    params(("key" = String, Path), ("dataset" = Option<String>, Query), ("after" = Option<u64>, Query), ("limit" = Option<usize>, Query)),
    responses((status = 200, description = "{items: [event], next}")))]
pub async fn history(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    key: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: HistoryQuery = query(&request)?;
    let subjects = subjects_of(&edge, &key, asked.dataset.as_deref());
    let limit = asked.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX);
    let after = asked.after.unwrap_or(0);
    let reader = edge.lake.journal().reader().clone();
    let found = web::block(move || {
        let mut records = Vec::new();
        for subject in subjects {
            records.extend(reader.history(&subject, after, limit + 1, Order::OldestFirst)?);
        }
        Ok::<_, lakehouse_journal::log::LogError>(records)
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    let mut records = found?;
    records.sort_by_key(|record| record.seq);
    records.dedup_by_key(|record| record.seq);
    let more = records.len() > limit;
    records.truncate(limit);
    let next = more
        .then(|| records.last().map(|record| record.seq))
        .flatten();
    let items: Vec<Value> = records.iter().map(event).collect();
    Ok(HttpResponse::Ok().json(json!({ "items": items, "next": next })))
}

/// What a key may name: a row of the given dataset, or anything else of that name.
fn subjects_of(edge: &Edge, key: &str, dataset: Option<&str>) -> Vec<String> {
    let catalog = edge.lake.catalog();
    let named = |name: &str| {
        let known = catalog.state.datasets.get(name);
        let own = known.and_then(|dataset| row_name(dataset, key).ok());
        own.unwrap_or_else(|| key.to_owned())
    };
    if let Some(dataset) = dataset {
        let own = named(dataset);
        // A dataset may ask that its keys stand in the journal as hashes only.
        return vec![
            format!("row:{dataset}:{key}"),
            format!("row:{dataset}:{}", edge.lake.key_hash(&own)),
            format!("row:{dataset}:{own}"),
        ];
    }
    let rows = catalog
        .state
        .datasets
        .keys()
        .map(|dataset| format!("row:{dataset}:{}", named(dataset)));
    ["dataset", "index", "bucket", "token", "tool", "trigger"]
        .into_iter()
        .map(|kind| format!("{kind}:{key}"))
        .chain([key.to_owned()])
        .chain(rows)
        .collect()
}

/// New events as they happen; resumes with `Last-Event-ID`.
#[utoipa::path(get, path = "/journal/stream", tag = "journal", params(("after" = Option<u64>, Query)),
    responses((status = 200, description = "server-sent events", content_type = "text/event-stream")))]
pub async fn stream(
    edge: web::Data<Edge>,
    _: May<ReadJournal>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: EventQuery = query(&request)?;
    let resumed = request
        .headers()
        .get("last-event-id")
        .and_then(|id| id.to_str().ok()?.parse().ok());
    let reader = edge.lake.journal().reader().clone();
    let mut after: Seq = resumed
        .or(asked.after)
        .unwrap_or_else(|| reader.stats().events);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(16);
    tokio::spawn(async move {
        let mut idle = 0;
        loop {
            let source = reader.clone();
            let read = tokio::task::spawn_blocking(move || source.scan(after, PAGE)).await;
            let Ok(Ok(records)) = read else { return };
            idle = if records.is_empty() { idle + 1 } else { 0 };
            let mut text = String::new();
            for record in &records {
                after = record.seq;
                let data = event(record);
                let _ = write!(
                    text,
                    "id: {after}\nevent: {}\ndata: {data}\n\n",
                    record.draft.kind
                );
            }
            if idle == STREAM_IDLE_LOOKS {
                idle = 0;
                text.push_str(": alive\n\n");
            }
            if !text.is_empty() && sender.send(Bytes::from(text)).await.is_err() {
                return;
            }
            if sender.is_closed() {
                return;
            }
            if records.len() < PAGE {
                tokio::time::sleep(STREAM_EVERY).await;
            }
        }
    });
    let body = ReceiverStream::new(receiver).map(Ok::<_, Problem>);
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header(("cache-control", "no-store"))
        .streaming(body))
}

/// Counts and sizes.
#[utoipa::path(get, path = "/journal/stats", tag = "journal",
    responses((status = 200, description = "{events, bytes, segments, last_snapshot_seq, replay_ms}")))]
pub async fn stats(edge: web::Data<Edge>, _: May<ReadJournal>) -> HttpResponse {
    let journal = edge.lake.journal();
    let stats = journal.reader().stats();
    let snapshot = journal
        .snapshots()
        .and_then(|store| store.all().ok()?.into_iter().max());
    HttpResponse::Ok().json(json!({
        "events": stats.events,
        "bytes": stats.bytes,
        "segments": stats.segments,
        "last_snapshot_seq": snapshot,
        "replay_ms": edge.replay_ms,
        "index": {
            "generation": stats.generation,
            "seq": stats.indexed_seq,
            "healthy": stats.index_healthy,
            "rebuilds": stats.index_rebuilds,
        },
    }))
}

/// Recomputes every hash, replays everything and compares with the live state.
#[utoipa::path(post, path = "/journal/verify", tag = "journal",
    responses((status = 200, description = "{ok, checked, first_bad_seq?, state_hash_live, state_hash_replayed}")))]
pub async fn verify(edge: web::Data<Edge>, _: May<ReadJournal>) -> Result<HttpResponse, Problem> {
    let lake = edge.lake.clone();
    let (chain, state) = web::block(move || {
        let chain = lake.journal().reader().verify();
        (chain, lake.verify_state())
    })
    .await
    .map_err(|error| Problem::internal(&error))?;
    let chain = chain?;
    let state = state.map_err(|error| Problem::internal(&error))?;
    Ok(HttpResponse::Ok().json(json!({
        "ok": chain.ok && state.ok,
        "checked": chain.checked,
        "first_bad_seq": chain.first_bad_seq,
        "detail": chain.detail,
        "state_hash_live": state.live,
        "state_hash_replayed": state.replayed,
        "differing": state.differing,
    })))
}

/// An event as the contract shows it.
fn event(record: &Record) -> Value {
    let draft = &record.draft;
    json!({
        "seq": record.seq,
        "at": times::text(draft.at),
        "kind": draft.kind,
        "version": draft.schema,
        "actor": { "name": draft.actor.name, "role": draft.actor.role },
        "request_id": draft.request_id,
        "subjects": draft.subjects,
        "data": draft.data,
        "hash": blake3::Hash::from_bytes(record.hash).to_hex().as_str(),
    })
}
