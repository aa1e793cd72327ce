//! Where rows went, for files as they come: sorted or not, with rows deleted before and meanwhile.

use proptest::prelude::*;

use super::*;

/// One file: its keys, and what is deleted before and while it is rewritten.
#[derive(Debug, Clone)]
struct Part {
    ids: Vec<i64>,
    before: Vec<u32>,
    meanwhile: Vec<u32>,
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let all = Just((0..120_i64).collect::<Vec<_>>()).prop_shuffle();
    let sizes = prop::collection::vec(1..40_usize, 1..5);
    let rows = || prop::collection::vec(0..40_u32, 0..25);
    let deleted = prop::collection::vec((rows(), rows(), prop::bool::weighted(0.8)), 5);
    (all, sizes, deleted).prop_map(|(all, sizes, deleted)| {
        let mut all = all.into_iter();
        let part = |(size, (before, meanwhile, sorted)): (usize, (Vec<u32>, Vec<u32>, bool))| {
            let mut ids: Vec<i64> = all.by_ref().take(size).collect();
            if sorted {
                ids.sort_unstable();
            }
            let rows = u32::try_from(ids.len()).unwrap();
            let inside = |rows_of: Vec<u32>| rows_of.into_iter().filter(|at| *at < rows).collect();
            Part {
                before: inside(before),
                meanwhile: inside(meanwhile),
                ids,
            }
        };
        let parts = sizes.into_iter().zip(deleted).map(part);
        parts.filter(|part| !part.ids.is_empty()).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_row_is_found_where_it_went_and_one_that_was_left_out_is_nowhere(
        parts in parts(),
        one_at_a_time in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        let sizes = Sizes {
            merge_bytes: if one_at_a_time { 1 } else { MERGE_BYTES },
            ..small()
        };
        runtime.block_on(follow(&parts, sizes));
    }
}

async fn follow(parts: &[Part], sizes: Sizes) {
    let world = World::new();
    let files: Vec<Rows<'_>> = parts
        .iter()
        .map(|part| (people(&part.ids), part.before.as_slice()))
        .collect();
    let before = world.dataset(&["id"], &files).await;
    let (after, rewritten) = world.compact(&before, sizes).await;
    let meanwhile: Vec<_> = parts.iter().map(|part| part.meanwhile.clone()).collect();
    let found = rewritten
        .moved
        .locate(&asked(&before, &meanwhile))
        .await
        .unwrap();
    assert_eq!(found.len(), after.files.len());
    let mut hidden = after.clone();
    let files = after.files.iter().zip(found);
    hidden.files = files
        .map(|(file, rows)| live(file.entry.clone(), rows))
        .collect();
    let expected: Vec<i64> = parts.iter().flat_map(left).collect();
    let mut seen = world.ids(&hidden).await;
    let merged = before
        .files
        .iter()
        .all(|file| file.entry.sorted_by_key || file.live_rows() == 0);
    if merged {
        let mut expected = expected;
        expected.sort_unstable();
        if sizes.merge_bytes > 1 {
            assert!(seen.is_sorted(), "{seen:?}");
        }
        seen.sort_unstable();
        assert_eq!(seen, expected);
    } else {
        assert_eq!(seen, expected);
    }
}

/// The rows of a file that nobody deleted.
fn left(part: &Part) -> impl Iterator<Item = i64> {
    let gone = |at: u32| part.before.contains(&at) || part.meanwhile.contains(&at);
    (0..)
        .zip(&part.ids)
        .filter(move |(at, _)| !gone(*at))
        .map(|(_, id)| *id)
}
