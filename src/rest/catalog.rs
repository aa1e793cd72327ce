//! Datasets: what there is, how it is described, which rows are deleted for good.

use std::collections::BTreeMap;

use actix_web::{HttpRequest, HttpResponse, http::StatusCode, web};
use lakehouse_actors::{Trigger, ports::IndexBuilder as _};
use lakehouse_journal::{
    model::catalog::{
        CatalogCommand, CompactionPolicy, Dataset, DropDataset, EmbeddingSpec, ErasedKeys,
        JournalKeys, PatchDataset, RefreshPolicy, Sensitivity,
    },
    record::Seq,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Delete, May, Permission, ReadCatalog, Write, ceiling},
    body::{Body, KEYS_BYTES_MAX, query},
    deletion::column_denied,
    problem::Problem,
    row_keys::row_key,
    times,
};

/// Steps of its lineage that a manifest shows: a dataset that is written to for a year has half a million.
const LINEAGE_SHOWN: usize = 100;
/// Most keys of one tombstone call.
const ROW_KEYS_MAX: usize = 1_000_000;
/// Entries of a page unless asked otherwise.
const PAGE: usize = 100;
/// Most entries of a page.
const PAGE_MAX: usize = 10_000;

/// `/catalog/datasets…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/catalog/datasets", web::get().to(list))
        .service(
            web::resource("/catalog/datasets/{name}")
                .route(web::get().to(show))
                .route(web::patch().to(patch))
                .route(web::delete().to(remove)),
        )
        .service(
            web::resource("/catalog/datasets/{name}/tombstone")
                .route(web::post().to(tombstone))
                .route(web::get().to(tombstones)),
        )
        .route("/catalog/datasets/{name}/compact", web::post().to(compact));
}

/// How a list is cut into pages.
#[derive(Debug, Deserialize)]
pub struct Page {
    limit: Option<usize>,
    after: Option<String>,
}

impl Page {
    /// The cursor to go on from.
    pub fn after(&self) -> Option<&str> {
        self.after.as_deref()
    }

    /// Entries to answer with.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE).clamp(1, PAGE_MAX)
    }
}

/// A page of entries that are named by `cursor`, with the way to the next.
pub fn page(mut entries: Vec<(String, Value)>, limit: usize) -> Value {
    let more = entries.len() > limit;
    entries.truncate(limit);
    let next = more
        .then(|| entries.last().map(|(cursor, _)| cursor.clone()))
        .flatten();
    let items: Vec<Value> = entries.into_iter().map(|(_, value)| value).collect();
    json!({ "items": items, "next": next })
}

/// Every dataset's manifest.
#[utoipa::path(get, path = "/catalog/datasets", tag = "catalog",
    params(("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [manifest], next}"), (status = 401, body = Problem)))]
pub async fn list(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let entries = catalog
        .state
        .datasets
        .iter()
        .filter(|(name, _)| asked.after.as_ref().is_none_or(|after| *name > after))
        .take(asked.limit() + 1)
        .map(|(name, dataset)| (name.clone(), manifest(dataset)))
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// A dataset's manifest.
#[utoipa::path(get, path = "/catalog/datasets/{name}", tag = "catalog",
    params(("name" = String, Path)),
    responses((status = 200, description = "the manifest"), (status = 404, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    _: May<ReadCatalog>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let catalog = edge.lake.catalog();
    Ok(HttpResponse::Ok().json(manifest(catalog.state.dataset(&name)?)))
}

/// What may be changed of a dataset.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    description: Option<String>,
    owner: Option<String>,
    tags: Option<Vec<String>>,
    #[serde(default)]
    sensitivity: BTreeMap<String, Sensitivity>,
    embedding_refresh_policy: Option<RefreshPolicy>,
    embedding: Option<EmbeddingSpec>,
    erased_keys: Option<ErasedKeys>,
    journal_keys: Option<JournalKeys>,
    compaction: Option<CompactionPolicy>,
    min_group_size: Option<u64>,
}

/// Describes a dataset or sets its policies.
#[utoipa::path(patch, path = "/catalog/datasets/{name}", tag = "catalog",
    params(("name" = String, Path)),
    responses((status = 200, description = "the manifest, with `journal_seq`"),
        (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn patch(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
    body: Body<Changes>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let changes = body.value;
    if let Some(policy) = &changes.compaction {
        check_compaction(policy)?;
    }
    if let Some(policy) = &changes.embedding_refresh_policy {
        check_refresh(policy)?;
    }
    if let Some(embedding) = &changes.embedding {
        let catalog = edge.lake.catalog();
        let spec = edge
            .indexes
            .index_of(catalog.state.dataset(&name)?, embedding)
            .await?;
        edge.lake.known_bucket(&spec.bucket)?;
    }
    let command = CatalogCommand::PatchDataset(PatchDataset {
        dataset: name.to_string(),
        description: changes.description,
        owner: changes.owner,
        tags: changes.tags,
        sensitivity: changes.sensitivity,
        embedding_refresh_policy: changes.embedding_refresh_policy,
        embedding: changes.embedding,
        erased_keys: changes.erased_keys,
        journal_keys: changes.journal_keys,
        compaction: changes.compaction,
        min_group_size: changes.min_group_size,
    });
    let committed = edge.lake.ask_catalog(command, caller).await?;
    let catalog = edge.lake.catalog();
    let mut answer = manifest(catalog.state.dataset(&name)?);
    answer["journal_seq"] = json!(committed.seq);
    Ok(HttpResponse::Ok().json(answer))
}

/// Refuses a policy that would never do anything, or always.
fn check_compaction(policy: &CompactionPolicy) -> Result<(), Problem> {
    let refuse = |text: String| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Err(Problem::new(status, "impossible", text))
    };
    if policy.small_files.is_some_and(|files| files < 2) {
        return refuse("`compaction.small_files` must be 2 or more: one file is not merged".into());
    }
    if policy
        .deleted_per_mille
        .is_some_and(|share| !(1..=1000).contains(&share))
    {
        return refuse("`compaction.deleted_per_mille` must be 1 to 1000".into());
    }
    if policy.small_file_bytes == Some(0) {
        return refuse("`compaction.small_file_bytes` must be above 0".into());
    }
    match policy
        .schedule
        .as_deref()
        .map(|cron| Trigger::new("compaction", cron))
    {
        Some(Err(error)) => refuse(format!("`compaction.schedule`: {error}")),
        _ => Ok(()),
    }
}

/// Refuses times that are none, so that a policy which is set is carried out.
fn check_refresh(policy: &RefreshPolicy) -> Result<(), Problem> {
    let RefreshPolicy::Scheduled(times) = policy else {
        return Ok(());
    };
    match Trigger::in_zone("refresh", &times.cron, times.time_zone.as_deref()) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = format!("`embedding_refresh_policy`: {error}");
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            Err(Problem::new(status, "impossible", text))
        }
    }
}

#[derive(Debug, Deserialize)]
struct Cascade {
    #[serde(default)]
    cascade: bool,
}

/// Removes a dataset; its indexes only with `?cascade=true`.
#[utoipa::path(delete, path = "/catalog/datasets/{name}", tag = "catalog",
    params(("name" = String, Path), ("cascade" = Option<bool>, Query)),
    responses((status = 200, description = "{dataset, journal_seq}"),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn remove(
    edge: web::Data<Edge>,
    may: May<Delete>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Cascade = query(&request)?;
    let command = CatalogCommand::DropDataset(DropDataset {
        dataset: name.to_string(),
        cascade: asked.cascade,
    });
    let committed = edge.lake.ask_catalog(command, may.caller(&[])).await?;
    edge.indexes.forget_dropped(&edge.lake.catalog().state);
    Ok(HttpResponse::Ok().json(json!({ "dataset": *name, "journal_seq": committed.seq })))
}

/// Rows to delete.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tombstone {
    row_keys: Vec<Value>,
    reason: String,
    actor: Option<String>,
}

/// Deletes rows for good.
#[utoipa::path(post, path = "/catalog/datasets/{name}/tombstone", tag = "catalog",
    params(("name" = String, Path)),
    responses((status = 200, description = "{requested, tombstoned, missing, journal_seq}"),
        (status = 400, body = Problem), (status = 404, body = Problem), (status = 422, body = Problem)))]
pub async fn tombstone(
    edge: web::Data<Edge>,
    may: May<Delete>,
    name: web::Path<String>,
    body: Body<Tombstone, KEYS_BYTES_MAX>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    if asked.row_keys.is_empty() || asked.row_keys.len() > ROW_KEYS_MAX {
        return Err(Problem::invalid(format!(
            "`row_keys` must have 1 to {ROW_KEYS_MAX} keys"
        )));
    }
    if asked.reason.trim().is_empty() {
        return Err(Problem::invalid("`reason` must say why"));
    }
    let catalog = edge.lake.catalog();
    let dataset = catalog.state.dataset(&name)?;
    let mut keys = asked
        .row_keys
        .iter()
        .map(|key| row_key(dataset, key))
        .collect::<Result<Vec<_>, _>>()?;
    let requested = keys.len();
    keys.sort_unstable();
    keys.dedup();
    let done = edge
        .lake
        .tombstone(&name, &keys, asked.reason, asked.actor, caller)
        .await?;
    let rows = done.rows.len() as u64;
    edge.metrics
        .rows_tombstoned
        .fetch_add(rows, std::sync::atomic::Ordering::Relaxed);
    Ok(HttpResponse::Ok().json(json!({
        "requested": requested,
        "tombstoned": done.rows.len(),
        "missing": done.missing,
        "journal_seq": done.committed.seq,
    })))
}

/// Rows that were deleted, in the order of their keys.
#[utoipa::path(get, path = "/catalog/datasets/{name}/tombstone", tag = "catalog",
    params(("name" = String, Path), ("limit" = Option<usize>, Query), ("after" = Option<String>, Query)),
    responses((status = 200, description = "{items: [{row_key, deleted_at, actor, reason, journal_seq, materialized}], next}"),
        (status = 404, body = Problem)))]
pub async fn tombstones(
    edge: web::Data<Edge>,
    may: May<ReadCatalog>,
    name: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: Page = query(&request)?;
    let catalog = edge.lake.catalog();
    let dataset = catalog.state.dataset(&name)?;
    // Who reads the journal finds the keys there; others see those of columns that they see.
    let is_hidden = |column: &&String| {
        let ceiling = ceiling(may.token.role);
        ceiling.is_some_and(|ceiling| dataset.class(column) > ceiling.class)
    };
    if !may.also(Permission::ReadJournal)
        && let Some(column) = dataset.key.iter().find(is_hidden)
    {
        return Err(column_denied(column));
    }
    let entries = dataset
        .tombstones_after(asked.after.as_deref())
        .take(asked.limit() + 1)
        .map(|tombstone| {
            let batch = tombstone.batch;
            let entry = json!({
                "row_key": tombstone.row_key,
                "deleted_at": times::text(batch.at),
                "actor": batch.on_behalf_of.as_ref().unwrap_or(&batch.actor.name),
                "reason": batch.reason,
                "journal_seq": tombstone.seq,
                "materialized": tombstone.seq <= dataset.materialized_seq,
            });
            (tombstone.row_key.to_owned(), entry)
        })
        .collect();
    Ok(HttpResponse::Ok().json(page(entries, asked.limit())))
}

/// Rewrites a dataset's files without the rows that are gone.
#[utoipa::path(post, path = "/catalog/datasets/{name}/compact", tag = "catalog",
    params(("name" = String, Path)),
    responses((status = 200, description = "{files, rows, bytes: {before, after}, tombstones_materialized, journal_seq}"),
        (status = 404, body = Problem)))]
pub async fn compact(
    edge: web::Data<Edge>,
    may: May<Write>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let done = edge.lake.compact(&name, may.caller(&[])).await?;
    let catalog = edge.lake.catalog();
    let dataset = catalog.state.dataset(&name)?;
    let (files, rows, bytes) = (
        dataset.files.len() as u64,
        dataset.row_count(),
        dataset.bytes(),
    );
    let pair = |before: u64, after: u64| json!({ "before": before, "after": after });
    let change = done.change;
    Ok(HttpResponse::Ok().json(json!({
        "files": change.map_or(pair(files, files), |c| pair(c.files_before, c.files_after)),
        "rows": change.map_or(pair(rows, rows), |c| pair(c.rows_before, c.rows_after)),
        "bytes": change.map_or(pair(bytes, bytes), |c| pair(c.bytes_before, c.bytes_after)),
        "tombstones_materialized": change.map_or(0, |c| c.erased_dropped),
        "rows_dropped": change.map_or(0, |c| c.rows_dropped),
        "journal_seq": done.seq,
    })))
}

/// A dataset as the contract shows it.
pub fn manifest(dataset: &Dataset) -> Value {
    let schema: Vec<Value> = dataset
        .schema
        .columns
        .iter()
        .map(|column| {
            let proposal = dataset.proposals.get(&column.name);
            json!({
                "name": column.name,
                "type": column.data_type,
                "nullable": column.nullable,
                "sensitivity": dataset.class(&column.name),
                "proposed": proposal,
            })
        })
        .collect();
    let files: Vec<Value> = dataset
        .files
        .iter()
        .map(|file| {
            json!({
                "bucket": file.entry.bucket,
                "key": file.entry.key,
                "rows": file.entry.rows,
                "bytes": file.entry.bytes,
                "deleted_rows": file.deleted.len(),
                "blake3": file.entry.blake3,
            })
        })
        .collect();
    json!({
        "name": dataset.name,
        "id": dataset.id,
        "schema": schema,
        "key": dataset.key,
        "row_count": dataset.row_count(),
        "bytes": dataset.bytes(),
        "files": files,
        "schema_fingerprint": dataset.schema.fingerprint,
        "lineage": lineage(dataset),
        "lineage_steps": dataset.lineage.len(),
        "created_at": times::text(dataset.created_at),
        "updated_at": times::text(dataset.updated_at),
        "owner": dataset.owner,
        "description": dataset.description,
        "tags": dataset.tags,
        "bucket": dataset.bucket,
        "last_embedded_at": times::maybe(dataset.last_embedded_at),
        "embedding_stale_since": times::maybe(dataset.embedding_stale_since),
        "embedding_refresh_policy": dataset.embedding_refresh_policy,
        "embedding": dataset.embedding,
        "erased_keys": dataset.erased_keys,
        "journal_keys": dataset.journal_keys,
        "compaction": dataset.compaction,
        "min_group_size": dataset.min_group_size,
        "as_of_from": dataset.history_from,
        "retained_files": dataset.retained.len(),
    })
}

/// The newest steps, the oldest of them first; the journal has all.
fn lineage(dataset: &Dataset) -> Vec<Value> {
    let older = dataset.lineage.len().saturating_sub(LINEAGE_SHOWN);
    dataset
        .lineage
        .iter()
        .skip(older)
        .map(|step| {
            json!({
                "source": format!("{}:{}", step.source.kind, step.source.name),
                "mode": step.mode,
                "rows": step.rows,
                "content_hash": step.source.content_hash,
                "watermark": step.source.watermark,
                "at": times::text(step.at),
                "journal_seq": step.journal_seq as Seq,
            })
        })
        .collect()
}
