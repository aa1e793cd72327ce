//! Buckets that fail: what is counted, what is said of it, and who answers instead.

use bytes::Bytes;

use super::*;
use crate::engines::{errors::ErrorFilter, object_store::CircuitState, secrets::SecretsInOrder};

fn port(buckets: &Arc<Buckets>, staging: &std::path::Path) -> LakeBuckets {
    LakeBuckets::new(
        Arc::clone(buckets),
        Arc::new(SecretsInOrder(Vec::new())),
        EgressPolicy::default(),
        staging.to_owned(),
    )
}

fn local(root: &std::path::Path, rescue: Option<&str>) -> BucketSpec {
    BucketSpec::Local {
        root: root.to_str().unwrap().to_owned(),
        rescue_bucket: rescue.map(str::to_owned),
    }
}

fn errors(buckets: &Buckets) -> Vec<(String, String, bool)> {
    let filter = ErrorFilter {
        limit: 100,
        ..ErrorFilter::default()
    };
    let noted = buckets.errors().list(&filter).into_iter();
    noted
        .map(|noted| (noted.bucket, noted.operation, noted.rescued))
        .collect()
}

#[tokio::test]
async fn failures_of_a_bucket_are_counted_and_a_missing_object_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("primary");
    let buckets = Arc::new(Buckets::new());
    let store = port(&buckets, dir.path());
    store.open("primary", &local(&root, None)).unwrap();
    let health = buckets.get("primary").unwrap().health;
    store.delete("primary", "datasets/none").await.unwrap();
    assert_eq!(health.view().errors_last_hour, 0);
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&root, b"no directory any more").unwrap();
    let error = store.probe("primary").await.unwrap_err().to_string();
    assert_eq!(health.view().errors_last_hour, 1);
    assert!(!error.contains(dir.path().to_str().unwrap()), "{error}");
}

#[tokio::test]
async fn a_bucket_that_fails_in_a_row_counts_as_down_until_looks_go_well() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let buckets = Arc::new(Buckets::new());
    let store = port(&buckets, dir.path());
    store.open("data", &local(&root, None)).unwrap();
    std::fs::remove_dir_all(&root).unwrap();
    std::fs::write(&root, b"in the way").unwrap();
    for _ in 0..3 {
        store.probe("data").await.unwrap_err();
    }
    let health = buckets.get("data").unwrap().health;
    assert_eq!(health.view().circuit, CircuitState::Open);
    let down = store.put_if_absent("data", "x", vec![1]).await.unwrap_err();
    assert_eq!(down.kind, ErrorKind::Unavailable);
    std::fs::remove_file(&root).unwrap();
    std::fs::create_dir_all(root.join(".staging")).unwrap();
    store.probe("data").await.unwrap();
    assert_eq!(health.view().circuit, CircuitState::HalfOpen);
    store.probe("data").await.unwrap();
    store.put_if_absent("data", "x", vec![1]).await.unwrap();
    assert_eq!(health.view().times_opened, 1);
}

#[tokio::test]
async fn a_read_that_fails_is_answered_by_the_rescue_bucket_and_noted_as_rescued() {
    let dir = tempfile::tempdir().unwrap();
    let (root, other) = (dir.path().join("data"), dir.path().join("rescue"));
    let buckets = Arc::new(Buckets::new());
    let store = port(&buckets, dir.path());
    store.open("data", &local(&root, Some("rescue"))).unwrap();
    store.open("rescue", &local(&other, None)).unwrap();
    store
        .put_if_absent("data", "a/b", b"bytes".to_vec())
        .await
        .unwrap();
    let copy = ObjectCopy {
        from: "data".to_owned(),
        to: "rescue".to_owned(),
        key: "a/b".to_owned(),
        bytes: 5,
        blake3: blake3::hash(b"bytes").to_hex().to_string(),
    };
    store.copy(&copy).await.unwrap();
    std::fs::remove_dir_all(root.join("a")).unwrap();
    let read = buckets.rescued("data").unwrap();
    let bytes = read
        .get(&Path::from("a/b"))
        .await
        .unwrap()
        .bytes()
        .await
        .unwrap();
    assert_eq!(bytes, Bytes::from_static(b"bytes"));
    assert_eq!(
        errors(&buckets),
        [("data".to_owned(), "get".to_owned(), true)]
    );
    let plain = buckets.with_rescue("data", false).unwrap();
    plain.get(&Path::from("a/b")).await.unwrap_err();
}

#[tokio::test]
async fn a_copy_of_other_bytes_than_expected_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let buckets = Arc::new(Buckets::new());
    let store = port(&buckets, dir.path());
    for name in ["data", "rescue"] {
        store
            .open(name, &local(&dir.path().join(name), None))
            .unwrap();
    }
    store
        .put_if_absent("data", "x", b"bytes".to_vec())
        .await
        .unwrap();
    let copy = ObjectCopy {
        from: "data".to_owned(),
        to: "rescue".to_owned(),
        key: "x".to_owned(),
        bytes: 5,
        blake3: blake3::hash(b"other").to_hex().to_string(),
    };
    assert_eq!(
        store.copy(&copy).await.unwrap_err().kind,
        ErrorKind::Corrupt
    );
    let rescue = buckets.get("rescue").unwrap().store;
    rescue.head(&Path::from("x")).await.unwrap_err();
}

#[tokio::test]
async fn a_bucket_that_cannot_be_opened_is_opened_when_it_can_be() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("blocked");
    std::fs::write(&blocked, b"a file in the way").unwrap();
    let buckets = Arc::new(Buckets::new());
    let store = port(&buckets, dir.path());
    let spec = local(&blocked.join("data"), None);
    store.open("data", &spec).unwrap();
    store.put_if_absent("data", "x", vec![1]).await.unwrap_err();
    std::fs::remove_file(&blocked).unwrap();
    store.look_after("data", &spec).await;
    store.put_if_absent("data", "x", vec![1]).await.unwrap();
}
