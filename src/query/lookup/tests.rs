//! Rows found by key: the right ones, none that is deleted, and few pages read.

use std::{sync::Arc, time::Instant};

use arrow::array::{ArrayRef, AsArray, Date32Array, RecordBatch, StringArray};
use futures::TryStreamExt;

use super::*;
use crate::query::testing::{Lake, people};

fn on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

fn texts(keys: &[&str]) -> Vec<String> {
    keys.iter().map(|key| (*key).to_owned()).collect()
}

fn rows(resolved: &Resolved) -> Vec<(String, Vec<u32>)> {
    let plain = resolved.found.iter().map(|(key, rows)| {
        let rows = rows.iter().map(|position| position.row).collect();
        (key.clone(), rows)
    });
    plain.collect()
}

#[test]
fn positions_are_those_of_the_file_and_of_visible_rows_only() {
    on(async {
        let mut lake = Lake::new();
        lake.add(
            "t",
            &[(people(0, 1_000), vec![3, 5]), (people(990, 20), vec![])],
            64,
        );
        let dataset = lake.state.datasets.get("t").unwrap();
        let keys = texts(&["3", "4", "995", "x", "1009", "4", "04", "9999", "995"]);
        let resolved = lake
            .engine
            .resolve_keys(dataset, &texts(&["id"]), &keys)
            .await
            .unwrap();
        assert_eq!(
            rows(&resolved),
            [
                ("4".to_owned(), vec![4]),
                ("995".to_owned(), vec![995, 5]),
                ("1009".to_owned(), vec![19]),
                ("04".to_owned(), vec![4]),
            ]
        );
        assert_eq!(resolved.missing, ["3", "x", "9999"]);
        assert_eq!(
            resolved.found[1].1[0].file.as_ref(),
            dataset.files[0].entry.key
        );
        let names = texts(&["n5", "n6", "n1000"]);
        let resolved = lake
            .engine
            .resolve_keys(dataset, &texts(&["name"]), &names)
            .await
            .unwrap();
        assert_eq!(
            rows(&resolved),
            [("n6".to_owned(), vec![6]), ("n1000".to_owned(), vec![10])]
        );
        let error = lake
            .engine
            .resolve_keys(dataset, &texts(&["no"]), &names)
            .await;
        assert_eq!(error.unwrap_err().code(), "column_not_found");
    });
}

#[test]
fn keys_of_dates_and_nulls_are_found_as_their_column_has_them() {
    on(async {
        let mut lake = Lake::new();
        let days = Date32Array::from(vec![Some(0), None, Some(19_782)]);
        let codes = StringArray::from(vec![None, Some(""), Some("a")]);
        let batch = RecordBatch::try_from_iter_with_nullable([
            ("day", Arc::new(days) as ArrayRef, true),
            ("code", Arc::new(codes) as ArrayRef, true),
        ])
        .unwrap();
        lake.add("t", &[(batch, vec![])], 10);
        let dataset = lake.state.datasets.get("t").unwrap();
        let keys = texts(&["2024-02-29", "1970-01-01", "nonsense", ""]);
        let resolved = lake
            .engine
            .resolve_keys(dataset, &texts(&["day"]), &keys)
            .await
            .unwrap();
        assert_eq!(
            rows(&resolved),
            [
                ("2024-02-29".to_owned(), vec![2]),
                ("1970-01-01".to_owned(), vec![0])
            ]
        );
        let resolved = lake
            .engine
            .resolve_keys(dataset, &texts(&["code"]), &keys)
            .await
            .unwrap();
        assert_eq!(rows(&resolved), [(String::new(), vec![1])]);
    });
}

#[test]
fn columns_of_hits_come_with_the_key_they_were_asked_by() {
    on(async {
        let mut lake = Lake::new();
        lake.add(
            "t",
            &[(people(0, 500), vec![7]), (people(500, 500), vec![])],
            50,
        );
        let dataset = lake.state.datasets.get("t").unwrap();
        let keys = texts(&["7", "8", "777", "12345"]);
        let columns = texts(&["name", "grp"]);
        let answer = lake
            .engine
            .rows_by_keys(dataset, &texts(&["id"]), &keys, &columns)
            .await
            .unwrap();
        let mut seen: Vec<(String, String)> = answer
            .keys
            .iter()
            .zip(answer.batch.column(0).as_string_view())
            .map(|(key, name)| (key.clone(), name.unwrap().to_owned()))
            .collect();
        seen.sort();
        let expected = [("777", "n777"), ("8", "n8")];
        assert_eq!(seen, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
        assert_eq!(answer.batch.num_columns(), 2);
        let gone = texts(&["7"]);
        let none = lake
            .engine
            .rows_by_keys(dataset, &texts(&["id"]), &gone, &columns)
            .await;
        assert_eq!(none.unwrap().batch.num_rows(), 0);
    });
}

#[test]
fn a_scan_of_columns_sees_visible_rows_only() {
    on(async {
        let mut lake = Lake::new();
        lake.add("A-b", &[(people(0, 100), (10..100).collect())], 16);
        let dataset = lake.state.datasets.get("A-b").unwrap();
        let stream = lake
            .engine
            .scan_columns(dataset, &texts(&["name", "id"]))
            .await;
        let batches: Vec<RecordBatch> = stream.unwrap().try_collect().await.unwrap();
        let seen: usize = batches.iter().map(RecordBatch::num_rows).sum();
        assert_eq!(seen, 10);
    });
}

#[test]
fn one_key_of_a_million_reads_one_page() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 1_000_000), vec![17])], 100_000);
        let dataset = lake.state.datasets.get("t").unwrap();
        let warm = texts(&["1"]);
        lake.engine
            .resolve_keys(dataset, &texts(&["id"]), &warm)
            .await
            .unwrap();
        let start = Instant::now();
        for key in 0..20 {
            let keys = [(key * 49_999).to_string()];
            let resolved = lake
                .engine
                .resolve_keys(dataset, &texts(&["id"]), &keys)
                .await
                .unwrap();
            assert_eq!(resolved.found.len(), 1);
        }
        let one = start.elapsed() / 20;
        println!("one key of 1,000,000: {one:?}");
        assert!(one.as_millis() < 50, "{one:?}");
        let many: Vec<String> = (0..200_000).map(|key| (key * 5).to_string()).collect();
        let start = Instant::now();
        let resolved = lake
            .engine
            .resolve_keys(dataset, &texts(&["id"]), &many)
            .await
            .unwrap();
        println!("200,000 keys of 1,000,000: {:?}", start.elapsed());
        assert_eq!((resolved.found.len(), resolved.missing.len()), (200_000, 0));
    });
}
