//! Buckets: which there are, whether they answer, and the objects in them.
//!
//! The lakehouse's own objects are readable by an administrator only. Nothing is written here:
//! what changes a bucket is an event, and objects of others have none in this version.

use actix_web::{
    HttpRequest, HttpResponse,
    body::SizedStream,
    http::{StatusCode, header},
    web,
};
use futures::{StreamExt, TryStreamExt};
use lakehouse_actors::ports::BucketStore;
use lakehouse_journal::model::{bucket::BucketSpec, catalog::OwnObject};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Edge,
    auth::{May, Needs, Permission, ReadCatalog, ReadData},
    body::query,
    problem::Problem,
};
use crate::engines::{
    buckets::{of_bucket, of_store},
    object_store::check_key,
};

/// Objects of a listing unless asked otherwise.
const PAGE: usize = 1000;
/// Folders that are the lakehouse's own.
const OWN_PREFIXES: [&str; 6] = [
    "_catalog/",
    "_journal/",
    "_probe/",
    "datasets/",
    "vectors/",
    ".staging/",
];

/// `/storage/…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/storage/buckets", web::get().to(buckets))
        .route("/storage/bucket-health", web::get().to(health))
        .route("/storage/buckets/{bucket}/objects", web::get().to(list))
        .service(
            web::resource("/storage/buckets/{bucket}/objects/{key:.*}")
                .route(web::get().to(read))
                .route(web::head().to(head)),
        );
}

/// Every bucket.
#[utoipa::path(get, path = "/storage/buckets", tag = "storage",
    responses((status = 200, description = "[{name, backend, rescue_bucket, reachable, role}]")))]
pub async fn buckets(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let mut shown = Vec::new();
    for (name, spec) in edge.lake.buckets() {
        let (backend, rescue) = match &spec {
            BucketSpec::Local { rescue_bucket, .. } => ("local", rescue_bucket),
            BucketSpec::S3 { rescue_bucket, .. } => ("s3", rescue_bucket),
        };
        shown.push(json!({
            "name": name,
            "backend": backend,
            "rescue_bucket": rescue,
            "reachable": edge.store.probe(&name).await.is_ok(),
            "role": if name == edge.lake.primary() { "primary" } else { "data" },
        }));
    }
    HttpResponse::Ok().json(shown)
}

/// Probes every bucket now: writes, reads and removes a small object.
#[utoipa::path(get, path = "/storage/bucket-health", tag = "storage",
    responses((status = 200, description = "[{bucket, reachable, latency_ms, errors_last_hour, last_error}]")))]
pub async fn health(edge: web::Data<Edge>, _: May<ReadCatalog>) -> HttpResponse {
    let mut shown = Vec::new();
    for name in edge.lake.buckets().into_keys() {
        let probed = edge.store.probe(&name).await;
        let latency_ms = probed.as_ref().ok().map(|took| took.as_secs_f64() * 1000.0);
        shown.push(json!({
            "bucket": name,
            "reachable": probed.is_ok(),
            "latency_ms": latency_ms,
            "errors_last_hour": edge.store.errors_last_hour(&name),
            "last_error": edge.store.last_error(&name),
        }));
    }
    HttpResponse::Ok().json(shown)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    prefix: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

/// Objects below a prefix.
#[utoipa::path(get, path = "/storage/buckets/{bucket}/objects", tag = "storage",
    params(("bucket" = String, Path), ("prefix" = Option<String>, Query)),
    responses((status = 200, description = "[{key, size, last_modified, etag}]"), (status = 404, body = Problem)))]
pub async fn list(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    bucket: web::Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let asked: ListQuery = query(&request)?;
    edge.lake.known_bucket(&bucket)?;
    let store = edge
        .buckets
        .get(&bucket)
        .map_err(|error| of_bucket(&bucket, &error))?
        .store;
    let prefix = match asked
        .prefix
        .as_deref()
        .unwrap_or_default()
        .trim_end_matches('/')
    {
        "" => None,
        prefix => Some(check_key(prefix).map_err(|error| of_bucket(&bucket, &error))?),
    };
    let sees_all = may.also(Permission::Administer);
    let mut objects: Vec<Value> = store
        .list(prefix.as_ref())
        .try_filter(|object| {
            let key = object.location.as_ref();
            let shown = (sees_all || !is_own(key))
                && asked.after.as_deref().is_none_or(|after| key > after);
            std::future::ready(shown)
        })
        .map_ok(|object| {
            json!({
                "key": object.location.as_ref(),
                "size": object.size,
                "last_modified": super::times::text(object.last_modified.timestamp_micros()),
                "etag": object.e_tag,
            })
        })
        .try_collect()
        .await
        .map_err(|error| of_store(&bucket, &error))?;
    objects.sort_by(|a, b| a["key"].as_str().cmp(&b["key"].as_str()));
    objects.truncate(asked.limit.unwrap_or(PAGE));
    Ok(HttpResponse::Ok().json(objects))
}

fn is_own(key: &str) -> bool {
    OWN_PREFIXES
        .iter()
        .any(|own| key.starts_with(own) || *own == format!("{key}/"))
}

/// The key of a request, and whether its caller may read it.
fn readable<P: Needs>(may: &May<P>, bucket: &str, key: &str) -> Result<Path, Problem> {
    let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
    if is_own(path.as_ref()) && !may.also(Permission::Administer) {
        return Err(Problem::not_found("object", key));
    }
    Ok(path)
}

/// A row that was deleted for good is in no answer, and no file that still holds it is one.
fn holds_no_deleted_row(edge: &Edge, bucket: &str, key: &str) -> Result<(), Problem> {
    if !key.starts_with("datasets/") && !key.starts_with("vectors/") {
        return Ok(());
    }
    match edge.lake.catalog().state.own_object(bucket, key) {
        OwnObject::Clean => Ok(()),
        OwnObject::Unknown => Err(Problem::not_found("object", key)),
        OwnObject::HoldsDeletedRows => Err(Problem::new(
            StatusCode::CONFLICT,
            "object_holds_deleted_rows",
            "it holds rows that were deleted for good and is about to be replaced",
        )),
    }
}

/// An object's bytes.
#[utoipa::path(get, path = "/storage/buckets/{bucket}/objects/{key}", tag = "storage",
    params(("bucket" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "bytes", content_type = "application/octet-stream"), (status = 404, body = Problem),
        (status = 409, body = Problem)))]
pub async fn read(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (bucket, key) = path.into_inner();
    edge.lake.known_bucket(&bucket)?;
    let key = readable(&may, &bucket, &key)?;
    holds_no_deleted_row(&edge, &bucket, key.as_ref())?;
    let store = edge
        .buckets
        .get(&bucket)
        .map_err(|error| of_bucket(&bucket, &error))?
        .store;
    let found = store
        .get(&key)
        .await
        .map_err(|error| of_store(&bucket, &error))?;
    let size = found.meta.size;
    let name = bucket.clone();
    let bytes = found
        .into_stream()
        .map(move |chunk| chunk.map_err(|error| Problem::from(of_store(&name, &error))));
    Ok(HttpResponse::Ok()
        .content_type("application/octet-stream")
        .insert_header(("x-lakehouse-bucket", bucket))
        .no_chunking(size)
        .streaming(bytes))
}

/// Whether an object is there, and its size.
#[utoipa::path(head, path = "/storage/buckets/{bucket}/objects/{key}", tag = "storage",
    params(("bucket" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "Content-Length"), (status = 404, description = "not there")))]
pub async fn head(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (bucket, key) = path.into_inner();
    edge.lake.known_bucket(&bucket)?;
    let key = readable(&may, &bucket, &key)?;
    let store = edge
        .buckets
        .get(&bucket)
        .map_err(|error| of_bucket(&bucket, &error))?
        .store;
    let meta = store
        .head(&key)
        .await
        .map_err(|error| of_store(&bucket, &error))?;
    // A HEAD says how large the body would be; none of it is sent.
    let no_bytes = futures::stream::empty::<Result<web::Bytes, Problem>>();
    Ok(HttpResponse::Ok()
        .insert_header((header::LAST_MODIFIED, meta.last_modified.to_rfc2822()))
        .insert_header(("x-lakehouse-bucket", bucket))
        .body(SizedStream::new(meta.size, no_bytes)))
}
