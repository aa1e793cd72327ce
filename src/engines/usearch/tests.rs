//! The usearch engine under the contract that every vector engine keeps.

use std::path::Path;
use std::sync::LazyLock;

use roaring::RoaringBitmap;

use super::super::vectors::contract::{self, Engine, Fixture, ROWS, Rows};
use super::super::vectors::files::seal;
use super::super::vectors::{
    BuildOptions, Built, FileDigest, Found, HnswConfig, Metric, Quantization, SearchPath,
    VectorError, Visible,
};
use super::*;

fn build(
    dir: &Path,
    rows: &Rows,
    config: HnswConfig,
    options: BuildOptions,
) -> Result<Built, VectorError> {
    let mut builder = HnswBuilder::new(dir, rows.dimensions, config, options)?;
    rows.chunks()
        .try_for_each(|chunk| builder.add_chunk(chunk))?;
    builder.finish()
}

impl Engine for HnswIndex {
    fn build(
        dir: &Path,
        rows: &Rows,
        metric: Metric,
        options: BuildOptions,
    ) -> Result<Built, VectorError> {
        build(
            dir,
            rows,
            HnswConfig {
                metric,
                ..HnswConfig::default()
            },
            options,
        )
    }

    fn open(dir: &Path, files: &[FileDigest]) -> Result<Self, VectorError> {
        Self::open(dir, files)
    }

    fn len(&self) -> u64 {
        self.len()
    }

    fn search(&self, query: &[f32], k: usize, visible: Visible) -> Result<Found, VectorError> {
        self.search(query, k, None, visible)
    }

    fn search_exact(
        &self,
        query: &[f32],
        k: usize,
        visible: Visible,
    ) -> Result<Found, VectorError> {
        self.search_exact(query, k, visible)
    }

    fn row(&self, key: &str) -> Option<(u64, Vec<f32>, Option<String>)> {
        let slot = self.slot_of(key)?;
        assert_eq!(self.key_of(slot), Some(key));
        Some((
            slot,
            self.vector_of(slot)?.to_vec(),
            self.text_of(slot).map(str::to_owned),
        ))
    }

    fn fixture() -> &'static Fixture<Self> {
        static FIXTURE: LazyLock<Fixture<HnswIndex>> = LazyLock::new(|| {
            Fixture::build(Rows::clustered(ROWS, contract::DIMENSIONS), Metric::Cosine)
        });
        &FIXTURE
    }
}

#[test]
fn recall_at_10_is_at_least_99_of_100() {
    contract::recall_at_10_is_at_least_99_of_100::<HnswIndex>();
}

#[test]
fn an_unfiltered_search_of_many_rows_is_not_a_scan() {
    contract::an_unfiltered_search_of_many_rows_is_not_a_scan::<HnswIndex>();
}

#[test]
fn an_exact_search_finds_the_truth_with_true_distances() {
    contract::an_exact_search_finds_the_truth_with_true_distances::<HnswIndex>();
}

#[test]
fn hidden_rows_are_never_found_and_k_hits_always_are() {
    contract::hidden_rows_are_never_found_and_k_hits_always_are::<HnswIndex>();
}

#[test]
fn every_k_is_answered() {
    contract::every_k_is_answered::<HnswIndex>();
}

#[test]
fn rows_come_back_by_key_as_they_were() {
    contract::rows_come_back_by_key_as_they_were::<HnswIndex>();
}

#[test]
fn an_index_opened_again_answers_the_same() {
    contract::an_index_opened_again_answers_the_same::<HnswIndex>();
}

#[test]
fn bad_queries_are_refused() {
    contract::bad_queries_are_refused::<HnswIndex>();
}

#[test]
fn an_index_of_no_rows_answers_with_none() {
    contract::an_index_of_no_rows_answers_with_none::<HnswIndex>();
}

#[test]
fn few_rows_are_answered_whole() {
    contract::few_rows_are_answered_whole::<HnswIndex>();
}

#[test]
fn the_other_metrics_find_their_nearest_too() {
    contract::the_other_metrics_find_their_nearest_too::<HnswIndex>();
}

#[test]
fn a_changed_byte_in_any_file_and_it_is_not_opened() {
    contract::a_changed_byte_in_any_file_and_it_is_not_opened::<HnswIndex>();
}

#[test]
fn a_repeated_key_is_refused_or_the_last_row_wins() {
    contract::a_repeated_key_is_refused_or_the_last_row_wins::<HnswIndex>();
}

#[test]
fn bad_rows_are_refused_by_key() {
    contract::bad_rows_are_refused_by_key::<HnswIndex>();
}

#[test]
fn a_build_stops_when_told() {
    contract::a_build_stops_when_told::<HnswIndex>();
}

#[test]
fn rows_of_one_vector_are_all_found_and_hide_nothing_behind_them() {
    contract::rows_of_one_vector_are_all_found_and_hide_nothing_behind_them::<HnswIndex>();
}

#[test]
fn many_threads_search_at_once() {
    contract::many_threads_search_at_once::<HnswIndex>();
}

#[test]
fn every_number_format_finds_the_nearest_once_rescored() {
    let rows = Rows::clustered(4_000, 64);
    for metric in [Metric::Cosine, Metric::Dot, Metric::L2] {
        for quantization in [
            Quantization::F32,
            Quantization::F16,
            Quantization::Bf16,
            Quantization::I8,
        ] {
            // Numbers that an f16 does not hold.
            let mut rows = rows.clone();
            rows.vectors.iter_mut().for_each(|value| *value *= 1e6);
            let dir = tempfile::tempdir().unwrap();
            let config = HnswConfig {
                quantization,
                metric,
                ..HnswConfig::default()
            };
            let built = build(dir.path(), &rows, config, BuildOptions::default()).unwrap();
            let index = HnswIndex::open(dir.path(), &built.files).unwrap();
            let mut right = 0;
            for query in rows.queries(30) {
                let truth = rows.truth(metric, &query, 10, Visible::All);
                // Wide, as the graph's own recall (which differs from build to build) is not meant here.
                let found = index.search(&query, 10, Some(256), Visible::All).unwrap();
                right += found
                    .hits
                    .iter()
                    .filter(|hit| truth.contains(&hit.key))
                    .count();
            }
            assert!(
                right >= 294,
                "{right} of 300 for {metric:?} {quantization:?}"
            );
        }
    }
}

/// The scan of rounded rows: few of them may be seen, equal ones among them, and some are not of this generation.
#[test]
fn a_scan_of_rounded_rows_finds_what_one_of_exact_rows_does() {
    let mut rows = Rows::clustered(6_000, 64);
    let dimensions = rows.dimensions;
    // Every tenth row has the vector of the one before.
    for row in (10..6_000).step_by(10) {
        let before = rows.row(row - 1).to_vec();
        rows.vectors[row * dimensions..(row + 1) * dimensions].copy_from_slice(&before);
    }
    let shown: RoaringBitmap = (0..7_000).filter(|slot| slot % 11 < 2).collect();
    for quantization in [Quantization::F16, Quantization::Bf16, Quantization::I8] {
        let dir = tempfile::tempdir().unwrap();
        let config = HnswConfig {
            quantization,
            ..HnswConfig::default()
        };
        let built = build(dir.path(), &rows, config, BuildOptions::default()).unwrap();
        let index = HnswIndex::open(dir.path(), &built.files).unwrap();
        let seen = |slot: u64| slot % 11 < 2;
        let mut right = 0;
        for query in rows.queries(30) {
            for visible in [Visible::Only(&shown), Visible::Where(&seen)] {
                let found = index.search_shown(&query, 10, visible);
                assert_eq!(found.path, SearchPath::Ann, "it was not of rounded rows");
                let exact = index.search_exact(&query, 10, visible).unwrap();
                let slots =
                    |found: &Found| -> Vec<u64> { found.hits.iter().map(|hit| hit.slot).collect() };
                let (found, exact) = (slots(&found), slots(&exact));
                assert_eq!(found.len(), 10);
                assert!(found.iter().all(|&slot| slot % 11 < 2), "{found:?}");
                let once: std::collections::BTreeSet<_> = found.iter().collect();
                assert_eq!(once.len(), 10, "a row was found twice: {found:?}");
                right += found.iter().filter(|slot| exact.contains(slot)).count();
            }
        }
        assert!(right >= 597, "{right} of 600 for {quantization:?}");
    }
}

#[test]
fn a_panic_in_a_filter_reaches_the_caller_and_the_index_lives_on() {
    let Fixture { rows, index, .. } = HnswIndex::fixture();
    let query = &rows.queries(1)[0];
    let test = |slot: u64| {
        if slot == 4_000 {
            panic!("in the filter")
        } else {
            true
        }
    };
    for _ in 0..100 {
        let search = std::panic::AssertUnwindSafe(|| {
            index.search(query, ROWS / 2, Some(ROWS), Visible::Where(&test))
        });
        assert!(std::panic::catch_unwind(search).is_err());
    }
    assert_eq!(
        index
            .search(query, 10, None, Visible::All)
            .unwrap()
            .hits
            .len(),
        10
    );
}

#[test]
fn a_generation_is_not_built_over_another() {
    let Fixture { dir, .. } = HnswIndex::fixture();
    let error = HnswBuilder::new(
        dir.path(),
        4,
        HnswConfig::default(),
        BuildOptions::default(),
    )
    .err()
    .unwrap();
    assert!(
        matches!(error, VectorError::Io { ref source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
    );
}

#[test]
fn a_generation_from_before_there_were_rows_for_other_engines_and_landmarks_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let rows = Rows::clustered(50, 8);
    let built = build(
        dir.path(),
        &rows,
        HnswConfig::default(),
        BuildOptions::default(),
    );
    let mut files = built.unwrap().files;
    let later = [AT_REST_FILE, LANDMARKS_FILE];
    for name in later {
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    let refused = HnswIndex::open(dir.path(), &files).err().unwrap();
    assert!(refused.to_string().contains("is missing"), "{refused}");
    files.retain(|file| !later.contains(&file.name.as_str()));
    let refused = HnswIndex::open(dir.path(), &files).err().unwrap();
    let text = refused.to_string();
    assert!(text.contains("has no known content"), "{text}");

    let path = dir.path().join(MANIFEST_FILE);
    let mut manifest: Manifest = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    manifest
        .files
        .retain(|file| !later.contains(&file.name.as_str()));
    std::fs::write(&path, serde_json::to_vec(&manifest).unwrap()).unwrap();
    files.retain(|file| file.name != MANIFEST_FILE);
    files.push(seal(dir.path(), MANIFEST_FILE).unwrap());
    assert_eq!(HnswIndex::open(dir.path(), &files).unwrap().len(), 50);
}

/// Groups of 20 rows far from each other, then many rows that lie close together.
fn islands_and_a_sea(islands: usize, sea: usize, dimensions: usize) -> Rows {
    let centres = Rows::clustered(islands + 1, dimensions).vectors;
    let noise = Rows::clustered(20 * islands + sea, dimensions).vectors;
    let mut rows = Rows {
        dimensions,
        ..Rows::empty()
    };
    for (row, noise) in noise.chunks_exact(dimensions).enumerate() {
        let group = (row / 20).min(islands);
        let centre = &centres[group * dimensions..][..dimensions];
        rows.keys.push(row.to_string());
        rows.texts.push(String::new());
        let near = centre.iter().zip(noise).map(|(at, off)| at + 0.02 * off);
        rows.vectors.extend(near);
    }
    rows
}

#[test]
fn rows_that_are_nearly_all_alike_hide_no_few_others() {
    let (islands, sea) = (20, 12_000);
    let rows = islands_and_a_sea(islands, sea, 64);
    let dir = tempfile::tempdir().unwrap();
    // One thread links the same graph every time; of two, a build in forty missed one of the 400.
    let options = BuildOptions {
        threads: 1,
        ..BuildOptions::default()
    };
    let built = build(dir.path(), &rows, HnswConfig::default(), options);
    let files = built.unwrap().files;
    let found = |index: &HnswIndex, visible: Visible| -> usize {
        (0..islands)
            .map(|island| {
                let query = &rows.vectors[20 * island * 64..][..64];
                let found = index.search(query, 20, None, visible).unwrap();
                let of_island = |key: &str| key.parse::<usize>().unwrap() / 20 == island;
                found.hits.iter().filter(|hit| of_island(&hit.key)).count()
            })
            .sum()
    };
    let mut index = HnswIndex::open(dir.path(), &files).unwrap();
    assert_eq!(found(&index, Visible::All), 20 * islands);
    let hidden = (1_000..1_030).collect();
    assert_eq!(found(&index, Visible::Except(&hidden)), 20 * islands);
    let most = |slot: u64| slot < 400 || slot.is_multiple_of(3);
    assert_eq!(found(&index, Visible::Where(&most)), 20 * islands);

    let graph = &mut index.graph.as_mut().unwrap().0;
    assert!(
        graph.layers.landmarks.len() <= 100,
        "{}",
        graph.layers.landmarks.len()
    );
    graph.layers.landmarks.clear();
    let without = found(&index, Visible::All);
    assert!(
        without < 20 * islands,
        "{without} are found without landmarks"
    );
}

#[test]
fn rows_that_are_linked_at_the_same_time_are_all_linked_to() {
    let rows = Rows::clustered(6_000, 32);
    let dir = tempfile::tempdir().unwrap();
    // Far more threads than processors: each is often stopped in the middle of a row.
    let options = BuildOptions {
        threads: 16,
        ..BuildOptions::default()
    };
    let built = build(dir.path(), &rows, HnswConfig::default(), options).unwrap();
    let index = HnswIndex::open(dir.path(), &built.files).unwrap();
    let layers = &index.graph.as_ref().unwrap().0.layers;
    let tape = &layers.tape;
    let mut linked_to = vec![false; tape.nodes];
    linked_to[tape.entry as usize] = true;
    for node in (0_u32..).take(tape.nodes) {
        for link in tape.links(node, 0) {
            linked_to[link as usize] = true;
        }
    }
    let nodes = (0_u32..).zip(linked_to);
    let lost: Vec<u32> = nodes
        .filter_map(|(node, linked_to)| (!linked_to).then_some(node))
        .collect();
    // Usually none; without linking again about nine. What is dropped even so is a landmark.
    assert!(lost.len() < 3, "{lost:?}");
    assert!(lost.iter().all(|node| layers.landmarks.contains(node)));
}

#[test]
fn a_graph_that_leads_everywhere_has_few_landmarks() {
    let Fixture { index, .. } = HnswIndex::fixture();
    let landmarks = &index.graph.as_ref().unwrap().0.layers.landmarks;
    assert!(landmarks.len() < 20, "{}", landmarks.len());
}
