//! Buckets: which there are, where new ones are, and whether they answer. Objects and the error journal
//! are served by the files beside this one.

pub mod errors;
pub mod objects;

use std::path::{Component, Path, PathBuf};

use actix_web::{HttpResponse, http::StatusCode, web};
use futures::future::join_all;
use lakehouse_actors::ports::BucketStore;
use lakehouse_journal::model::{
    ModelError,
    bucket::{BucketCommand, BucketSpec},
    error::check_name,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{Administer, May, ReadCatalog},
    body::Body,
    problem::Problem,
    times,
};
use crate::{config::Backend, engines::buckets::of_bucket};

/// `/storage/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .service(
            web::resource("/storage/buckets")
                .route(web::get().to(buckets))
                .route(web::post().to(register)),
        )
        .route("/storage/bucket-health", web::get().to(health))
        .configure(errors::routes)
        .configure(objects::routes)
        .route("/storage/buckets/{name}", web::delete().to(unregister));
}

/// What a bucket is to the daemon.
fn role(edge: &Edge, name: &str) -> &'static str {
    if name == edge.lake.primary() {
        return "primary";
    }
    let buckets = edge.lake.buckets();
    let answers = buckets
        .values()
        .any(|spec| spec.rescue_bucket() == Some(name));
    if answers { "rescue" } else { "data" }
}

/// Every bucket.
#[utoipa::path(get, path = "/storage/buckets", tag = "storage",
    responses((status = 200, description = "[{name, backend, rescue_bucket, reachable, role, objects, bytes}]")))]
pub async fn buckets(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let mut shown = Vec::new();
    for (name, spec) in edge.lake.buckets() {
        let backend = match &spec {
            BucketSpec::Local { .. } => "local",
            BucketSpec::S3 { .. } => "s3",
        };
        let (objects, bytes) = held(&edge, &name);
        shown.push(json!({
            "name": name,
            "backend": backend,
            "rescue_bucket": spec.rescue_bucket(),
            "reachable": edge.buckets.get(&name).is_ok_and(|bucket| bucket.health.is_well()),
            "role": role(&edge, &name),
            "objects": objects,
            "bytes": bytes,
        }));
    }
    HttpResponse::Ok().json(shown)
}

/// Objects that events point at in a bucket, and their bytes.
fn held(edge: &Edge, bucket: &str) -> (u64, u64) {
    let (mut objects, mut bytes) = (0, 0);
    let mut add = |size: u64| {
        objects += 1;
        bytes += size;
    };
    let catalog = edge.lake.catalog();
    for dataset in catalog.state.datasets.values() {
        let files = dataset.all_files().map(|file| &file.entry);
        files
            .filter(|file| file.bucket == bucket)
            .for_each(|file| add(file.bytes));
    }
    for index in catalog
        .state
        .indexes
        .values()
        .filter(|index| index.spec.bucket == bucket)
    {
        let files = index.generations.iter().flat_map(|built| &built.files);
        files.for_each(|file| add(file.bytes));
        index.deltas().for_each(|delta| add(delta.file.bytes));
    }
    if let Some(state) = edge.lake.bucket_state(bucket) {
        state.objects.values().for_each(|object| add(object.bytes));
    }
    (objects, bytes)
}

/// Probes every bucket now: writes, reads and removes a small object.
#[utoipa::path(get, path = "/storage/bucket-health", tag = "storage",
    responses((status = 200, description = "[{bucket, reachable, latency_ms, errors_last_hour, last_error, circuit, times_opened, rescue: {bucket, pending, pending_bytes, lag_s, copied, copied_bytes} | null}]")))]
pub async fn health(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let names = edge.lake.buckets().into_keys();
    let shown = join_all(names.map(|name| one_health(&edge, name))).await;
    HttpResponse::Ok().json(shown)
}

async fn one_health(edge: &Edge, name: String) -> Value {
    let probed = edge.store.probe(&name).await;
    let view = edge
        .buckets
        .get(&name)
        .map(|bucket| bucket.health.view())
        .ok();
    let latency_ms = probed.as_ref().ok().map(|took| took.as_secs_f64() * 1000.0);
    let now = edge.lake.now();
    let rescue = edge.lake.rescue_state(&name).map(|state| {
        json!({
            "bucket": state.rescue,
            "pending": state.pending,
            "pending_bytes": state.pending_bytes,
            "pending_since": times::maybe(state.pending_since),
            "lag_s": state.pending_since.map_or(0, |since| (now - since).max(0) / 1_000_000),
            "copied": state.copied,
            "copied_bytes": state.copied_bytes,
        })
    });
    json!({
        "bucket": name,
        "reachable": probed.is_ok(),
        "latency_ms": latency_ms,
        "average_ms": view.as_ref().and_then(|view| view.latency_ms),
        "errors_last_hour": view.as_ref().map_or(0, |view| view.errors_last_hour),
        "last_error": view.as_ref().and_then(|view| view.last_error),
        "circuit": view.as_ref().map(|view| view.circuit.as_str()),
        "times_opened": view.as_ref().map_or(0, |view| view.times_opened),
        "rescue": rescue,
    })
}

/// A bucket to be known from now on.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewBucket {
    name: String,
    backend: Backend,
    root: Option<PathBuf>,
    url: Option<String>,
    region: Option<String>,
    secret: Option<String>,
    path_style: Option<bool>,
    rescue_bucket: Option<String>,
}

/// Registers a bucket at run time.
#[utoipa::path(post, path = "/storage/buckets", tag = "storage",
    responses((status = 200, description = "{name, backend, rescue_bucket, journal_seq}"), (status = 400, body = Problem),
        (status = 403, body = Problem), (status = 409, body = Problem), (status = 422, body = Problem)))]
pub async fn register(
    edge: web::Data<Edge>,
    may: May<Administer>,
    body: Body<NewBucket>,
) -> Result<HttpResponse, Problem> {
    let caller = may.caller(&body.bytes);
    let asked = body.value;
    check_name("bucket", &asked.name)?;
    must_be_data(&edge, &asked.name)?;
    if let Some(rescue) = &asked.rescue_bucket {
        edge.lake.known_bucket(rescue)?;
        if *rescue == asked.name {
            return Err(impossible("a bucket cannot answer for itself"));
        }
    }
    let name = asked.name.clone();
    let spec = spec_of(&edge, asked)?;
    if let Some(there) = edge.lake.buckets().get(&name)
        && !is_same_place(there, &spec)
    {
        return Err(ModelError::Exists {
            what: "bucket",
            name,
        }
        .into());
    }
    // What cannot be opened is refused here; one of the journal is only down.
    edge.store
        .try_open(&name, &spec)
        .map_err(|error| of_bucket(&name, &error))?;
    let rescue = spec.rescue_bucket().map(str::to_owned);
    let command = BucketCommand::Register {
        bucket: name.clone(),
        spec,
    };
    let committed = edge.lake.ask_bucket(&name, command, caller).await?;
    Ok(HttpResponse::Ok().json(json!({
        "name": name,
        "rescue_bucket": rescue,
        "journal_seq": committed.seq,
    })))
}

/// The primary bucket and those that answer for others are the configuration's.
fn must_be_data(edge: &Edge, name: &str) -> Result<(), Problem> {
    match role(edge, name) {
        "data" => Ok(()),
        role => Err(Problem::new(
            StatusCode::FORBIDDEN,
            "bucket_protected",
            format!("bucket `{name}` is the {role} bucket; it changes by configuration only"),
        )),
    }
}

fn impossible(text: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "impossible", text)
}

fn is_same_place(one: &BucketSpec, other: &BucketSpec) -> bool {
    match (one, other) {
        (BucketSpec::Local { root: one, .. }, BucketSpec::Local { root: other, .. }) => {
            one == other
        }
        (
            BucketSpec::S3 {
                url: one,
                region: a,
                ..
            },
            BucketSpec::S3 {
                url: other,
                region: b,
                ..
            },
        ) => one == other && a == b,
        _ => false,
    }
}

fn spec_of(edge: &Edge, asked: NewBucket) -> Result<BucketSpec, Problem> {
    let of_s3 = asked.url.is_some()
        || asked.region.is_some()
        || asked.secret.is_some()
        || asked.path_style.is_some();
    match (asked.backend, asked.root, asked.url) {
        (Backend::Local, Some(root), None) if !of_s3 => Ok(BucketSpec::Local {
            root: free_root(edge, &asked.name, &root)?,
            rescue_bucket: asked.rescue_bucket,
        }),
        (Backend::Local, ..) => Err(Problem::invalid(
            "a local bucket has a `root` and nothing of S3",
        )),
        (Backend::S3, None, Some(url)) => Ok(BucketSpec::S3 {
            url,
            region: asked.region,
            secret: asked.secret,
            path_style: asked.path_style,
            rescue_bucket: asked.rescue_bucket,
        }),
        (Backend::S3, ..) => Err(Problem::invalid("an S3 bucket has a `url` and no `root`")),
    }
}

/// A directory that is nobody's: not the daemon's own, not another bucket's, and round neither.
fn free_root(edge: &Edge, name: &str, root: &Path) -> Result<String, Problem> {
    let data = &edge.config.data_dir;
    let root = data.join(root);
    if root.components().any(|part| part == Component::ParentDir) {
        return Err(impossible("`root` may not go up"));
    }
    let (place, own) = (nearest_real(&root), nearest_real(data));
    let below_own = place.starts_with(&own) && !place.starts_with(own.join("buckets"));
    let overlaps = |other: &Path| place.starts_with(other) || other.starts_with(&place);
    if below_own || own.starts_with(&place) || place == own.join("buckets") {
        return Err(impossible("`root` holds the daemon's own files"));
    }
    for (other, spec) in edge.lake.buckets() {
        if let BucketSpec::Local { root, .. } = &spec
            && other != name
            && overlaps(&nearest_real(Path::new(root)))
        {
            return Err(impossible(format!("`root` overlaps with bucket `{other}`")));
        }
    }
    let text = root.to_str().map(str::to_owned);
    text.ok_or_else(|| Problem::invalid("`root` is no text"))
}

/// The path without links, as far as it is there.
fn nearest_real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut deepest = path;
    loop {
        if let Ok(real) = deepest.canonicalize() {
            return missing
                .iter()
                .rev()
                .fold(real, |path: PathBuf, part| path.join(part));
        }
        match (deepest.parent(), deepest.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name.to_owned());
                deepest = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

/// Forgets a bucket that holds nothing of the lakehouse; its objects stay where they are.
#[utoipa::path(delete, path = "/storage/buckets/{name}", tag = "storage", params(("name" = String, Path)),
    responses((status = 200, description = "{name, journal_seq}"), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 409, body = Problem)))]
pub async fn unregister(
    edge: web::Data<Edge>,
    may: May<Administer>,
    name: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let name = name.into_inner();
    edge.lake.known_bucket(&name)?;
    must_be_data(&edge, &name)?;
    let by = users(&edge, &name);
    if !by.is_empty() {
        let what = "bucket";
        return Err(ModelError::InUse { what, name, by }.into());
    }
    let command = BucketCommand::Unregister {
        bucket: name.clone(),
    };
    let committed = edge
        .lake
        .ask_bucket(&name, command, may.caller(&[]))
        .await?;
    Ok(HttpResponse::Ok().json(json!({ "name": name, "journal_seq": committed.seq })))
}

/// Who has something in a bucket.
fn users(edge: &Edge, bucket: &str) -> Vec<String> {
    let catalog = edge.lake.catalog();
    let datasets = catalog.state.datasets.values().filter(|dataset| {
        dataset.bucket == bucket || dataset.all_files().any(|file| file.entry.bucket == bucket)
    });
    let indexes = catalog
        .state
        .indexes
        .values()
        .filter(|index| index.spec.bucket == bucket);
    let mut users: Vec<String> = datasets
        .map(|dataset| format!("dataset `{}`", dataset.name))
        .chain(indexes.map(|index| format!("index `{}`", index.name)))
        .collect();
    let objects = edge
        .lake
        .bucket_state(bucket)
        .map_or(0, |state| state.objects.len());
    if objects > 0 {
        users.push(format!("{objects} objects"));
    }
    let doomed = catalog
        .state
        .doomed
        .values()
        .filter(|object| object.bucket == bucket)
        .count();
    if doomed > 0 {
        users.push(format!("{doomed} objects that are being deleted"));
    }
    users
}
