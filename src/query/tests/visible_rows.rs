//! Random files, deletions and queries against filtering by hand: what is deleted never shows, what
//! is not always does, however the scan is split, pruned or cut short.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::{ids, on};
use crate::query::testing::{Lake, people};

/// What a random query asks of the rows.
#[derive(Debug, Clone)]
struct Ask {
    from: i64,
    to: i64,
    group: Option<i64>,
    name: Option<i64>,
    limit: Option<usize>,
    descending: Option<bool>,
}

fn asks() -> impl Strategy<Value = Ask> {
    (
        -5..320_i64,
        -5..320_i64,
        proptest::option::weighted(0.3, 0..7_i64),
        proptest::option::weighted(0.2, 0..300_i64),
        proptest::option::of(0..100_usize),
        proptest::option::of(any::<bool>()),
    )
        .prop_map(|(from, to, group, name, limit, descending)| Ask {
            from: from.min(to),
            to: from.max(to),
            group,
            name,
            limit,
            descending,
        })
}

/// Files by their rows, what is deleted of each, and rows of a row group.
fn lakes() -> impl Strategy<Value = (Vec<(i64, Vec<u32>)>, usize)> {
    let runs = proptest::collection::vec((0..100_u32, 1..40_u32), 0..4);
    let file = (1..100_i64, runs).prop_map(|(rows, runs)| {
        let gone: BTreeSet<u32> = runs
            .iter()
            .flat_map(|(start, length)| *start..start + length)
            .filter(|gone| i64::from(*gone) < rows)
            .collect();
        (rows, gone.into_iter().collect())
    });
    (proptest::collection::vec(file, 1..4), 3..40_usize)
}

fn sql_of(ask: &Ask) -> String {
    use std::fmt::Write;
    let mut sql = format!(
        "SELECT id FROM t WHERE id >= {} AND id < {}",
        ask.from, ask.to
    );
    if let Some(group) = ask.group {
        write!(sql, " AND grp <> {group}").unwrap();
    }
    if let Some(name) = ask.name {
        write!(sql, " AND name <= 'n{name}'").unwrap();
    }
    if let Some(descending) = ask.descending {
        write!(sql, " ORDER BY id{}", if descending { " DESC" } else { "" }).unwrap();
    }
    if let Some(limit) = ask.limit {
        write!(sql, " LIMIT {limit}").unwrap();
    }
    sql
}

fn expected(files: &[(i64, Vec<u32>)], ask: &Ask) -> Vec<i64> {
    let mut first = 0;
    let mut ids = Vec::new();
    for (rows, gone) in files {
        let visible = (0..*rows).filter(|row| !gone.iter().any(|g| i64::from(*g) == *row));
        ids.extend(visible.map(|row| first + row));
        first += rows;
    }
    let bound = ask.name.map(|name| format!("n{name}"));
    ids.retain(|id| {
        *id >= ask.from
            && *id < ask.to
            && ask.group.is_none_or(|group| id % 7 != group)
            && bound
                .as_ref()
                .is_none_or(|bound| &format!("n{id}") <= bound)
    });
    ids
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_query_sees_exactly_the_rows_that_are_left(
        (files, group_rows) in lakes(),
        partitions in 1..=4_usize,
        pushdown in any::<bool>(),
        asks in proptest::collection::vec(asks(), 12),
    ) {
        let mut lake = Lake::with(|config| {
            config.target_partitions = partitions;
            config.pushdown_filters = pushdown;
            config.repartition_bytes_min = 1;
        });
        let mut first = 0;
        let mut batches = Vec::new();
        for (rows, gone) in &files {
            batches.push((people(first, *rows), gone.clone()));
            first += rows;
        }
        lake.add("t", &batches, group_rows);
        on(check(&lake, &files, &asks))?;
        on(whole(&lake, &files, partitions))?;
    }
}

async fn check(lake: &Lake, files: &[(i64, Vec<u32>)], asks: &[Ask]) -> Result<(), TestCaseError> {
    for ask in asks {
        let sql = sql_of(ask);
        let mut all = expected(files, ask);
        let total = all.len();
        let mut seen = ids(&lake.batches(&sql).await);
        match ask.descending {
            Some(true) => all.reverse(),
            Some(false) => {}
            None => seen.sort_unstable(),
        }
        let wanted = ask.limit.unwrap_or(usize::MAX).min(total);
        prop_assert_eq!(seen.len(), wanted, "{}", sql);
        if ask.descending.is_some() || wanted == total {
            prop_assert_eq!(&seen, &all[..wanted], "{}", sql);
        } else {
            prop_assert!(seen.iter().all(|id| all.contains(id)), "{}", sql);
        }
    }
    let whole = Ask {
        from: 0,
        to: i64::MAX,
        group: None,
        name: None,
        limit: None,
        descending: None,
    };
    let left = expected(files, &whole);
    let count = lake
        .rows("SELECT count(*), count(id), min(id), max(id) FROM t")
        .await;
    let rows = left.len();
    prop_assert_eq!(count, json!([[rows, rows, left.first(), left.last()]]));
    Ok(())
}

/// Scans that nothing is pushed into: all rows, in the order of the files where there is one.
async fn whole(
    lake: &Lake,
    files: &[(i64, Vec<u32>)],
    partitions: usize,
) -> Result<(), TestCaseError> {
    let left = expected(
        files,
        &Ask {
            from: 0,
            to: i64::MAX,
            group: None,
            name: None,
            limit: None,
            descending: None,
        },
    );
    for columns in ["id", "id, name, grp", "id + 0 AS id, grp"] {
        let batches = lake.batches(&format!("SELECT {columns} FROM t")).await;
        let mut seen = ids(&batches);
        if partitions > 1 {
            seen.sort_unstable();
        }
        prop_assert_eq!(&seen, &left, "{}", columns);
    }
    let descending = ids(&lake.batches("SELECT id FROM t ORDER BY id DESC").await);
    let reversed: Vec<i64> = left.iter().rev().copied().collect();
    prop_assert_eq!(descending, reversed);
    let sql = "SELECT id FROM t ORDER BY name, id LIMIT 7";
    let mut by_name = left.clone();
    by_name.sort_by_key(|id| format!("n{id}"));
    by_name.truncate(7);
    prop_assert_eq!(ids(&lake.batches(sql).await), by_name, "{}", sql);
    let sql = "SELECT t.id FROM t JOIN t AS other ON t.id = other.id WHERE other.grp = 3";
    let mut joined = ids(&lake.batches(sql).await);
    joined.sort_unstable();
    let threes: Vec<i64> = left.iter().copied().filter(|id| id % 7 == 3).collect();
    prop_assert_eq!(joined, threes, "{}", sql);
    let sums = lake
        .rows("SELECT grp, count(*), sum(id) FROM t GROUP BY grp ORDER BY grp")
        .await;
    let groups = (0..7_i64).filter_map(|group| {
        let ids: Vec<i64> = left.iter().filter(|id| *id % 7 == group).copied().collect();
        (!ids.is_empty()).then(|| json!([group, ids.len(), ids.iter().sum::<i64>()]))
    });
    prop_assert_eq!(sums, groups.collect::<serde_json::Value>());
    Ok(())
}
