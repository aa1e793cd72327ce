//! Every type, value by value, against what PostgreSQL says of it.

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type,
    Int64Type, IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
    UInt32Type,
};

use super::*;

const TEXT: &str = "CAST(@ AS text)";
const SHOWN: &str = "CASE WHEN @ IS NOT NULL THEN format('%s', @) END";
const DAYS: &str = "CAST(@ - date '1970-01-01' AS text)";
const MICROS: &str = "CAST(CAST(extract(epoch FROM @) * 1000000 AS int8) AS text)";
const INTERVAL: &str = "CAST(extract(year FROM @) * 12 + extract(month FROM @) AS int) || ' ' || \
    extract(day FROM @) || ' ' || CAST((extract(hour FROM @) * 3600 + extract(minute FROM @) * 60) \
    * 1000000 + extract(microseconds FROM @) AS int8)";

/// A type, how PostgreSQL writes what we expect of a value (`@`), and values.
type Case = (&'static str, &'static str, &'static [&'static str]);

const NATIVE: &[Case] = &[
    ("bool", TEXT, &["true", "false"]),
    ("int2", TEXT, &["-32768", "32767", "0"]),
    ("int4", TEXT, &["-2147483648", "2147483647"]),
    (
        "int8",
        TEXT,
        &["-9223372036854775808", "9223372036854775807"],
    ),
    ("oid", TEXT, &["0", "4294967295"]),
    (
        "float4",
        TEXT,
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "1.5",
            "3.4028235e38",
            "1e-45",
            "-0",
            "0.1",
        ],
    ),
    (
        "float8",
        TEXT,
        &[
            "NaN",
            "Infinity",
            "-Infinity",
            "0.1",
            "1.7976931348623157e308",
            "5e-324",
            "-0",
        ],
    ),
    (
        "numeric(10,2)",
        TEXT,
        &["12345678.90", "-0.01", "0", "99999999.99", "-10000"],
    ),
    (
        "numeric(38,0)",
        TEXT,
        &[
            "99999999999999999999999999999999999999",
            "-1",
            "10000000000000000",
        ],
    ),
    (
        "numeric(38,37)",
        TEXT,
        &[
            "9.9999999999999999999999999999999999999",
            "-0.0000000000000000000000000000000000001",
        ],
    ),
    (
        "numeric(38,38)",
        TEXT,
        &["0.5", "-0.99999999999999999999999999999999999999"],
    ),
    ("numeric(3,-2)", TEXT, &["99900", "-100", "12345"]),
    ("numeric(2,5)", TEXT, &["0.00012", "-0.00099"]),
    (
        "numeric",
        TEXT,
        &[
            "123456789012345678901234567890.123456789",
            "NaN",
            "Infinity",
            "-Infinity",
            "1e-20",
            "0.00",
            "1e100",
            "-12345.6000",
            "0.00010001",
            "10000",
            "100000000.5",
        ],
    ),
    (
        "numeric(50,3)",
        TEXT,
        &[
            "12345678901234567890123456789012345678901234567.123",
            "-0.001",
        ],
    ),
    (
        "text",
        TEXT,
        &["", "plain", "ünï😀", "tab\tline\nquote\" \\ end"],
    ),
    ("varchar(5)", TEXT, &["abcde", ""]),
    ("char(5)", TEXT, &["ab", "", "  x"]),
    ("name", TEXT, &["a name", ""]),
    ("\"char\"", TEXT, &["x", ""]),
    (
        "date",
        DAYS,
        &[
            "0001-01-01",
            "4713-01-01 BC",
            "5874897-12-31",
            "1969-12-31",
            "2024-02-29",
        ],
    ),
    ("time", MICROS, &["00:00", "23:59:59.999999", "12:34:56"]),
    (
        "timestamp",
        MICROS,
        &[
            "1969-12-31 23:59:59.999999",
            "4713-01-01 BC",
            "2262-04-13",
            "294000-01-01",
        ],
    ),
    (
        "timestamptz",
        MICROS,
        &[
            "2024-02-29 12:00:00.000001+05:30",
            "1900-01-01 00:00-11",
            "2000-01-01Z",
        ],
    ),
    (
        "interval",
        INTERVAL,
        &[
            "1 year 2 mons -3 days 04:05:06.789",
            "0",
            "-178000000 years",
            "-00:00:00.000001",
            "1 day -25:00:00",
        ],
    ),
    (
        "uuid",
        TEXT,
        &[
            "00000000-0000-0000-0000-000000000000",
            "F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6",
        ],
    ),
    ("bytea", TEXT, &["\\x00ff10", "\\x"]),
    (
        "json",
        TEXT,
        &["{\"a\": [1, null]}", "null", "{\"a\":1,\"a\":2}"],
    ),
    ("jsonb", TEXT, &["{\"a\": [1, null]}", "\"ö\""]),
    ("mood", TEXT, &["sad", "very happy"]),
    ("positive", TEXT, &["7"]),
    (
        "inet",
        SHOWN,
        &[
            "10.0.0.1",
            "10.0.0.1/8",
            "::1",
            "::ffff:1.2.3.4",
            "::1.2.3.4",
            "2001:db8::1/64",
            "1:0:0:2:0:0:0:3",
            "fe80::",
            "::",
            "1:0:2:3:4:5:6:7",
        ],
    ),
    (
        "cidr",
        SHOWN,
        &["10.0.0.0/8", "10.1.2.3/32", "2001:db8::/32", "::/0"],
    ),
    ("bool[]", TEXT, &["{t,f,NULL}"]),
    (
        "int4[]",
        TEXT,
        &["{}", "{1,NULL,-3}", "[5:6]={7,8}", "{NULL}"],
    ),
    ("int8[]", TEXT, &["{9223372036854775807}"]),
    ("float8[]", TEXT, &["{NaN,0.5,NULL}"]),
    ("text[]", TEXT, &["{\"\",NULL,\"ö,\\\"{}\"}", "{}"]),
    ("char(3)[]", TEXT, &["{a,bcd}"]),
    ("numeric(10,2)[]", TEXT, &["{1.25,-3,NULL}"]),
    ("numeric[]", TEXT, &["{1e30,NaN,0.10}"]),
    ("date[]", DAYS, &["{2024-02-29,NULL}"]),
    ("time[]", MICROS, &["{12:00}"]),
    ("timestamp[]", MICROS, &["{2024-02-29 12:00}"]),
    ("timestamptz[]", MICROS, &["{2024-02-29 12:00+01,NULL}"]),
    ("interval[]", INTERVAL, &["{1 mon,2 days}"]),
    ("uuid[]", TEXT, &["{F81D4FAE-7DEC-11D0-A765-00A0C91E6BF6}"]),
    ("bytea[]", TEXT, &["{\"\\\\x00ff\",NULL}"]),
    ("jsonb[]", TEXT, &["{\"{\\\"a\\\": 1}\"}"]),
    ("json[]", TEXT, &["{\"{\\\"a\\\":  1}\"}"]),
    ("inet[]", SHOWN, &["{10.0.0.1,::1}"]),
    ("mood[]", TEXT, &["{sad,NULL}"]),
    ("oid[]", TEXT, &["{4294967295}"]),
];

const AS_TEXT: &[Case] = &[
    ("xml", TEXT, &["<a>1</a>"]),
    ("money", TEXT, &["12.50"]),
    ("timetz", TEXT, &["12:00:00+02"]),
    ("int4range", TEXT, &["[1,5)", "empty"]),
    ("point", TEXT, &["(1.5,2)"]),
    ("bit(3)", TEXT, &["101"]),
    ("varbit", TEXT, &["1", ""]),
    ("macaddr", TEXT, &["08:00:2b:01:02:03"]),
    ("tsvector", TEXT, &["a:1 b:2"]),
    ("pair", TEXT, &["(1,\"a b\")"]),
    ("xml[]", TEXT, &["{<a/>}"]),
    ("positive[]", TEXT, &["{1,2}"]),
    ("int4[]", TEXT, &["{{1,2},{3,4}}", "{1}", "{}"]),
    ("text[][]", TEXT, &["{{a,NULL}}"]),
];

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
        sql.push_str(&format!(
            "INSERT INTO every VALUES ({row}, {});",
            values.join(", ")
        ));
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

/// What PostgreSQL says of a column: a cell a line, `None` for null.
fn expected(server: &TestServer, database: &str, expression: &str) -> Vec<Option<String>> {
    let sql = format!("SET bytea_output = 'hex'; SELECT {expression} FROM every ORDER BY n;");
    let lines = server.sql(database, &sql);
    lines
        .lines()
        .map(|line| (line != "\\N").then(|| line.to_owned()))
        .collect()
}

/// A cell as PostgreSQL writes it, for comparing; floats are compared by their bits.
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
    for index in 0..AS_TEXT.len() {
        assert_eq!(rows.column(index + 1).data_type(), &DataType::Utf8);
        assert_eq!(
            notes[index],
            format!("column `c{index}` is carried as text")
        );
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
    let nulls: Vec<usize> = rows
        .columns()
        .iter()
        .map(|column| column.null_count())
        .collect();
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
