//! What plans over views go by: the rows that the views show, and nothing that they hide.

use std::{collections::BTreeSet, sync::Arc};

use datafusion::{
    catalog::TableProvider as _,
    common::{Statistics, stats::Precision},
};
use lakehouse_journal::model::catalog::{Redaction, ViewSpec};
use serde_json::json;

use super::{
    barrier::{redaction, view},
    on,
};
use crate::query::{
    Reader, SafeViewProvider, SessionTables,
    policy::Lens,
    testing::{Lake, people},
    view::Joined,
};

/// `many` of 2,000 rows and `few` of 10, of which views show those of even ids up to `shown`, and `hidden`
/// more rows that they do not show.
fn lake(hidden: i64) -> Lake {
    let mut lake = Lake::new();
    for (name, rows) in [("many", 2_000), ("few", 10)] {
        let files = [(people(0, rows), vec![]), (people(10_000, hidden), vec![])];
        lake.add(name, &files, 100);
        let spec = ViewSpec {
            base: name.to_owned(),
            columns: ["id", "grp", "name"].map(str::to_owned).to_vec(),
            row_filter: Some("id < 10000".to_owned()),
            redactions: vec![redaction("grp", Redaction::Bucket { width: 5 })],
            ..ViewSpec::default()
        };
        let name = format!("{name}_shown");
        lake.state.views.insert(name.clone(), view(&name, spec));
    }
    lake
}

fn joined(columns: &[&str]) -> Joined {
    let columns: BTreeSet<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    Joined::new(Some(columns).into())
}

/// What the scan of a view says of itself in a statement that joins on these columns.
async fn said(lake: &Lake, name: &str, joined: Joined) -> Statistics {
    let key = lake.engine.redaction_key();
    let lens = Lens::of(&lake.state, name, &Reader::daemon(), &key);
    let facts = Arc::clone(lake.engine.facts());
    let provider = SafeViewProvider::new(lens.unwrap().unwrap(), facts).joined_on(joined);
    let state = lake.engine.template();
    let plan = provider.scan(&*state, None, &[], None).await.unwrap();
    Statistics::clone(&plan.partition_statistics(None).unwrap())
}

#[test]
fn a_join_of_views_is_built_from_the_smaller_side_whichever_is_named_first() {
    on(async {
        let lake = lake(3_000);
        for (one, other) in [("many_shown", "few_shown"), ("few_shown", "many_shown")] {
            let sql = format!("SELECT count(*) FROM {one} a JOIN {other} b ON a.id = b.id");
            let plan = lake.session().explain(&sql).await.unwrap().physical;
            let (few, many) = (plan.find("view=few_shown"), plan.find("view=many_shown"));
            assert!(few.is_some() && few < many, "{plan}");
            assert_eq!(lake.rows(&sql).await, json!([[10]]));
        }
    });
}

#[test]
fn a_plan_knows_of_a_view_what_it_shows_and_of_what_it_hides_nothing() {
    on(async {
        let (one, other) = (lake(1), lake(4_000));
        let of_one = said(&one, "many_shown", joined(&["id", "grp", "name"])).await;
        assert_eq!(of_one.num_rows, Precision::Inexact(2_000));
        let id = &of_one.column_statistics[0];
        assert_eq!(id.max_value, Precision::Inexact(1_999_i64.into()));
        for redacted_or_text in &of_one.column_statistics[1..] {
            assert_eq!(redacted_or_text.max_value, Precision::Absent);
        }
        let of_other = said(&other, "many_shown", joined(&["id", "grp", "name"])).await;
        assert_eq!(of_one, of_other);
    });
}

#[test]
fn without_a_join_nothing_is_counted() {
    on(async {
        let said = said(&lake(1), "many_shown", Joined::default()).await;
        assert_eq!(said.num_rows, Precision::Absent);
    });
}

#[test]
fn of_what_is_told_in_groups_nothing_is_counted() {
    on(async {
        let mut lake = lake(1);
        let spec = ViewSpec {
            min_group_size: Some(5),
            ..lake.state.views["many_shown"].spec.clone()
        };
        let grouped = view("many_shown", spec);
        lake.state.views.insert("many_shown".to_owned(), grouped);
        let said = said(&lake, "many_shown", joined(&["id"])).await;
        assert_eq!(said.num_rows, Precision::Absent);
    });
}

#[test]
fn a_count_stands_for_later_commits_for_a_while_and_goes_with_what_is_erased() {
    on(async {
        let mut lake = lake(1);
        let rows = async |lake: &Lake| said(lake, "many_shown", joined(&["id"])).await.num_rows;
        assert_eq!(rows(&lake).await, Precision::Inexact(2_000));
        lake.add("many", &[(people(0, 500), vec![])], 100);
        assert_eq!(rows(&lake).await, Precision::Inexact(2_000), "an estimate");
        lake.engine.facts().forget(&"primary/gone".into());
        assert_eq!(rows(&lake).await, Precision::Inexact(500));
    });
}

#[test]
fn who_reads_decides_what_is_counted() {
    on(async {
        let mut lake = lake(1);
        let spec = ViewSpec {
            row_filter: Some("name = principal()".to_owned()),
            per_caller: true,
            ..lake.state.views["many_shown"].spec.clone()
        };
        lake.state.views.insert("own".to_owned(), view("own", spec));
        let sql = "SELECT count(*) FROM own a JOIN few_shown b ON a.id = b.id";
        for (who, expected) in [("n3", "[[1]]"), ("n1500", "[[0]]")] {
            let reader = Reader::nobody(who).only(["own".to_owned(), "few_shown".to_owned()]);
            let tables = SessionTables::of_reader(Arc::new(lake.state.clone()), 1, reader);
            let stream = lake.engine.session(tables).execute(sql, vec![], None).await;
            let rows = super::rows_json(stream.unwrap(), 10).await.unwrap();
            assert_eq!(rows.rows.get(), expected, "{who}");
        }
    });
}
