//! Objects of a bucket: listed, read, and, where they are not the lakehouse's own, written and removed.
//! A read that fails is tried on the rescue bucket and says so; a write is never sent elsewhere.

use actix_web::{
    HttpRequest, HttpResponse, body::SizedStream, http::StatusCode, http::header, web,
};
use futures::{StreamExt, TryStreamExt};
use lakehouse_actors::ports::BucketStore;
use lakehouse_journal::model::{
    ModelError,
    bucket::BucketCommand,
    catalog::OwnObject,
    event::{ObjectRemoved, ObjectStored},
};
use object_store::{ObjectStore, ObjectStoreExt, path::Path};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::{
    engines::{
        buckets::{of_bucket, of_store},
        object_store::{Bucket, RescueUse, check_key},
    },
    rest::{
        Edge,
        auth::{May, Needs, Permission, ReadData, Write},
        body::query,
        problem::Problem,
        times,
    },
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

/// `/storage/buckets/{bucket}/objects…`
pub fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/storage/buckets/{bucket}/objects", web::get().to(list))
        .service(
            web::resource("/storage/buckets/{bucket}/objects/{key:.*}")
                .route(web::get().to(read))
                .route(web::head().to(head))
                .route(web::put().to(write))
                .route(web::delete().to(remove)),
        );
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ListQuery {
    prefix: Option<String>,
    limit: Option<usize>,
    after: Option<String>,
}

fn bucket_of(edge: &Edge, name: &str) -> Result<Bucket, Problem> {
    edge.lake.known_bucket(name)?;
    let opened = edge.buckets.get(name);
    Ok(opened.map_err(|error| of_bucket(name, &error))?)
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
    let store = bucket_of(&edge, &bucket)?.store;
    let asked_prefix = asked.prefix.as_deref().unwrap_or_default();
    let prefix = match asked_prefix.trim_end_matches('/') {
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
                "last_modified": times::text(object.last_modified.timestamp_micros()),
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

/// Whether a key is one of the lakehouse's own.
pub(in crate::rest) fn is_own(key: &str) -> bool {
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

/// A row that was deleted for good is in no answer, and no file that still holds it is one; nor is a
/// copy of such a file.
fn holds_no_deleted_row(edge: &Edge, bucket: &str, key: &str) -> Result<(), Problem> {
    let catalog = edge.lake.catalog();
    let mut found = if key.starts_with("datasets/") || key.starts_with("vectors/") {
        catalog.state.own_object(bucket, key)
    } else if catalog.state.holds_erased_rows(bucket, key) {
        OwnObject::HoldsDeletedRows
    } else {
        return Ok(());
    };
    for (other, spec) in edge.lake.buckets() {
        if spec.rescue_bucket() == Some(bucket) && matches!(found, OwnObject::Unknown) {
            found = catalog.state.own_object(&other, key);
        }
    }
    match found {
        OwnObject::Clean => Ok(()),
        OwnObject::Unknown => Err(Problem::not_found("object", key)),
        OwnObject::HoldsDeletedRows => Err(Problem::new(
            StatusCode::CONFLICT,
            "object_holds_deleted_rows",
            "it holds rows that were deleted for good and is about to be replaced",
        )),
    }
}

/// Whether events say that the object is there.
fn is_known(edge: &Edge, bucket: &str, key: &str) -> bool {
    let state = edge.lake.bucket_state(bucket);
    edge.lake.catalog().state.points_at(bucket, key)
        || state.is_some_and(|state| state.objects.contains_key(key))
}

/// Gets an object, from the rescue bucket if need be; and who gave it.
async fn get(
    edge: &Edge,
    bucket: &str,
    key: &Path,
    head: bool,
) -> Result<(object_store::GetResult, Option<String>), Problem> {
    let used = std::sync::Arc::new(RescueUse::default());
    let store = edge
        .buckets
        .with_rescue(bucket, is_known(edge, bucket, key.as_ref()))
        .map_err(|error| of_bucket(bucket, &error))?
        .noting(std::sync::Arc::clone(&used));
    let how = object_store::GetOptions::new().with_head(head);
    let found = store
        .get_opts(key, how)
        .await
        .map_err(|error| of_store(bucket, &error))?;
    let rescued = used.list().pop().map(|(_, by)| by);
    Ok((found, rescued))
}

fn say_who(answer: &mut actix_web::HttpResponseBuilder, bucket: &str, rescued: Option<&str>) {
    answer.insert_header(("x-lakehouse-bucket", rescued.unwrap_or(bucket)));
    if rescued.is_some() {
        answer.insert_header(("x-lakehouse-rescue-used", "true"));
    }
}

/// An object's bytes.
#[utoipa::path(get, path = "/storage/buckets/{bucket}/objects/{key}", tag = "storage",
    params(("bucket" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "bytes; X-Lakehouse-Bucket says who gave them, X-Lakehouse-Rescue-Used that it was the rescue bucket",
        content_type = "application/octet-stream"), (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn read(
    edge: web::Data<Edge>,
    may: May<ReadData>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (bucket, key) = path.into_inner();
    edge.lake.known_bucket(&bucket)?;
    let key = readable(&may, &bucket, &key)?;
    holds_no_deleted_row(&edge, &bucket, key.as_ref())?;
    let (found, rescued) = get(&edge, &bucket, &key, false).await?;
    let (size, name) = (found.meta.size, bucket.clone());
    let bytes = found
        .into_stream()
        .map(move |chunk| chunk.map_err(|error| Problem::from(of_store(&name, &error))));
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/octet-stream");
    say_who(&mut answer, &bucket, rescued.as_deref());
    Ok(answer.no_chunking(size).streaming(bytes))
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
    let (found, rescued) = get(&edge, &bucket, &key, true).await?;
    // A HEAD says how large the body would be; none of it is sent.
    let no_bytes = futures::stream::empty::<Result<web::Bytes, Problem>>();
    let modified = found.meta.last_modified.to_rfc2822();
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::LAST_MODIFIED, modified));
    say_who(&mut answer, &bucket, rescued.as_deref());
    Ok(answer.body(SizedStream::new(found.meta.size, no_bytes)))
}

/// The key of a write: none of the lakehouse's own, and nothing that a dataset is made of.
fn writable(edge: &Edge, bucket: &str, key: &str) -> Result<Path, Problem> {
    let path = check_key(key).map_err(|error| of_bucket(bucket, &error))?;
    if is_own(path.as_ref()) {
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "key_reserved",
            "keys of the lakehouse's own are written by nobody",
        ));
    }
    if edge.lake.catalog().state.points_at(bucket, path.as_ref())
        || edge.lake.is_copied_to(bucket, path.as_ref())
    {
        let by = vec!["a dataset, or as another bucket's copy".to_owned()];
        let name = path.to_string();
        let what = "object";
        return Err(ModelError::InUse { what, name, by }.into());
    }
    Ok(path)
}

/// Puts an object: a new one, or the same bytes again.
#[utoipa::path(put, path = "/storage/buckets/{bucket}/objects/{key}", tag = "storage",
    params(("bucket" = String, Path), ("key" = String, Path)),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 200, description = "{bucket, key, bytes, blake3, journal_seq}"), (status = 403, body = Problem),
        (status = 409, body = Problem), (status = 413, body = Problem), (status = 503, body = Problem)))]
pub async fn write(
    edge: web::Data<Edge>,
    may: May<Write>,
    path: web::Path<(String, String)>,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let (bucket, key) = path.into_inner();
    let opened = bucket_of(&edge, &bucket)?;
    let key = writable(&edge, &bucket, &key)?;
    let (staged, bytes, hash) = receive(&edge, payload).await?;
    let blake3 = hash.to_hex().to_string();
    let put = if bytes == 0 {
        opened.put_if_absent(&key, web::Bytes::new()).await
    } else {
        opened.put_file(staged.to_path_buf(), key.as_ref()).await
    };
    put.map_err(|error| of_store(&bucket, &error))?;
    let command = BucketCommand::StoreObject(ObjectStored {
        bucket: bucket.clone(),
        key: key.to_string(),
        bytes,
        blake3: blake3.clone(),
    });
    let caller = may.caller(blake3.as_bytes());
    let committed = edge.lake.ask_bucket(&bucket, command, caller).await?;
    Ok(HttpResponse::Ok()
        .insert_header(("x-lakehouse-bucket", bucket.clone()))
        .json(json!({
            "bucket": bucket,
            "key": key.as_ref(),
            "bytes": bytes,
            "blake3": blake3,
            "journal_seq": committed.seq,
        })))
}

/// A body as a file in staging, its size and its hash.
async fn receive(
    edge: &Edge,
    mut payload: web::Payload,
) -> Result<(tempfile::TempPath, u64, blake3::Hash), Problem> {
    let internal = |error: std::io::Error| Problem::internal(&error);
    let staged = tempfile::Builder::new()
        .prefix("object-")
        .tempfile_in(edge.config.data_dir.join("staging"))
        .map_err(internal)?
        .into_temp_path();
    let mut file = tokio::fs::File::create(&staged).await.map_err(internal)?;
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    let limit = edge.config.ingest.body_limit.0;
    while let Some(chunk) = payload.next().await {
        let chunk = chunk.map_err(|_| Problem::invalid("the body broke off"))?;
        bytes += chunk.len() as u64;
        if bytes > limit {
            let text = format!("an object may have {limit} bytes");
            let status = StatusCode::PAYLOAD_TOO_LARGE;
            return Err(Problem::new(status, "body_too_large", text));
        }
        hasher.update(&chunk);
        file.write_all(&chunk).await.map_err(internal)?;
    }
    file.flush().await.map_err(internal)?;
    Ok((staged, bytes, hasher.finalize()))
}

/// Removes an object, and its copy in the rescue bucket.
#[utoipa::path(delete, path = "/storage/buckets/{bucket}/objects/{key}", tag = "storage",
    params(("bucket" = String, Path), ("key" = String, Path)),
    responses((status = 200, description = "{bucket, key, journal_seq}"), (status = 403, body = Problem),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn remove(
    edge: web::Data<Edge>,
    may: May<Write>,
    path: web::Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let (bucket, key) = path.into_inner();
    let opened = bucket_of(&edge, &bucket)?;
    let key = writable(&edge, &bucket, &key)?;
    let there = opened.store.head(&key).await;
    let known = is_known(&edge, &bucket, key.as_ref());
    match there {
        Err(object_store::Error::NotFound { .. }) if known => {}
        other => drop(other.map_err(|error| of_store(&bucket, &error))?),
    }
    // First nothing points at it, then it goes.
    let command = BucketCommand::RemoveObject(ObjectRemoved {
        bucket: bucket.clone(),
        key: key.to_string(),
    });
    let caller = may.caller(&[]);
    let committed = edge.lake.ask_bucket(&bucket, command, caller).await?;
    edge.store.delete(&bucket, key.as_ref()).await?;
    Ok(HttpResponse::Ok().json(json!({
        "bucket": bucket,
        "key": key.as_ref(),
        "journal_seq": committed.seq,
    })))
}
