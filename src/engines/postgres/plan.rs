//! What to ask the server: a table or query is described, its columns get their types, and the
//! `COPY` statements that read it are written. Called by `PostgresSource::read` inside the read's
//! own snapshot; moves no rows.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use lakehouse_kernels::pgcopy::{TextWire, Wire};

use super::error::PostgresError;
use super::session::{Session, quoted_literal, quoted_name};
use super::types::wire;
use super::{ReadOptions, Relation, Watermark};

/// From this size on a table is read over several connections, unless the caller says otherwise.
const PARALLEL_BYTES: u64 = 32 << 20;
/// What one `COPY` of a parallel read covers.
const SHARE_BYTES: u64 = 16 << 20;
/// Connections at most, and at most without being asked for.
const CONNECTIONS_MAX: usize = 16;
const CONNECTIONS_AUTO: usize = 4;

/// A read, ready to run.
pub(super) struct Plan {
    pub(super) schema: SchemaRef,
    pub(super) wires: Vec<Wire>,
    pub(super) notes: Vec<String>,
    /// The `COPY` statements that together give every row once.
    pub(super) copies: Vec<String>,
    /// How many connections share them.
    pub(super) connections: usize,
    pub(super) watermark_after: Option<String>,
    /// The table with the schema that it was found in, or the query.
    pub(super) relation: Relation,
}

/// A column as described: its name in the result, its name in the `FROM`, and how it travels.
struct Column {
    name: String,
    source: String,
    wire: Wire,
    as_text: bool,
}

/// Where the rows come from, as SQL.
struct From {
    sql: String,
    relation: Relation,
    /// Bytes of its largest heap and bytes of a page, when it can be read by ranges of pages.
    heap: Option<(u64, u64)>,
}

/// Describes what is to be read and writes its statements.
pub(super) async fn plan(
    session: &mut Session,
    what: &Relation,
    options: &ReadOptions,
) -> Result<Plan, PostgresError> {
    if options
        .partitions
        .is_some_and(|count| !(1..=CONNECTIONS_MAX).contains(&count))
    {
        return Err(PostgresError::unsupported(format!(
            "`partitions` must be from 1 to {CONNECTIONS_MAX}"
        )));
    }
    let mut notes = Vec::new();
    let (from, mut columns) = match what {
        Relation::Table { schema, name } => {
            let from = find_table(session, schema.as_deref(), name).await?;
            let columns = describe(session, &format!("SELECT * FROM {}", from.sql)).await?;
            if columns.is_empty() {
                let what = format!("table {} has no columns to read", from.sql);
                return Err(PostgresError::unsupported(what));
            }
            (from, columns)
        }
        Relation::Query(sql) => describe_query(session, sql).await?,
    };
    if options.interval_as_text {
        columns
            .iter_mut()
            .filter(|column| holds_interval(&column.wire))
            .for_each(carry_as_text);
    }
    let filter = since_filter(options.since.as_ref(), &columns)?;
    if matches!(what, Relation::Table { .. }) {
        probe_dimensions(session, &from, filter.as_deref(), &mut columns).await?;
    }
    for column in columns.iter().filter(|column| column.as_text) {
        notes.push(format!("column `{}` is carried as text", column.name));
    }
    let watermark_after = match &options.since {
        None => None,
        Some(since) => highest(session, &from, &columns, since, filter.as_deref()).await?,
    };
    let (copies, connections) = copies(&from, &columns, filter.as_deref(), options);
    let fields: Vec<Field> = columns
        .iter()
        .map(|column| Field::new(&column.name, column.wire.arrow(), true))
        .collect();
    Ok(Plan {
        schema: Arc::new(Schema::new(fields)),
        wires: columns.into_iter().map(|column| column.wire).collect(),
        notes,
        copies,
        connections,
        watermark_after,
        relation: from.relation,
    })
}

async fn find_table(
    session: &mut Session,
    schema: Option<&str>,
    name: &str,
) -> Result<From, PostgresError> {
    let mut spelled = schema
        .map(|schema| quoted_name(schema) + ".")
        .unwrap_or_default();
    spelled.push_str(&quoted_name(name));
    // The tree is the table with its partitions: ranges of pages hold for each of them.
    let sql = format!(
        "WITH RECURSIVE tree(oid) AS (SELECT to_regclass({0})::oid UNION ALL \
           SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid) \
         SELECT n.nspname, c.relkind, max(pg_relation_size(k.oid)), current_setting('block_size'), \
           bool_and(k.relkind IN ('r', 'p', 'm') AND coalesce(a.amname, 'heap') = 'heap') \
           AND current_setting('server_version_num')::int >= 140000 \
         FROM tree JOIN pg_class k ON k.oid = tree.oid LEFT JOIN pg_am a ON a.oid = k.relam \
         CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = to_regclass({0}) GROUP BY n.nspname, c.relkind",
        quoted_literal(&spelled)
    );
    let rows = session.rows(&sql).await?;
    let Some(row) = rows.first() else {
        let near = near_tables(session, schema, name).await?;
        return Err(PostgresError::NoTable {
            table: spelled,
            near,
        });
    };
    let kind = row.get(1).unwrap_or_default();
    if !matches!(kind, "r" | "p" | "v" | "m" | "f") {
        return Err(PostgresError::unsupported(format!(
            "{spelled} is no table and no view"
        )));
    }
    let number = |index| {
        row.get(index)
            .and_then(|text: &str| text.parse::<u64>().ok())
    };
    let heap = match (row.get(4), number(2), number(3)) {
        (Some("t"), Some(bytes), Some(page)) if page > 0 => Some((bytes, page)),
        _ => None,
    };
    let schema = row.get(0).unwrap_or_default().to_owned();
    let sql = format!("{}.{}", quoted_name(&schema), quoted_name(name));
    Ok(From {
        sql,
        relation: Relation::Table {
            schema: Some(schema),
            name: name.to_owned(),
        },
        heap,
    })
}

async fn near_tables(
    session: &mut Session,
    schema: Option<&str>,
    name: &str,
) -> Result<Vec<String>, PostgresError> {
    const TABLES_MAX: usize = 10_000;
    let rows = session
        .rows(&format!(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname <> 'information_schema' \
             AND n.nspname !~ '^pg_' LIMIT {TABLES_MAX}"
        ))
        .await?;
    let wanted = format!("{}.{}", schema.unwrap_or("public"), name).to_lowercase();
    let mut scored: Vec<(f64, String)> = rows
        .iter()
        .filter_map(|row| Some((row.get(0)?, row.get(1)?)))
        .map(|(schema, table)| {
            let score = strsim::jaro_winkler(&wanted, &format!("{schema}.{table}").to_lowercase());
            (
                score,
                format!("{}.{}", quoted_name(schema), quoted_name(table)),
            )
        })
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    Ok(scored.into_iter().take(3).map(|(_, table)| table).collect())
}

/// The caller's query is parsed by the server alone before it is put into a statement of ours, so
/// that it is one whole statement and can not end ours early.
async fn describe_query(
    session: &mut Session,
    sql: &str,
) -> Result<(From, Vec<Column>), PostgresError> {
    if sql.contains('\0') {
        return Err(PostgresError::unsupported(
            "a query can hold no NUL character",
        ));
    }
    let sql = sql.trim_end_matches(|c: char| c == ';' || c.is_whitespace());
    let mut columns = describe(session, sql).await?;
    if columns.is_empty() {
        return Err(only_reading());
    }
    let mut aliases = String::new();
    for (index, column) in columns.iter_mut().enumerate() {
        column.source = format!("\"c{index}\"");
        let comma = if index == 0 { "" } else { ", " };
        write!(aliases, "{comma}{}", column.source).expect("a string takes all");
    }
    // The line break ends a comment in the query's last line.
    let from = format!("({sql}\n) AS q({aliases})");
    if let Err(error) = session.prepare(&format!("SELECT * FROM {from}")).await {
        return Err(match error {
            PostgresError::Syntax { .. } | PostgresError::Server { .. } => only_reading(),
            other => other,
        });
    }
    Ok((
        From {
            sql: from,
            relation: Relation::Query(sql.to_owned()),
            heap: None,
        },
        columns,
    ))
}

fn only_reading() -> PostgresError {
    let message = "the query must be one SELECT, VALUES, TABLE or WITH that returns columns";
    PostgresError::ReadOnly {
        message: message.to_owned(),
    }
}

async fn describe(session: &mut Session, sql: &str) -> Result<Vec<Column>, PostgresError> {
    let statement = session.prepare(sql).await?;
    if !statement.params().is_empty() {
        return Err(PostgresError::unsupported(
            "a query can have no parameters (`$1`)",
        ));
    }
    let mut seen = BTreeSet::new();
    let mut columns = Vec::with_capacity(statement.columns().len());
    for column in statement.columns() {
        let name = column.name().to_owned();
        if !seen.insert(name.clone()) {
            let what = format!("two columns are named `{name}`; give one another name with `AS`");
            return Err(PostgresError::unsupported(what));
        }
        let native = wire(column.type_(), column.type_modifier());
        columns.push(Column {
            source: quoted_name(&name),
            name,
            as_text: native.is_none(),
            wire: native.unwrap_or(Wire::Text(TextWire::Plain)),
        });
    }
    Ok(columns)
}

fn carry_as_text(column: &mut Column) {
    column.as_text = true;
    column.wire = Wire::Text(TextWire::Plain);
}

fn holds_interval(wire: &Wire) -> bool {
    match wire {
        Wire::List(item) => **item == Wire::Interval,
        wire => *wire == Wire::Interval,
    }
}

/// Postgres does not enforce how many dimensions a column's arrays have, so they are counted.
async fn probe_dimensions(
    session: &mut Session,
    from: &From,
    filter: Option<&str>,
    columns: &mut [Column],
) -> Result<(), PostgresError> {
    let lists: Vec<usize> = (0..columns.len())
        .filter(|&index| matches!(columns[index].wire, Wire::List(_)))
        .collect();
    if lists.is_empty() {
        return Ok(());
    }
    let asked: Vec<String> = lists
        .iter()
        .map(|&index| format!("bool_or(array_ndims({}) > 1)", columns[index].source))
        .collect();
    let sql = format!(
        "SELECT {} FROM {}{}",
        asked.join(", "),
        from.sql,
        clause(filter)
    );
    let rows = session.rows(&sql).await?;
    let Some(row) = rows.first() else {
        return Ok(());
    };
    for (position, &index) in lists.iter().enumerate() {
        if row.get(position) == Some("t") {
            carry_as_text(&mut columns[index]);
        }
    }
    Ok(())
}

fn find<'a>(columns: &'a [Column], name: &str) -> Result<&'a Column, PostgresError> {
    columns
        .iter()
        .find(|column| column.name == name)
        .ok_or_else(|| PostgresError::NoColumn {
            message: format!("column `{name}` does not exist, so it cannot be the watermark"),
        })
}

fn since_filter(
    since: Option<&Watermark>,
    columns: &[Column],
) -> Result<Option<String>, PostgresError> {
    let Some(since) = since else { return Ok(None) };
    let column = find(columns, &since.column)?;
    let Some(value) = &since.value else {
        return Ok(None);
    };
    if value.contains('\0') {
        return Err(PostgresError::unsupported(
            "a watermark can hold no NUL character",
        ));
    }
    let operator = if since.inclusive { ">=" } else { ">" };
    Ok(Some(format!(
        "{} {operator} {}",
        column.source,
        quoted_literal(value)
    )))
}

/// The highest watermark of the snapshot, or the one before when there is no newer row. Infinite
/// dates are passed over: nothing would ever be newer.
async fn highest(
    session: &mut Session,
    from: &From,
    columns: &[Column],
    since: &Watermark,
    filter: Option<&str>,
) -> Result<Option<String>, PostgresError> {
    let column = find(columns, &since.column)?;
    let mut conditions = format!("{} IS NOT NULL", column.source);
    if column.wire.has_infinities() {
        write!(conditions, " AND isfinite({})", column.source).expect("a string takes all");
    }
    if let Some(filter) = filter {
        write!(conditions, " AND {filter}").expect("a string takes all");
    }
    let sql = format!(
        "SELECT CAST({0} AS text) AS lakehouse_highest FROM {1} WHERE {conditions} \
         ORDER BY {0} DESC LIMIT 1",
        column.source, from.sql
    );
    let rows = session.rows(&sql).await?;
    let found = rows.first().and_then(|row| row.get(0)).map(str::to_owned);
    Ok(found.or_else(|| since.value.clone()))
}

fn clause(filter: Option<&str>) -> String {
    filter
        .map(|filter| format!(" WHERE {filter}"))
        .unwrap_or_default()
}

/// The statements, and over how many connections they are spread.
fn copies(
    from: &From,
    columns: &[Column],
    filter: Option<&str>,
    options: &ReadOptions,
) -> (Vec<String>, usize) {
    let selected: Vec<String> = columns
        .iter()
        .map(|column| {
            if column.as_text {
                format!("CAST({} AS text)", column.source)
            } else {
                column.source.clone()
            }
        })
        .collect();
    let select = format!("SELECT {} FROM {}", selected.join(", "), from.sql);
    let copy = |filter: Option<&str>| {
        format!(
            "COPY ({select}{}) TO STDOUT (FORMAT binary)",
            clause(filter)
        )
    };
    let Some((pages, page_bytes)) = from.heap.map(|(bytes, page)| (bytes / page, page)) else {
        return (vec![copy(filter)], 1);
    };
    let connections = connections(pages * page_bytes, filter.is_some(), options);
    let share = (SHARE_BYTES / page_bytes)
        .min(pages / connections as u64)
        .max(1);
    let shares = pages / share;
    if connections == 1 || shares < 2 {
        return (vec![copy(filter)], 1);
    }
    let ranges = (0..shares).map(|index| {
        let mut range = format!("ctid >= '({},0)'", index * share);
        // The last one has no end: it takes what larger partitions have beyond it.
        if index + 1 < shares {
            write!(range, " AND ctid < '({},0)'", (index + 1) * share).expect("a string takes all");
        }
        if let Some(filter) = filter {
            write!(range, " AND {filter}").expect("a string takes all");
        }
        copy(Some(&range))
    });
    (ranges.collect(), connections)
}

/// An incremental read is left to an index on the watermark.
fn connections(bytes: u64, filtered: bool, options: &ReadOptions) -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    match options.partitions {
        Some(count) => count,
        None if filtered || bytes < PARALLEL_BYTES => 1,
        None => cores.min(CONNECTIONS_AUTO),
    }
}
