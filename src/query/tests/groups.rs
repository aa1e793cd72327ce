//! The least size of groups: aggregates over enough rows come out, single rows never, whatever the detour.

use std::sync::Arc;

use lakehouse_journal::model::catalog::ViewSpec;

use super::{barrier::view, on, rows_json};
use crate::query::{
    QueryError, Reader, SessionTables,
    testing::{Lake, people},
};

/// `people` in groups of about fourteen by `grp`, told of ten rows and more.
fn lake() -> Lake {
    let mut lake = Lake::new();
    lake.add("people", &[(people(0, 100), vec![])], 100);
    lake.add("orders", &[(people(0, 100), vec![])], 100);
    let grouped = ViewSpec {
        base: "people".to_owned(),
        columns: ["id", "grp", "name"].map(str::to_owned).to_vec(),
        min_group_size: Some(10),
        ..ViewSpec::default()
    };
    lake.state
        .views
        .insert("grouped".to_owned(), view("grouped", grouped));
    lake
}

async fn ask(lake: &Lake, reader: Reader, sql: &str) -> Result<String, QueryError> {
    let tables = SessionTables::of_reader(Arc::new(lake.state.clone()), 1, reader);
    let stream = lake
        .engine
        .session(tables)
        .execute(sql, Vec::new(), Some(100));
    Ok(rows_json(stream.await?, 100).await?.rows.get().to_owned())
}

fn analyst() -> Reader {
    Reader::of_everything("ann", None)
}

#[test]
fn groups_of_enough_rows_are_told() {
    on(async {
        let lake = lake();
        for (sql, told) in [
            ("SELECT count(*) FROM grouped", "[[100]]"),
            (
                "SELECT grp, count(*) FROM grouped WHERE grp < 2 GROUP BY grp ORDER BY 1",
                "[[0,15],[1,15]]",
            ),
            ("SELECT sum(id) AS s FROM grouped WHERE id < 20", "[[190]]"),
            (
                "SELECT g + 1 FROM (SELECT grp AS g, avg(id) FROM grouped GROUP BY grp) ORDER BY 1 LIMIT 2",
                "[[1],[2]]",
            ),
            ("SELECT count(DISTINCT name) FROM grouped", "[[100]]"),
            (
                "SELECT o.id FROM orders o WHERE o.id = (SELECT count(*) - 99 FROM grouped)",
                "[[1]]",
            ),
        ] {
            assert_eq!(ask(&lake, analyst(), sql).await.unwrap(), told, "{sql}");
        }
    });
}

#[test]
fn groups_of_fewer_rows_or_values_are_not() {
    on(async {
        let lake = lake();
        for sql in [
            "SELECT count(*) FROM grouped WHERE id < 9",
            "SELECT sum(id) FROM grouped WHERE name = 'n7'",
            "SELECT id, count(*) FROM grouped GROUP BY id",
            "SELECT grp, sum(id) FROM grouped WHERE id < 30 GROUP BY grp",
        ] {
            assert_eq!(ask(&lake, analyst(), sql).await.unwrap(), "[]", "{sql}");
        }
    });
}

#[test]
fn single_rows_are_refused_on_every_detour() {
    on(async {
        let lake = lake();
        for sql in [
            "SELECT * FROM grouped",
            "SELECT DISTINCT name FROM grouped",
            "SELECT name FROM grouped ORDER BY id LIMIT 1",
            "SELECT max(name) FROM grouped",
            "SELECT min(id), max(id) FROM grouped",
            "SELECT array_agg(name) FROM grouped",
            "SELECT first_value(name) FROM grouped",
            "SELECT median(id) FROM grouped",
            "SELECT sum(CASE WHEN id = 7 THEN grp ELSE 0 END) FROM grouped",
            "SELECT sum(id) FILTER (WHERE id = 7) FROM grouped",
            "SELECT sum(x) FROM (SELECT CASE WHEN id = 7 THEN grp END AS x FROM grouped)",
            "SELECT count(*) FROM (SELECT * FROM grouped ORDER BY id LIMIT 7)",
            "SELECT count(*) FROM grouped g CROSS JOIN orders o WHERE g.id = 7",
            "SELECT sum(g.id) FROM grouped g JOIN orders o ON g.id = o.id",
            "SELECT count(*) FROM (SELECT name FROM grouped UNION ALL SELECT name FROM orders)",
            "SELECT o.id FROM orders o WHERE EXISTS (SELECT 1 FROM grouped g WHERE g.id = o.id)",
            "SELECT o.id FROM orders o WHERE o.id IN (SELECT id FROM grouped)",
            "SELECT o.id, (SELECT count(*) FROM grouped g WHERE g.id = o.id) FROM orders o",
            "SELECT row_number() OVER (ORDER BY id) FROM grouped",
            "SELECT grp, id, count(*) FROM grouped GROUP BY GROUPING SETS ((id), (grp, id))",
            "SELECT count(*) FROM grouped WHERE 1 / (id - 7) >= 0",
            "SELECT count(*) FROM grouped WHERE CAST(name AS INT) > 0",
            "SELECT CAST(name AS INT), count(*) FROM grouped GROUP BY 1",
            "WITH g AS (SELECT * FROM grouped) SELECT name FROM g",
        ] {
            let error = ask(&lake, analyst(), sql).await;
            let code = error.as_ref().map_err(QueryError::code);
            assert_eq!(code, Err("groups_only"), "{sql}: {error:?}");
        }
    });
}

#[test]
fn a_dataset_may_have_one_too_and_views_over_it_have_it() {
    on(async {
        let mut lake = lake();
        let dataset = Arc::make_mut(lake.state.datasets.get_mut("orders").unwrap());
        dataset.min_group_size = Some(50);
        let over = ViewSpec {
            base: "orders".to_owned(),
            columns: vec!["id".to_owned()],
            ..ViewSpec::default()
        };
        lake.state
            .views
            .insert("over".to_owned(), view("over", over));
        let bound = || Reader::nobody("bot").only(["over".to_owned()]);
        let error = ask(&lake, bound(), "SELECT id FROM over")
            .await
            .unwrap_err();
        assert_eq!(error.code(), "groups_only");
        let few = ask(&lake, bound(), "SELECT count(*) FROM over WHERE id < 49").await;
        assert_eq!(few.unwrap(), "[]");
        let own = ask(
            &lake,
            Reader::daemon(),
            "SELECT count(id) FROM orders WHERE id < 3",
        )
        .await;
        assert_eq!(own.unwrap(), "[[3]]", "the daemon's own work sees rows");
    });
}
