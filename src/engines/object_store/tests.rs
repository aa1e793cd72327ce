//! The promises of a local bucket, and keys that mean harm.

use std::{
    fs,
    sync::{Arc, Barrier},
};

use futures::TryStreamExt;
use object_store::{
    GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload, path::Path,
};
use tempfile::TempDir;

use super::{Bucket, BucketError, Buckets, DurableLocal, PutOutcome, check_key};

fn store() -> (TempDir, DurableLocal) {
    let folder = tempfile::tempdir().unwrap();
    let store = DurableLocal::open(folder.path().join("a/b/bucket")).unwrap();
    (folder, store)
}

fn on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn keys(store: &DurableLocal, prefix: Option<&str>) -> Vec<String> {
    let prefix = prefix.map(Path::from);
    let found: Vec<_> = store.list(prefix.as_ref()).try_collect().await.unwrap();
    found.into_iter().map(|o| o.location.to_string()).collect()
}

#[test]
fn hostile_keys_are_refused() {
    let long = "x".repeat(1_025);
    let part = format!("a/{}", "x".repeat(241));
    for key in [
        "",
        "/",
        "/a",
        "a/",
        "a//b",
        ".",
        "..",
        "../a",
        "a/../b",
        "a/..",
        "a/./b",
        ".hidden",
        "a/.staging",
        ".staging/x",
        "a\\b",
        "..\\a",
        "a\0b",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "name#1",
        "a/b#42",
        &long,
        &part,
    ] {
        assert!(check_key(key).is_err(), "{key:?} is allowed");
    }
    for key in [
        "a",
        "a/b/c.parquet",
        "ä/ü.txt",
        "a b",
        "a%2Fb",
        "x#y",
        "#",
        "a..b",
    ] {
        assert!(check_key(key).is_ok(), "{key:?} is refused");
    }
}

#[test]
fn no_key_leads_out_of_the_bucket() {
    let (folder, store) = store();
    let outside = folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), b"s").unwrap();
    std::os::unix::fs::symlink(&outside, store.root().join("link")).unwrap();
    std::os::unix::fs::symlink(outside.join("secret"), store.root().join("file")).unwrap();
    std::os::unix::fs::symlink(outside.join("new"), store.root().join("dangling")).unwrap();
    on(async {
        for key in ["link/secret", "file", "dangling", "link/new", "link/x/new"] {
            let key = Path::from(key);
            assert!(store.get(&key).await.is_err(), "{key}");
            assert!(store.put(&key, "x".into()).await.is_err(), "{key}");
            assert!(store.delete(&key).await.is_err(), "{key}");
        }
        for key in ["../outside/secret", "a/../../outside/secret"] {
            assert!(matches!(store.file(key), Err(BucketError::BadKey { .. })));
        }
        assert!(keys(&store, None).await.is_empty());
    });
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"s");
    assert!(!outside.join("new").exists());
}

#[test]
fn objects_come_back_whole_and_in_ranges() {
    on(async {
        let (_folder, store) = store();
        let key = Path::from("x/y/z");
        store.put(&key, "0123456789".into()).await.unwrap();
        let read = store.get(&key).await.unwrap();
        assert_eq!(read.meta.size, 10);
        assert_eq!(read.bytes().await.unwrap().as_ref(), b"0123456789");
        let parts = store.get_ranges(&key, &[2..4, 0..1, 9..10]).await.unwrap();
        assert_eq!(parts, ["23", "0", "9"].map(bytes::Bytes::from));
        assert!(
            store
                .get_range(&key, 5..20)
                .await
                .is_ok_and(|read| read.len() == 5)
        );
        assert!(store.get_ranges(&key, &[0..1, 5..20]).await.is_err());
        let options = object_store::GetOptions {
            range: Some(GetRange::Suffix(3)),
            ..Default::default()
        };
        let read = store.get_opts(&key, options).await.unwrap();
        assert_eq!(read.bytes().await.unwrap().as_ref(), b"789");
        let missing = store.get(&Path::from("x/y")).await.unwrap_err();
        assert!(matches!(missing, object_store::Error::NotFound { .. }));
        assert_eq!(store.head(&key).await.unwrap().size, 10);
    });
}

#[test]
fn lists_copies_renames_and_deletes_are_those_of_an_object_store() {
    on(async {
        let (_folder, store) = store();
        for key in ["a/1", "a/2", "a/b/3", "c"] {
            store.put(&Path::from(key), key.into()).await.unwrap();
        }
        fs::write(store.root().join("a/half#7"), b"").unwrap();
        assert_eq!(keys(&store, None).await, ["a/1", "a/2", "a/b/3", "c"]);
        assert_eq!(keys(&store, Some("a/b")).await, ["a/b/3"]);
        assert!(keys(&store, Some("nothing")).await.is_empty());
        let level = store.list_with_delimiter(Some(&"a".into())).await.unwrap();
        assert_eq!(level.common_prefixes, [Path::from("a/b")]);
        assert_eq!(level.objects.len(), 2);
        let (c, d, e) = (Path::from("c"), Path::from("new/d"), Path::from("e"));
        store.copy(&c, &d).await.unwrap();
        store.rename(&d, &e).await.unwrap();
        assert!(store.copy_if_not_exists(&c, &e).await.is_err());
        store.delete(&c).await.unwrap();
        assert!(store.delete(&c).await.is_err());
        let read = store.get(&e).await.unwrap().bytes().await.unwrap();
        assert_eq!(read.as_ref(), b"c");
        assert_eq!(keys(&store, None).await, ["a/1", "a/2", "a/b/3", "e"]);
    });
}

#[test]
fn of_thirty_two_writers_of_a_key_one_wins_and_its_bytes_stay() {
    let (_folder, store) = store();
    let start = Arc::new(Barrier::new(32));
    let writers: Vec<_> = (0..32)
        .map(|writer| {
            let (store, start) = (store.clone(), Arc::clone(&start));
            std::thread::spawn(move || {
                start.wait();
                let payload = PutPayload::from(format!("{writer}").repeat(1_000));
                let options = PutOptions::from(PutMode::Create);
                on(store.put_opts(&Path::from("race/key"), payload, options)).map(|_| writer)
            })
        })
        .collect();
    let won: Vec<i32> = writers
        .into_iter()
        .filter_map(|writer| match writer.join().unwrap() {
            Ok(writer) => Some(writer),
            Err(error) => {
                assert!(matches!(error, object_store::Error::AlreadyExists { .. }));
                None
            }
        })
        .collect();
    assert_eq!(won.len(), 1);
    let read = fs::read_to_string(store.file("race/key").unwrap()).unwrap();
    assert_eq!(read, won[0].to_string().repeat(1_000));
    assert!(store.leftovers().unwrap().is_empty());
}

#[test]
fn an_upload_in_parts_appears_when_it_is_complete_and_not_before() {
    on(async {
        let (_folder, store) = store();
        let key = Path::from("big");
        let mut upload = store.put_multipart(&key).await.unwrap();
        let parts = [upload.put_part("abc".into()), upload.put_part("def".into())];
        futures::future::try_join_all(parts).await.unwrap();
        assert!(store.get(&key).await.is_err());
        assert_eq!(store.leftovers().unwrap().len(), 1);
        upload.complete().await.unwrap();
        let read = store.get(&key).await.unwrap().bytes().await.unwrap();
        assert_eq!(read.as_ref(), b"abcdef");
        let mut upload = store.put_multipart(&Path::from("given/up")).await.unwrap();
        upload.put_part("x".into()).await.unwrap();
        drop(upload);
        let mut upload = store.put_multipart(&Path::from("given/up")).await.unwrap();
        upload.abort().await.unwrap();
        assert_eq!(keys(&store, None).await, ["big"]);
        assert!(store.leftovers().unwrap().is_empty());
    });
}

#[test]
fn a_staged_file_is_taken_in_once_and_never_empty() {
    let (folder, store) = store();
    let staged = folder.path().join("staged");
    fs::write(&staged, b"rows").unwrap();
    let key = "datasets/x/1.parquet";
    assert_eq!(store.put_file(&staged, key).unwrap(), PutOutcome::Created);
    assert!(!staged.exists());
    fs::write(&staged, b"rows").unwrap();
    let again = store.put_file(&staged, key).unwrap();
    assert_eq!(again, PutOutcome::AlreadyThere);
    fs::write(&staged, b"else").unwrap();
    assert!(matches!(
        store.put_file(&staged, key),
        Err(BucketError::Taken)
    ));
    assert!(staged.exists());
    fs::write(&staged, b"").unwrap();
    let empty = store.put_file(&staged, "y");
    assert!(matches!(empty, Err(BucketError::Empty)));
    assert_eq!(fs::read(store.file(key).unwrap()).unwrap(), b"rows");
}

#[test]
fn a_staged_file_comes_in_from_another_file_system() {
    let Ok(other) = tempfile::tempdir_in("/dev/shm") else {
        return;
    };
    let (_folder, store) = store();
    let staged = other.path().join("staged");
    fs::write(&staged, b"rows").unwrap();
    assert_eq!(store.put_file(&staged, "k").unwrap(), PutOutcome::Created);
    assert_eq!(fs::read(store.file("k").unwrap()).unwrap(), b"rows");
    fs::write(&staged, b"rows").unwrap();
    assert_eq!(
        store.put_file(&staged, "k").unwrap(),
        PutOutcome::AlreadyThere
    );
    assert!(store.leftovers().unwrap().is_empty());
}

#[test]
fn leftovers_of_any_writer_are_seen_by_a_sweep() {
    let (_folder, store) = store();
    fs::create_dir_all(store.root().join("d/e")).unwrap();
    fs::write(store.root().join("d/e/x.parquet#3"), b"half").unwrap();
    fs::write(store.root().join(".staging/abc"), b"half").unwrap();
    fs::write(store.root().join("d/e/x.parquet"), b"whole").unwrap();
    let bucket = Bucket::local("b", store.root()).unwrap();
    let found = bucket.leftovers().unwrap();
    let names: Vec<_> = found
        .iter()
        .map(|left| left.path.file_name().unwrap().to_str().unwrap())
        .collect();
    assert_eq!(names, ["abc", "x.parquet#3"]);
}

#[test]
fn an_unknown_bucket_is_told_with_the_known_ones() {
    let folder = tempfile::tempdir().unwrap();
    let buckets = Buckets::new();
    buckets.register(Bucket::local("one", folder.path()).unwrap());
    let error = buckets.get("two").unwrap_err();
    assert_eq!(error.to_string(), "no bucket `two`; there are: one");
    assert!(buckets.get("one").is_ok());
    buckets.unregister("one");
    assert!(buckets.get("one").is_err());
}

#[test]
fn an_object_is_replaced_whole_and_its_staged_file_is_gone() {
    let (folder, store) = store();
    let staged = folder.path().join("staged");
    for text in ["first", "second, longer"] {
        fs::write(&staged, text).unwrap();
        store.replace_file(&staged, "datasets/a/list").unwrap();
        assert_eq!(
            fs::read_to_string(store.file("datasets/a/list").unwrap()).unwrap(),
            text
        );
        assert!(!staged.exists());
    }
    fs::write(&staged, "").unwrap();
    let empty = store.replace_file(&staged, "datasets/a/list").unwrap_err();
    assert!(matches!(empty, BucketError::Empty));
    let kept = fs::read_to_string(store.file("datasets/a/list").unwrap()).unwrap();
    assert_eq!(kept, "second, longer");
    assert_eq!(store.leftovers().unwrap().len(), 0);
}

#[test]
fn an_object_is_replaced_by_a_file_of_another_file_system() {
    // Where memory is a file system of its own; elsewhere the two are one, and it is a rename.
    let memory = std::path::Path::new("/dev/shm");
    let folder = if memory.is_dir() {
        memory.to_owned()
    } else {
        std::env::temp_dir()
    };
    let other = tempfile::tempdir_in(folder).unwrap();
    let (_folder, store) = store();
    for text in ["first", "second"] {
        let staged = other.path().join("staged");
        fs::write(&staged, text).unwrap();
        store.replace_file(&staged, "a/list").unwrap();
        assert_eq!(
            fs::read_to_string(store.file("a/list").unwrap()).unwrap(),
            text
        );
        assert!(!staged.exists());
    }
    assert_eq!(store.leftovers().unwrap().len(), 0);
}
