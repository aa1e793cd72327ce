//! Kept vectors: found again after a crash at any byte, swept, and gone with their dataset.

use std::fs;

use super::*;

fn model(dimensions: u32) -> ModelIdentity {
    ModelIdentity {
        provider: "ollama".to_owned(),
        model: "m".to_owned(),
        version: "m".to_owned(),
        dimensions,
    }
}

fn vector(number: f32) -> TextVector {
    TextVector::Vector(vec![number, 0.5, -1.0])
}

fn refusal() -> TextVector {
    TextVector::Refused {
        code: "text_refused".to_owned(),
        reason: "too long".to_owned(),
    }
}

fn put(kept: &Kept, texts: &[(&str, TextVector)]) {
    let batch: Vec<_> = texts
        .iter()
        .map(|(text, v)| (kept.key(text), v.clone()))
        .collect();
    kept.put(&batch).unwrap();
}

fn get(kept: &Kept, text: &str) -> Option<TextVector> {
    kept.get(&[kept.key(text)]).unwrap().remove(0)
}

#[test]
fn what_was_put_is_there_after_a_restart_and_a_torn_end_is_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    {
        let store = VectorStore::open(dir.path()).unwrap();
        let kept = store.kept("d", &model(3), 0).unwrap();
        put(&kept, &[("a", vector(1.0)), ("b", refusal())]);
    }
    let path = dir.path().join("embeddings/d").join(file_name(&model(3)));
    let whole = fs::read(&path).unwrap();
    {
        let store = VectorStore::open(dir.path()).unwrap();
        put(
            &store.kept("d", &model(3), 0).unwrap(),
            &[("c", vector(3.0))],
        );
    }
    let longer = fs::read(&path).unwrap();
    for cut in whole.len()..longer.len() {
        fs::write(&path, &longer[..cut]).unwrap();
        let store = VectorStore::open(dir.path()).unwrap();
        let kept = store.kept("d", &model(3), 0).unwrap();
        assert_eq!(get(&kept, "a"), Some(vector(1.0)), "cut at {cut}");
        assert_eq!(get(&kept, "b"), Some(refusal()));
        assert_eq!(get(&kept, "c"), None);
        put(&kept, &[("d", vector(4.0))]);
        assert_eq!(get(&kept, "d"), Some(vector(4.0)));
    }
}

#[test]
fn a_vector_of_another_model_or_dataset_is_not_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    put(
        &store.kept("d", &model(3), 0).unwrap(),
        &[("a", vector(1.0))],
    );
    let other = ModelIdentity {
        version: "m2".to_owned(),
        ..model(3)
    };
    assert_eq!(get(&store.kept("d", &other, 0).unwrap(), "a"), None);
    assert_eq!(get(&store.kept("e", &model(3), 0).unwrap(), "a"), None);
}

#[test]
fn a_sweep_leaves_no_byte_of_what_is_not_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    let kept = store.kept("d", &model(3), 7).unwrap();
    put(
        &kept,
        &[
            ("a", vector(1.0)),
            ("gone", vector(0.123_456)),
            ("r", refusal()),
        ],
    );
    let other = ModelIdentity {
        version: "old".to_owned(),
        ..model(3)
    };
    put(&store.kept("d", &other, 7).unwrap(), &[("a", vector(9.0))]);
    assert!(store.may_hold("d", 9).unwrap().1);
    let keep = HashSet::from([kept.key("a"), kept.key("r")]);
    let used = Used {
        model: model(3),
        texts: keep,
    };
    store.keep_only("d", &[used], 9).unwrap();
    assert_eq!(get(&kept, "a"), Some(vector(1.0)));
    assert_eq!(get(&kept, "r"), Some(refusal()));
    assert_eq!(get(&kept, "gone"), None);
    assert_eq!(store.may_hold("d", 9).unwrap(), (1, false));
    let dir = dir.path().join("embeddings/d");
    let bytes = fs::read(dir.join(file_name(&model(3)))).unwrap();
    let secret = 0.123_456_f32.to_le_bytes();
    assert!(!bytes.windows(4).any(|window| window == secret));
    // Whoever read texts before the deletion puts nothing any more.
    put(&kept, &[("late", vector(2.0))]);
    assert_eq!(get(&kept, "late"), None);
    let newer = store.kept("d", &model(3), 9).unwrap();
    put(&newer, &[("late", vector(2.0))]);
    assert_eq!(get(&newer, "late"), Some(vector(2.0)));
}

#[test]
fn refusals_are_forgotten_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    let kept = store.kept("d", &model(3), 0).unwrap();
    put(&kept, &[("a", vector(1.0)), ("r", refusal())]);
    assert_eq!(get(&kept, "r"), Some(refusal()));
    assert_eq!(kept.forget_refusals().unwrap(), 1);
    drop((store, kept));
    let store = VectorStore::open(dir.path()).unwrap();
    let kept = store.kept("d", &model(3), 0).unwrap();
    assert_eq!(
        (get(&kept, "a"), get(&kept, "r")),
        (Some(vector(1.0)), None)
    );
}

#[test]
fn a_dataset_that_is_gone_takes_its_vectors_along() {
    let dir = tempfile::tempdir().unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    for dataset in ["d", "e"] {
        put(
            &store.kept(dataset, &model(3), 0).unwrap(),
            &[("a", vector(1.0))],
        );
    }
    store
        .keep_datasets(&BTreeSet::from(["e".to_owned()]))
        .unwrap();
    assert!(!dir.path().join("embeddings/d").exists());
    assert!(get(&store.kept("e", &model(3), 0).unwrap(), "a").is_some());
    let gone = store.kept("d", &model(3), 0).unwrap();
    put(&gone, &[("a", vector(1.0))]);
    assert!(get(&gone, "a").is_none(), "a build that still runs");
    assert!(!dir.path().join("embeddings/d").exists());
}

#[test]
fn whoever_began_before_a_sweep_keeps_nothing_even_in_a_file_that_was_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    let early = store.kept("d", &model(3), 4).unwrap();
    store.keep_only("d", &[], 9).unwrap();
    put(&early, &[("deleted", vector(1.0))]);
    assert_eq!(get(&early, "deleted"), None);
    let late = store.kept("d", &model(3), 4).unwrap();
    put(&late, &[("deleted", vector(1.0))]);
    assert_eq!(get(&late, "deleted"), None);
    assert!(
        !dir.path().join("embeddings/d").exists(),
        "nothing is there"
    );
    let newer = store.kept("d", &model(3), 9).unwrap();
    put(&newer, &[("new", vector(1.0))]);
    assert_eq!(get(&newer, "new"), Some(vector(1.0)));
}

#[test]
fn a_file_of_something_else_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("embeddings/d");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(file_name(&model(3))), [7; 100]).unwrap();
    let store = VectorStore::open(dir.path()).unwrap();
    let kept = store.kept("d", &model(3), 0).unwrap();
    put(&kept, &[("a", vector(1.0))]);
    assert_eq!(get(&kept, "a"), Some(vector(1.0)));
}
