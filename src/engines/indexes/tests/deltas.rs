//! Deltas by what is in them: broken, bad, seen by few, and as the difference to a dataset.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_that_is_not_what_was_committed_is_not_loaded_and_told() {
    let mut served = Served::on(Backend::Hnsw).await;
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&told);
    served
        .indexes
        .tell_corruption(Box::new(move |index, generation, _| {
            heard.lock().push((index.to_owned(), generation));
        }));
    let change = changes(&served.rows);
    served.ride(change).await;
    let index = served.index();
    let key = &index.live_generation().unwrap().deltas[0].file.key;
    let path = local(&served).file(key).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let query = served.rows.row(0).to_vec();
    let refused = served.search(&by_vector(&query, 1)).await;
    assert_eq!(refused.err().unwrap().code, "index_rebuilding");
    assert_eq!(*told.lock(), [("idx".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_deltas_are_refused_by_key_and_leave_no_object() {
    let served = Served::on(Backend::Hnsw).await;
    let index = served.index();
    let rows = |keys: &[&str], number: f32, removed: &[&str]| DeltaRows {
        keys: keys.iter().map(|key| (*key).to_owned()).collect(),
        texts: Vec::new(),
        chunks: Vec::new(),
        vectors: vec![number; keys.len() * DIMENSIONS],
        removed: removed.iter().map(|key| (*key).to_owned()).collect(),
    };
    for (rows, problem) in [
        (rows(&["a", "b"], f32::NAN, &[]), "vector of key `a`"),
        (rows(&["a"], 0.0, &[]), "vector of key `a` is all zeros"),
        (rows(&["a", "a"], 1.0, &[]), "key `a` occurs twice"),
        (rows(&["a"], 1.0, &["a"]), "key `a` occurs twice"),
    ] {
        let refused = served.indexes.write_delta(&index, rows).await.unwrap_err();
        assert!(refused.message.starts_with(problem), "{refused}");
    }
    let folder = local(&served).file("vectors/idx").unwrap();
    let names = std::fs::read_dir(folder).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let deltas = names.filter(|name| name.starts_with("delta-"));
    assert_eq!(deltas.count(), 0);
}

/// The catalog with what a view lets through, the first rows without `deleted`, as a table of its own, `few`.
fn beside(served: &Served, count: usize, deleted: Vec<u32>) -> Arc<CatalogState> {
    let few = Rows {
        keys: served.rows.keys[..count].to_vec(),
        texts: served.rows.texts[..count].to_vec(),
        vectors: served.rows.vectors[..count * DIMENSIONS].to_vec(),
        dimensions: DIMENSIONS,
    };
    let mut lake = Lake::new();
    lake.add("few", &[(batch(&few), deleted)], 1_000);
    let few = lake.state.datasets["few"].clone();
    let to = local(served);
    for file in &few.files {
        let bytes = std::fs::read(lake.folder.path().join("primary").join(&file.entry.key));
        let target = to.file(&file.entry.key).unwrap();
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, bytes.unwrap()).unwrap();
    }
    let mut state = served.catalog.state.clone();
    state.datasets.insert("few".to_owned(), few);
    Arc::new(state)
}

#[tokio::test(flavor = "multi_thread")]
async fn whether_a_restricted_answer_is_exact_goes_by_what_its_filter_leaves() {
    let mut served = Served::on(Backend::Hnsw).await;
    served.indexes.settled_max = 1_000 * DIMENSIONS as u64;
    let state = beside(&served, 1_500, Vec::new());
    let session = || {
        let tables = SessionTables::all(Arc::clone(&state), served.catalog.seq);
        served.indexes.query.session(tables)
    };
    let sight = |is_restricted| Sight {
        through: "few",
        is_restricted,
        id: format!("few {is_restricted}"),
        session: &session,
    };
    let (index, query) = (served.index(), served.rows.row(7).to_vec());
    for (is_restricted, filter, path) in [
        (true, None, "ann"),
        (true, Some("nr < 400"), "exact"),
        (false, Some("nr < 400"), "ann"),
    ] {
        let wanted = Wanted {
            filter,
            ..by_vector(&query, 10)
        };
        let request = wanted.through(sight(is_restricted));
        let found = served
            .indexes
            .search(&served.catalog, &index, &request)
            .await;
        assert_eq!(found.unwrap().path, path, "{is_restricted} {filter:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_finds_what_its_relation_has_and_nothing_else() {
    let served = Served::on(Backend::Hnsw).await;
    let state = beside(&served, 40, vec![3]);
    let session = || {
        let tables = SessionTables::all(Arc::clone(&state), served.catalog.seq);
        served.indexes.query.session(tables)
    };
    let sight = Sight {
        through: "few",
        is_restricted: true,
        id: "few 1".to_owned(),
        session: &session,
    };
    let index = served.index();
    let words = by_words("amber", SearchMode::Text).through(sight.clone());
    let words = served.indexes.search(&served.catalog, &index, &words);
    assert_eq!(words.await.err().unwrap().code, "words_denied");
    for query in served.rows.queries(5) {
        let request = by_vector(&query, 10).through(sight.clone());
        let found = served
            .indexes
            .search(&served.catalog, &index, &request)
            .await;
        let found = found.unwrap().hits.into_iter().map(|hit| hit.key);
        let passes = |key: &str| {
            let row = key[4..].parse::<usize>().unwrap();
            row < 40 && row != 3
        };
        assert_eq!(
            found.collect::<Vec<_>>(),
            served.nearest(&query, 10, passes)
        );
    }
}

/// What a row that a dataset has and an index does not looks like to the worker.
async fn difference(served: &Served, most: u64) -> Option<IndexChanges> {
    let index = served.index();
    let found = served.indexes.changes(&served.catalog, &index, most).await;
    found.unwrap()
}

async fn differences(backend: Backend) {
    let mut served = Served::on(backend).await;
    let found = difference(&served, 0).await.unwrap();
    assert!(found.rows.is_empty());
    assert_eq!(found.unchanged, ROWS as u64);
    // The index is told of other rows than the dataset has: 50 changed, 30 left, 100 are not there.
    let change = changes(&served.rows);
    served.ride(change).await;
    served.delete(90);
    let found = difference(&served, 180).await.unwrap();
    let (keys, removed) = (&found.rows.keys, &found.rows.removed);
    assert_eq!((keys.len(), removed.len()), (80, 100));
    assert!(keys.iter().all(|key| served.rows.keys[..80].contains(key)));
    assert!(removed.iter().all(|key| key.starts_with("new-")));
    assert_eq!(found.unchanged, (ROWS - 81) as u64, "one is deleted");
    assert!(difference(&served, 179).await.is_none());
    served.ride(found.rows).await;
    let rows = served.rows.keys.iter().enumerate();
    let rows = rows.map(|(row, key)| (key.clone(), served.rows.row(row).to_vec()));
    served.truth = rows
        .filter(|(key, _)| *key != served.rows.keys[90])
        .collect();
    served.assert_true().await;
    let found = difference(&served, 0).await.unwrap();
    assert!(found.rows.is_empty(), "it has caught up");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_learns_what_its_dataset_has_and_no_deleted_row_on_usearch() {
    differences(Backend::Hnsw).await;
}

#[cfg(feature = "lance")]
#[tokio::test(flavor = "multi_thread")]
async fn an_index_learns_what_its_dataset_has_and_no_deleted_row_on_lance() {
    differences(Backend::Lance).await;
}
