//! The Lance engine under the contract that every vector engine keeps.

use std::future::Future;
use std::path::Path;
use std::sync::LazyLock;

use tokio::runtime::Runtime;

use super::super::vectors::contract::{self, Engine, Fixture, ROWS, Rows};
use super::super::vectors::{
    BuildOptions, Built, FileDigest, Found, Metric, SearchPath, VectorError, Visible,
};
use super::search::LanceSearch;
use super::*;

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().unwrap());

fn wait<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.block_on(future)
}

fn build(
    dir: &Path,
    rows: &Rows,
    config: LanceConfig,
    options: BuildOptions,
) -> Result<Built, VectorError> {
    wait(async {
        let mut builder = LanceBuilder::new(dir, rows.dimensions, config, options)?;
        for chunk in rows.chunks() {
            builder.add_chunk(chunk).await?;
        }
        builder.finish().await
    })
}

impl Engine for LanceIndex {
    fn build(
        dir: &Path,
        rows: &Rows,
        metric: Metric,
        options: BuildOptions,
    ) -> Result<Built, VectorError> {
        build(
            dir,
            rows,
            LanceConfig {
                metric,
                ..LanceConfig::default()
            },
            options,
        )
    }

    fn open(dir: &Path, files: &[FileDigest]) -> Result<Self, VectorError> {
        wait(Self::open(dir, files))
    }

    fn len(&self) -> u64 {
        self.len()
    }

    fn search(&self, query: &[f32], k: usize, visible: Visible) -> Result<Found, VectorError> {
        wait(self.search(query, k, LanceSearch::default(), visible))
    }

    fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible,
    ) -> Result<Found, VectorError> {
        wait(self.search_exact(query, k, visible))
    }

    fn row(&self, key: &str) -> Option<(u64, Vec<f32>, Option<String>)> {
        let row = wait(self.find(key)).unwrap()?;
        assert_eq!(row.key, key);
        Some((row.slot, row.vector, row.text))
    }

    fn fixture() -> &'static Fixture<Self> {
        static FIXTURE: LazyLock<Fixture<LanceIndex>> = LazyLock::new(|| {
            Fixture::build(Rows::clustered(ROWS, contract::DIMENSIONS), Metric::Cosine)
        });
        &FIXTURE
    }
}

#[test]
fn recall_at_10_is_at_least_99_of_100() {
    contract::recall_at_10_is_at_least_99_of_100::<LanceIndex>();
}

#[test]
fn an_unfiltered_search_of_many_rows_is_not_a_scan() {
    contract::an_unfiltered_search_of_many_rows_is_not_a_scan::<LanceIndex>();
}

#[test]
fn an_exact_search_finds_the_truth_with_true_distances() {
    contract::an_exact_search_finds_the_truth_with_true_distances::<LanceIndex>();
}

#[test]
fn hidden_rows_are_never_found_and_k_hits_always_are() {
    contract::hidden_rows_are_never_found_and_k_hits_always_are::<LanceIndex>();
}

#[test]
fn every_k_is_answered() {
    contract::every_k_is_answered::<LanceIndex>();
}

#[test]
fn rows_come_back_by_key_as_they_were() {
    contract::rows_come_back_by_key_as_they_were::<LanceIndex>();
}

#[test]
fn an_index_opened_again_answers_the_same() {
    contract::an_index_opened_again_answers_the_same::<LanceIndex>();
}

#[test]
fn bad_queries_are_refused() {
    contract::bad_queries_are_refused::<LanceIndex>();
}

#[test]
fn an_index_of_no_rows_answers_with_none() {
    contract::an_index_of_no_rows_answers_with_none::<LanceIndex>();
}

#[test]
fn few_rows_are_answered_whole() {
    contract::few_rows_are_answered_whole::<LanceIndex>();
}

#[test]
fn the_other_metrics_find_their_nearest_too() {
    contract::the_other_metrics_find_their_nearest_too::<LanceIndex>();
}

#[test]
fn a_changed_byte_in_any_file_and_it_is_not_opened() {
    contract::a_changed_byte_in_any_file_and_it_is_not_opened::<LanceIndex>();
}

#[test]
fn a_repeated_key_is_refused_or_the_last_row_wins() {
    contract::a_repeated_key_is_refused_or_the_last_row_wins::<LanceIndex>();
}

#[test]
fn bad_rows_are_refused_by_key() {
    contract::bad_rows_are_refused_by_key::<LanceIndex>();
}

#[test]
fn a_build_stops_when_told() {
    contract::a_build_stops_when_told::<LanceIndex>();
}

#[test]
fn rows_of_one_vector_are_all_found_and_hide_nothing_behind_them() {
    contract::rows_of_one_vector_are_all_found_and_hide_nothing_behind_them::<LanceIndex>();
}

#[test]
fn many_threads_search_at_once() {
    contract::many_threads_search_at_once::<LanceIndex>();
}

#[test]
fn every_kind_finds_the_nearest_once_rescored() {
    let rows = Rows::clustered(3_000, 64);
    for kind in [LanceKind::Flat, LanceKind::IvfPq, LanceKind::IvfHnswSq] {
        for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
            let dir = tempfile::tempdir().unwrap();
            let config = LanceConfig {
                kind,
                metric,
                ..LanceConfig::default()
            };
            let built = build(dir.path(), &rows, config, BuildOptions::default()).unwrap();
            let index = wait(LanceIndex::open(dir.path(), &built.files)).unwrap();
            assert_eq!(index.kind(), kind);
            let mut right = 0;
            for query in rows.queries(20) {
                let truth = rows.truth(metric, &query, 10, Visible::All);
                let found =
                    wait(index.search(&query, 10, LanceSearch::default(), Visible::All)).unwrap();
                assert_eq!(found.path == SearchPath::Exact, kind == LanceKind::Flat);
                right += found
                    .hits
                    .iter()
                    .filter(|hit| truth.contains(&hit.key))
                    .count();
            }
            assert!(right >= 196, "{right} of 200 for {kind:?} {metric:?}");
        }
    }
}

#[test]
fn a_version_that_nobody_expected_is_not_opened() {
    let Fixture { dir, built, .. } =
        Fixture::<LanceIndex>::build(Rows::clustered(20, 16), Metric::L2);
    let versions = dir.path().join(DATASET).join("_versions");
    std::fs::write(versions.join("0.manifest"), b"newer").unwrap();
    let error = wait(LanceIndex::open(dir.path(), &built.files))
        .err()
        .unwrap();
    assert_eq!(
        error.to_string(),
        "index file `rows.lance/_versions/0.manifest` does not belong to the index"
    );
}

#[test]
fn a_configuration_that_cannot_be_names_its_field() {
    let config = LanceConfig {
        sub_vectors: Some(7),
        ..LanceConfig::default()
    };
    let error = config.validate(128).unwrap_err();
    assert_eq!(
        error.to_string(),
        "index configuration: `sub_vectors` is 7, must divide 128"
    );
    let config = LanceConfig {
        nprobes: 0,
        ..LanceConfig::default()
    };
    assert!(
        config
            .validate(128)
            .unwrap_err()
            .to_string()
            .contains("`nprobes` is 0")
    );
    assert!(LanceConfig::default().validate(127).is_ok());
}
