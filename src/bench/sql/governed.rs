//! `lakehouse bench sql --governed`: the same queries through views with a filter and two redactions, beside
//! the same views written out as SQL in plain `DataFusion`, and a group-by over a table of timesheets
//! through such a view. The answers of both sides are compared before anything is measured.

use std::{borrow::Cow, path::PathBuf};

use arrow::datatypes::SchemaRef;
use serde_json::{Value, json};

use super::{ARROW_STREAM, Query, Sides, line};
use crate::{
    bench::{
        BenchError,
        daemon::{Daemon, client_runtime, generated},
        deletes::table,
        error::Doing as _,
        make_dir,
        plain::Plain,
        report::{Limit, Report, Series, print, progress},
        tpch::{Batches, QUERY_COUNT, TpchTable, ipc_chunks, parallel_batches, query},
    },
    cli::output,
};

/// What a base is called; the view has the name that the queries use.
const BASE: &str = "base_";
/// The table of timesheets.
const SHEETS: &str = "timesheets";
/// The question to it.
const GROUP_BY: &str = "SELECT branch, status, count(*) AS sheets, sum(amount) AS amount, avg(hours) AS hours, \
    count(DISTINCT placement_id) AS placements FROM timesheets GROUP BY branch, status ORDER BY branch, status";

/// A view: its filter, and two columns with their rule, here and in SQL.
struct Governed {
    table: &'static str,
    filter: &'static str,
    rules: [Ruled; 2],
}

/// A rule as the daemon has it, and as SQL.
struct Ruled {
    column: &'static str,
    rule: &'static str,
    sql: &'static str,
}

const VIEWS: [Governed; 4] = [
    Governed {
        table: "lineitem",
        filter: "l_shipmode <> 'REG AIR'",
        rules: [
            Ruled {
                column: "l_comment",
                rule: r#"{"null":{}}"#,
                sql: "CAST(NULL AS VARCHAR)",
            },
            Ruled {
                column: "l_linenumber",
                rule: r#"{"bucket":{"width":4}}"#,
                sql: "l_linenumber - l_linenumber % 4",
            },
        ],
    },
    Governed {
        table: "orders",
        filter: "o_orderstatus <> 'P'",
        rules: [
            Ruled {
                column: "o_clerk",
                rule: r#"{"mask":{"keep_prefix":5,"keep_suffix":0}}"#,
                sql: "concat(substr(o_clerk, 1, 5), '***')",
            },
            Ruled {
                column: "o_shippriority",
                rule: r#"{"constant":{"value":0}}"#,
                sql: "CAST(0 AS BIGINT)",
            },
        ],
    },
    Governed {
        table: "customer",
        filter: "c_nationkey <> 24",
        rules: [
            Ruled {
                column: "c_phone",
                rule: r#"{"mask":{"keep_prefix":2,"keep_suffix":0}}"#,
                sql: "concat(substr(c_phone, 1, 2), '***')",
            },
            Ruled {
                column: "c_address",
                rule: r#"{"null":{}}"#,
                sql: "CAST(NULL AS VARCHAR)",
            },
        ],
    },
    Governed {
        table: SHEETS,
        filter: "status <> 'disputed'",
        rules: [
            Ruled {
                column: "placement_id",
                rule: r#"{"bucket":{"width":100}}"#,
                sql: "placement_id - placement_id % 100",
            },
            Ruled {
                column: "approved_at",
                rule: r#"{"null":{}}"#,
                sql: "CAST(NULL AS TIMESTAMP)",
            },
        ],
    },
];

/// Runs the benchmark over tables of this scale, with so many timesheets.
///
/// # Errors
/// As [`super::run`].
pub(super) fn run(
    dir: &std::path::Path,
    scale: f64,
    sheets: u64,
    repeat: u32,
    report: &mut Report,
) -> Result<(), BenchError> {
    let daemon = Daemon::start(&make_dir(dir, "data")?)?;
    let client = client_runtime()?;
    let plain = Plain::new(&make_dir(dir, "spill")?)?;
    client.block_on(load(&daemon, &plain, scale, sheets))?;
    for view in &VIEWS {
        plain.answer(&view.sql())?;
    }
    let sides = Sides {
        daemon,
        client,
        plain,
    };
    progress("sql: answers of both sides compared");
    let mut queries = Vec::new();
    for number in 1..=QUERY_COUNT {
        let sql = query(number, scale).expect("queries are numbered from 1 to their count");
        queries.push(sides.compared(number, sql)?);
    }
    queries.push(sides.compared(QUERY_COUNT + 1, Cow::Borrowed(GROUP_BY))?);
    sides.rounds(&mut queries, repeat)?;
    report.set("sheets", json!(sheets));
    summarise(&queries, report)
}

impl Sides {
    /// A query whose answers are the same on both sides.
    fn compared(&self, number: usize, sql: Cow<'static, str>) -> Result<Query, BenchError> {
        let rows = self.same_answer(number, &sql)?;
        Ok(Query {
            number,
            sql,
            rows: rows.iter().map(arrow::array::RecordBatch::num_rows).sum(),
            ours: Series::default(),
            plain: Series::default(),
        })
    }
}

/// Takes the tables in, shows their files to the baseline, and makes the daemon's views.
async fn load(daemon: &Daemon, plain: &Plain, scale: f64, sheets: u64) -> Result<(), BenchError> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    for table in TpchTable::ALL {
        let rows = parallel_batches(table, scale, threads);
        take_in(
            daemon,
            plain,
            table.name(),
            table.key(),
            &table.schema(),
            rows,
        )
        .await?;
    }
    let (schema, rows) = (table::schema(), table::batches(sheets));
    take_in(daemon, plain, SHEETS, Some(table::KEY), &schema, rows).await?;
    for view in &VIEWS {
        let base = format!("{BASE}{}", view.table);
        let manifest = daemon.manifest(&base).await?;
        let body = view.body(&manifest);
        let made = daemon.client().post(&["catalog", "views"], &body);
        made.await.doing(&format!("view `{}`", view.table))?;
    }
    Ok(())
}

async fn take_in(
    daemon: &Daemon,
    plain: &Plain,
    table: &str,
    key: Option<&str>,
    schema: &SchemaRef,
    rows: Batches,
) -> Result<(), BenchError> {
    let governed = VIEWS.iter().any(|view| view.table == table);
    let name = format!("{}{table}", if governed { BASE } else { "" });
    progress(&format!("sql: ingest of {name}"));
    let body = generated(ipc_chunks(schema, rows));
    daemon.ingest(&name, key, ARROW_STREAM, body).await?;
    let manifest = daemon.manifest(&name).await?;
    let files = manifest["files"].as_array().map_or(&[][..], Vec::as_slice);
    let paths: Vec<PathBuf> = files.iter().map(|file| daemon.object(file)).collect();
    plain.register(&name, &paths).await
}

impl Governed {
    fn columns(manifest: &Value) -> Vec<String> {
        let columns = manifest["schema"].as_array().map_or(&[][..], Vec::as_slice);
        let names = columns.iter().filter_map(|column| column["name"].as_str());
        names.map(str::to_owned).collect()
    }

    /// The daemon's definition, of all columns of the base.
    fn body(&self, manifest: &Value) -> Value {
        let redactions: Vec<Value> = self
            .rules
            .iter()
            .map(|ruled| {
                let rule: Value = serde_json::from_str(ruled.rule).unwrap_or_default();
                json!({ "column": ruled.column, "rule": rule })
            })
            .collect();
        json!({
            "name": self.table,
            "base_dataset": format!("{BASE}{}", self.table),
            "columns": Self::columns(manifest),
            "row_filter": self.filter,
            "column_redactions": redactions,
        })
    }

    /// The same as SQL.
    fn sql(&self) -> String {
        let replaced: Vec<String> = self
            .rules
            .iter()
            .map(|ruled| format!("{} AS {}", ruled.sql, ruled.column))
            .collect();
        format!(
            "CREATE VIEW {0} AS SELECT * REPLACE ({1}) FROM {BASE}{0} WHERE {2}",
            self.table,
            replaced.join(", "),
            self.filter
        )
    }
}

fn summarise(queries: &[Query], report: &mut Report) -> Result<(), BenchError> {
    let (mut rows, mut figures) = (Vec::new(), Vec::new());
    let (mut ours_total, mut plain_total) = (0.0, 0.0);
    for query in queries {
        let (ours, plain) = (query.ours.median(), query.plain.median());
        let grouped = query.number > QUERY_COUNT;
        let name = if grouped {
            "group-by".to_owned()
        } else {
            ours_total += ours;
            plain_total += plain;
            format!("Q{}", query.number)
        };
        rows.push(line(&name, ours, plain));
        figures.push(json!({
            "query": name, "rows": query.rows, "ours_ms": query.ours.json(),
            "plain_ms": query.plain.json(), "ratio": ours / plain,
        }));
        if grouped {
            let what = "sql: group-by through a view to plain DataFusion";
            report.gate(what, ours / plain, Limit::AtMost(1.15));
        }
    }
    rows.push(line("all of TPC-H", ours_total, plain_total));
    let headers = ["query", "through views ms", "plain DataFusion ms", "ratio"];
    print(&output::table(&headers, &rows))?;
    report.set("queries", json!(figures));
    let ratio = ours_total / plain_total;
    let what = "sql: TPC-H through views to plain DataFusion";
    report.gate(what, ratio, Limit::AtMost(1.15));
    Ok(())
}
