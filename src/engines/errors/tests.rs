//! The error journal over restarts, and its bounds.

use super::*;

fn failure(key: &str) -> Failure {
    Failure {
        bucket: "cold".to_owned(),
        operation: "get".to_owned(),
        key: key.to_owned(),
        error: "no connection".to_owned(),
        rescued: false,
    }
}

fn all() -> ErrorFilter {
    ErrorFilter {
        limit: usize::MAX,
        ..ErrorFilter::default()
    }
}

#[test]
fn failures_survive_a_restart_and_a_compaction_and_come_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let errors = BucketErrors::open(dir.path()).unwrap();
    for n in 0..5 {
        errors.note(failure(&format!("k{n}")));
        assert_eq!(errors.flush().unwrap(), 1);
    }
    assert_eq!(errors.flush().unwrap(), 0);
    let keys = |errors: &BucketErrors| -> Vec<String> {
        errors
            .list(&all())
            .into_iter()
            .map(|noted| noted.key)
            .collect()
    };
    let expected = ["k4", "k3", "k2", "k1", "k0"];
    assert_eq!(keys(&BucketErrors::open(dir.path()).unwrap()), expected);
    assert_eq!(errors.compact().unwrap(), (5, 1));
    assert_eq!(keys(&BucketErrors::open(dir.path()).unwrap()), expected);
}

#[test]
fn the_same_failure_again_within_a_second_is_counted_and_not_listed_again() {
    let errors = BucketErrors::in_memory();
    for _ in 0..1_000 {
        errors.note(failure("k"));
    }
    let listed = errors.list(&all());
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].times, 1_000);
}

#[test]
fn it_is_bounded_and_the_oldest_go() {
    let dir = tempfile::tempdir().unwrap();
    let errors = BucketErrors::open(dir.path()).unwrap();
    for n in 0..FAILURES_KEPT + 10 {
        errors.note(failure(&format!("{n}")));
    }
    errors.flush().unwrap();
    let listed = BucketErrors::open(dir.path()).unwrap().list(&all());
    assert_eq!(listed.len(), FAILURES_KEPT);
    assert_eq!(listed.last().unwrap().key, "10");
}
