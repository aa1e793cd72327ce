//! JSON bodies and what becomes of them: nesting, conflicts, dates, every syntax error's place.

use crate::engines::ingest::tests::{columns, ingest_text, lines};
use crate::engines::ingest::{FileFormat, IngestErrorKind};

fn json(body: &str) -> (String, Vec<String>) {
    let format = if body.starts_with('[') {
        FileFormat::JsonArray
    } else {
        FileFormat::Ndjson
    };
    let staged = ingest_text(body.as_bytes(), format).unwrap();
    (columns(&staged.schema), lines(&staged))
}

fn refused(body: &[u8], format: FileFormat) -> String {
    let error = ingest_text(body, format).unwrap_err();
    assert_eq!(error.kind(), IngestErrorKind::Invalid);
    error.to_string()
}

#[test]
fn values_get_the_type_that_holds_all_of_them() {
    for (body, column, rows) in [
        (r#"[{"v":1},{"v":2}]"#, "v:int64", "1 2"),
        (r#"[{"v":1},{"v":2.5},{}]"#, "v:float64", "1.0 2.5 ~"),
        (r#"[{"v":true},{"v":null}]"#, "v:bool", "true ~"),
        (r#"[{"v":"2020-01-01"}]"#, "v:date32", "2020-01-01"),
        (
            r#"[{"v":"2020-01-01T00:00:00Z"}]"#,
            "v:timestamp[us, UTC]",
            "2020-01-01T00:00:00Z",
        ),
        (
            r#"[{"v":"2020-01-01"},{"v":"x"}]"#,
            "v:string",
            "2020-01-01 x",
        ),
        (r#"[{"v":"1"},{"v":"2"}]"#, "v:string", "1 2"),
        (
            r#"[{"v":18446744073709551616}]"#,
            "v:string",
            "18446744073709551616",
        ),
        (r#"[{"v":1},{"v":"x"}]"#, "v:string", "1 x"),
        (
            r#"[{"v":1.50},{"v":{"a": [1]}},{"v":"x"}]"#,
            "v:string",
            r#"1.50 {"a": [1]} x"#,
        ),
        (r#"[{"v":null}]"#, "v:string", "~"),
        (r#"[{"v":{}}]"#, "v:string", "{}"),
        (r#"[{"v":[]}]"#, "v:list<string>", "[]"),
        (
            r#"[{"v":[1,null]},{"v":[2.5]}]"#,
            "v:list<float64>",
            "[1.0,\u{a0}] [2.5]",
        ),
        (
            r#"[{"v":"a\"\\\/\b\f\n\r\t\u00e9\ud83d\ude00"}]"#,
            "v:string",
            "a\"\\/\u{8}\u{c}\n\r\té😀",
        ),
    ] {
        let (found, lines) = json(body);
        let rows = rows.replace('\u{a0}', " ~");
        assert_eq!(
            (found.as_str(), lines.join(" ").as_str()),
            (column, rows.as_str()),
            "{body}"
        );
    }
}

#[test]
fn objects_become_structs_and_their_fields_come_from_all_rows() {
    let (schema, rows) = json("{\"a\":{\"x\":1}}\n\n{\"a\":{\"y\":[{\"z\":true}]},\"b\":2}\n");
    assert_eq!(
        schema,
        "a:struct<x: int64, y: list<struct<z: bool>>> b:int64"
    );
    assert_eq!(rows, ["{x: 1, y: ~}|~", "{x: ~, y: [{z: true}]}|2"]);
}

#[test]
fn objects_one_after_the_other_are_rows_too() {
    let staged = ingest_text(b"{\n \"a\": 1\n}\n{\"a\": 2}", FileFormat::JsonArray).unwrap();
    assert_eq!(lines(&staged), ["1", "2"]);
}

#[test]
fn syntax_errors_have_their_line_and_column() {
    use FileFormat::Ndjson;
    for (body, format, expected) in [
        (
            "{\"a\":1}\n{\"a\":}\n",
            Ndjson,
            "line 2, column 6: expected a value",
        ),
        (
            "{\"a\":1}\n{\"a\":1\n",
            Ndjson,
            "line 2, column 7: expected `,` or `}` after a field",
        ),
        (
            "{\"a\":1} x\n",
            Ndjson,
            "line 1, column 9: text after the row",
        ),
        (
            "{\"a\":1}\n[1]\n",
            Ndjson,
            "line 2, column 1: a row has to be a JSON object",
        ),
        (
            "{\"é\":01}\n",
            Ndjson,
            "line 1, column 7: expected `,` or `}` after a field",
        ),
        (
            "{\"a\":\"x\ty\"}",
            Ndjson,
            "line 1, column 8: a control character in a string",
        ),
        (
            "{\"a\":\"x}\n",
            Ndjson,
            "line 1, column 6: a string is never closed",
        ),
        (
            "{\"a\":\"\\x\"}\n",
            Ndjson,
            "line 1, column 7: an unknown escape in a string",
        ),
        (
            "{\"a\":\"\\ud800\"}\n",
            Ndjson,
            "line 1, column 7: an unknown escape in a string",
        ),
        (
            "{\"a\":1,\"a\":2}\n",
            Ndjson,
            "line 1, column 8: a field name stands twice in one object",
        ),
        (
            "{a:1}\n",
            Ndjson,
            "line 1, column 2: expected a field name in quotes",
        ),
        (
            "{\"a\" 1}\n",
            Ndjson,
            "line 1, column 6: expected `:` after a field name",
        ),
        ("{\"a\":-}\n", Ndjson, "line 1, column 7: expected a digit"),
        (
            "{\"a\":nul}\n",
            Ndjson,
            "line 1, column 6: expected a value",
        ),
    ] {
        assert_eq!(refused(body.as_bytes(), format), expected, "{body}");
    }
    assert_eq!(
        refused(b"{\"a\":\"\xFF\"}", Ndjson),
        "line 1, column 7: invalid UTF-8"
    );
}

#[test]
fn an_array_has_to_be_whole_and_hold_objects() {
    for (body, format, expected) in [
        (
            "[{\"a\":1},\n {\"a\":2},\n]",
            FileFormat::JsonArray,
            "line 3, column 1: a row has to be a JSON object",
        ),
        (
            "[{\"a\":1}\n {\"a\":2}]",
            FileFormat::JsonArray,
            "line 2, column 2: expected `,` or `]` after an element",
        ),
        (
            "[{\"a\":1},\n 2]",
            FileFormat::JsonArray,
            "line 2, column 2: a row has to be a JSON object",
        ),
        (
            "[{\"a\":1}",
            FileFormat::JsonArray,
            "line 1, column 9: the array is never closed",
        ),
        (
            "[{\"a\":1}] x",
            FileFormat::JsonArray,
            "line 1, column 11: text after the end of the array",
        ),
        (
            "7",
            FileFormat::JsonArray,
            "line 1, column 1: expected an array of objects",
        ),
    ] {
        assert_eq!(refused(body.as_bytes(), format), expected, "{body}");
    }
}

#[test]
fn deep_nesting_is_refused() {
    let body = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(refused(body.as_bytes(), FileFormat::Ndjson).ends_with("nested deeper than 64 levels"));
}

#[test]
fn rows_without_a_column_define_nothing() {
    assert_eq!(
        refused(b"[]", FileFormat::JsonArray),
        "the body defines no column"
    );
    assert_eq!(
        refused(b"{}\n{}\n", FileFormat::Ndjson),
        "the body defines no column"
    );
}

#[test]
fn columns_have_a_limit_that_nested_ones_count_for() {
    let fields: Vec<String> = (0..10_001)
        .map(|column| format!("\"c{column}\":1"))
        .collect();
    let body = format!("{{\"a\":{{{}}}}}\n", fields.join(","));
    let error = ingest_text(body.as_bytes(), FileFormat::Ndjson).unwrap_err();
    assert_eq!(error.to_string(), "more than 10000 columns");
}
