//! Every type, value by value, against what Postgres says of it.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type,
};

use super::cases::{AS_TEXT, Case, NATIVE};
use super::*;

const TYPES: &str = "CREATE TYPE mood AS ENUM ('sad', 'very happy'); \
    CREATE DOMAIN positive AS int4 CHECK (VALUE > 0); CREATE TYPE pair AS (n int, t text);";

fn literal(text: &str) -> String {
    session::quoted_literal(text)
}

/// One table with a column for each case; shorter columns are filled up with nulls.
fn create(cases: &[Case]) -> String {
    let columns: Vec<String> = cases
        .iter()
        .enumerate()
        .map(|(index, case)| format!("c{index} {}", case.0))
        .collect();
    let mut sql = format!(
        "{TYPES} CREATE TABLE every (n int, {});",
        columns.join(", ")
    );
    let rows = cases.iter().map(|case| case.2.len()).max().unwrap_or(0) + 1;
    for row in 0..rows {
        let values: Vec<String> = cases
            .iter()
            .map(|case| {
                case.2
                    .get(row)
                    .map_or_else(|| "NULL".to_owned(), |text| literal(text))
            })
            .collect();
        let values = values.join(", ");
        write!(sql, "INSERT INTO every VALUES ({row}, {values});").expect("a string takes all");
    }
    sql
}

fn hex(expression: &str) -> String {
    format!("encode(convert_to({expression}, 'UTF8'), 'hex')")
}

fn unhex(text: &str) -> String {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hex");
    String::from_utf8((0..text.len()).step_by(2).map(byte).collect()).expect("UTF-8")
}

/// What Postgres says of a column: a cell a line, `None` for null.
fn expected(server: &TestServer, database: &str, expression: &str) -> Vec<Option<String>> {
    let sql = format!("SET bytea_output = 'hex'; SELECT {expression} FROM every ORDER BY n;");
    let lines = server.sql(database, &sql);
    lines
        .lines()
        .map(|line| (line != "\\N").then(|| line.to_owned()))
        .collect()
}

/// A cell as Postgres writes it, for comparing; floats are compared by their bits.
fn shown(array: &dyn Array, row: usize) -> String {
    match array.data_type() {
        DataType::Boolean => array.as_boolean().value(row).to_string(),
        DataType::Int16 => array.as_primitive::<Int16Type>().value(row).to_string(),
        DataType::Int32 => array.as_primitive::<Int32Type>().value(row).to_string(),
        DataType::Int64 => array.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::UInt32 => array.as_primitive::<UInt32Type>().value(row).to_string(),
        DataType::Float32 => format!(
            "{:08x}",
            array.as_primitive::<Float32Type>().value(row).to_bits()
        ),
        DataType::Float64 => format!(
            "{:016x}",
            array.as_primitive::<Float64Type>().value(row).to_bits()
        ),
        DataType::Decimal128(..) => array.as_primitive::<Decimal128Type>().value_as_string(row),
        DataType::Utf8 => array.as_string::<i32>().value(row).to_owned(),
        DataType::Binary => {
            let bytes = array.as_binary::<i32>().value(row);
            bytes
                .iter()
                .fold("\\x".to_owned(), |text, byte| format!("{text}{byte:02x}"))
        }
        DataType::Date32 => array.as_primitive::<Date32Type>().value(row).to_string(),
        DataType::Time64(_) => array
            .as_primitive::<Time64MicrosecondType>()
            .value(row)
            .to_string(),
        DataType::Timestamp(..) => array
            .as_primitive::<TimestampMicrosecondType>()
            .value(row)
            .to_string(),
        DataType::Interval(_) => {
            let value = array.as_primitive::<IntervalMonthDayNanoType>().value(row);
            format!(
                "{} {} {}",
                value.months,
                value.days,
                value.nanoseconds / 1000
            )
        }
        other => panic!("{other} is not expected"),
    }
}

fn normal(text: String, type_: &DataType) -> String {
    match type_ {
        DataType::Float32 => format!("{:08x}", text.parse::<f32>().expect("a float").to_bits()),
        DataType::Float64 => format!("{:016x}", text.parse::<f64>().expect("a float").to_bits()),
        _ => text,
    }
}

fn check_cell(array: &dyn Array, row: usize, expected: Option<String>, what: &str) {
    match expected {
        None => assert!(array.is_null(row), "{what} row {row} must be null"),
        Some(text) => {
            assert!(array.is_valid(row), "{what} row {row} must not be null");
            assert_eq!(
                shown(array, row),
                normal(text, array.data_type()),
                "{what} row {row}"
            );
        }
    }
}

fn check_column(array: &ArrayRef, server: &TestServer, database: &str, column: &str, case: &Case) {
    if !matches!(array.data_type(), DataType::List(_)) {
        let cells = expected(server, database, &hex(&case.1.replace('@', column)));
        assert_eq!(cells.len(), array.len());
        for (row, cell) in cells.into_iter().enumerate() {
            check_cell(array.as_ref(), row, cell.map(|text| unhex(&text)), case.0);
        }
        return;
    }
    // Each item in hex, `-` for null, a comma behind each: an empty array is the empty string.
    let item = hex(&case.1.replace('@', "u.item"));
    let lists = expected(
        server,
        database,
        &format!(
            "CASE WHEN {column} IS NOT NULL THEN coalesce((SELECT string_agg(coalesce({item}, '-') || ',', '' \
         ORDER BY u.n) FROM unnest({column}) WITH ORDINALITY AS u(item, n)), '') END"
        ),
    );
    let array = array.as_list::<i32>();
    for (row, list) in lists.into_iter().enumerate() {
        let Some(list) = list else {
            assert!(array.is_null(row), "{} row {row} must be null", case.0);
            continue;
        };
        let items: Vec<&str> = list.split_terminator(',').collect();
        let found = array.value(row);
        assert_eq!(found.len(), items.len(), "{} row {row}", case.0);
        for (index, item) in items.into_iter().enumerate() {
            let item = (item != "-").then(|| unhex(item));
            check_cell(found.as_ref(), index, item, case.0);
        }
    }
}

async fn round_trip(cases: &[Case]) -> (RecordBatch, Vec<String>) {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, &create(cases));
    let sorted = query("SELECT * FROM every ORDER BY n");
    let options = ReadOptions {
        batch_rows: 3,
        ..ReadOptions::default()
    };
    let stream = source(&server.dsn(&database))
        .read(table("every"), options)
        .await
        .expect("a table");
    let notes = stream.notes.clone();
    let (rows, end) = drain(stream).await.expect("all rows");
    assert_eq!(end.notes, Vec::<String>::new(), "nothing became null");
    for (index, case) in cases.iter().enumerate() {
        check_column(
            rows.column(index + 1),
            &server,
            &database,
            &format!("c{index}"),
            case,
        );
    }
    if cases.iter().all(|case| !case.2[0].starts_with("{{")) {
        let queried = read(&server.dsn(&database), sorted)
            .await
            .expect("the same by a query");
        assert_eq!(queried.columns(), rows.columns());
    }
    (rows, notes)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_type_arrives_as_postgresql_says_it_is() {
    let (rows, notes) = round_trip(NATIVE).await;
    assert_eq!(
        notes,
        Vec::<String>::new(),
        "none of them is carried as text"
    );
    let type_of = |name: &str| {
        let index = NATIVE
            .iter()
            .position(|case| case.0 == name)
            .expect("a case");
        rows.column(index + 1).data_type().clone()
    };
    assert_eq!(type_of("numeric(10,2)"), DataType::Decimal128(10, 2));
    assert_eq!(type_of("numeric(3,-2)"), DataType::Decimal128(5, 0));
    assert_eq!(type_of("numeric"), DataType::Utf8);
    assert_eq!(type_of("bytea"), DataType::Binary);
    assert_eq!(type_of("positive"), DataType::Int32);
    assert_eq!(type_of("timestamptz").to_string(), "Timestamp(µs, \"UTC\")");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_type_is_carried_as_text_and_said_so() {
    let (rows, notes) = round_trip(AS_TEXT).await;
    assert_eq!(notes.len(), AS_TEXT.len());
    for (index, note) in notes.iter().enumerate() {
        assert_eq!(rows.column(index + 1).data_type(), &DataType::Utf8);
        assert_eq!(*note, format!("column `c{index}` is carried as text"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrow_has_no_value_for_becomes_null_and_is_counted() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, "CREATE TABLE odd (d date, t time, s timestamp, z timestamptz, n numeric(5,2), a date[]); \
        INSERT INTO odd VALUES ('infinity', '24:00', 'infinity', '-infinity', 'NaN', '{infinity,2024-01-01}'), \
        ('-infinity', '12:00', '294276-12-31', 'infinity', 1.25, '{}'), ('2024-01-01', NULL, NULL, NULL, NULL, NULL)");
    let stream = source(&server.dsn(&database))
        .read(table("odd"), ReadOptions::default())
        .await
        .expect("a table");
    let (rows, end) = drain(stream).await.expect("all rows");
    let nulls = rows.columns().iter().map(arrow::array::Array::null_count);
    let nulls: Vec<usize> = nulls.collect();
    assert_eq!(nulls, [2, 2, 3, 3, 2, 1]);
    let counted = |column: &str, count: u32| {
        format!("column `{column}`: {count} values (infinite, NaN or out of range) became null")
    };
    assert_eq!(
        end.notes,
        [
            counted("d", 2),
            counted("t", 1),
            counted("s", 2),
            counted("z", 2),
            counted("n", 1),
            counted("a", 1),
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_array_of_several_dimensions_in_a_query_is_an_error_that_names_its_column() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    let error = failure(
        &dsn,
        query("SELECT ARRAY[[1, 2]] AS grid"),
        ReadOptions::default(),
    )
    .await;
    assert!(
        error.to_string().contains("`grid`") && error.to_string().contains("dimensions"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_is_text_when_asked_for() {
    let server = TestServer::shared();
    let dsn = server.dsn(&server.create_database());
    let options = ReadOptions {
        interval_as_text: true,
        ..ReadOptions::default()
    };
    let sql = query("SELECT interval '1 year 2 days 3 seconds' AS i, ARRAY[interval '1 day'] AS l");
    let stream = source(&dsn).read(sql, options).await.expect("a query");
    assert_eq!(stream.notes.len(), 2);
    let (rows, _) = drain(stream).await.expect("a row");
    assert_eq!(
        rows.column(0).as_string::<i32>().value(0),
        "1 year 2 days 00:00:03"
    );
    assert_eq!(rows.column(1).as_string::<i32>().value(0), "{\"1 day\"}");
}
