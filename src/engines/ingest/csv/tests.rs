//! CSV bodies and what becomes of them: types, quotes, line ends, separators, headers.

use crate::engines::ingest::tests::{columns, ingest_text, lines};
use crate::engines::ingest::{FileFormat, IngestErrorKind};

fn csv(body: &[u8]) -> (String, Vec<String>) {
    let staged = ingest_text(body, FileFormat::Csv).unwrap();
    let rows = if staged.rows == 0 {
        Vec::new()
    } else {
        lines(&staged)
    };
    (columns(&staged.schema), rows)
}

fn refused(body: &[u8]) -> String {
    let error = ingest_text(body, FileFormat::Csv).unwrap_err();
    assert_eq!(error.kind(), IngestErrorKind::Invalid);
    error.to_string()
}

#[test]
fn columns_get_the_type_that_holds_all_their_values() {
    for (values, column, rows) in [
        ("true\nfalse\n", "v:bool", "true false"),
        ("1\n-2\n", "v:int64", "1 -2"),
        (
            "9223372036854775807\n1\n",
            "v:int64",
            "9223372036854775807 1",
        ),
        (
            "9223372036854775808\n1\n",
            "v:string",
            "9223372036854775808 1",
        ),
        ("1\n2.5\n", "v:float64", "1.0 2.5"),
        (
            "9007199254740993\n2.5\n",
            "v:string",
            "9007199254740993 2.5",
        ),
        ("007\n12\n", "v:string", "007 12"),
        ("+491234\n5\n", "v:string", "+491234 5"),
        ("555-1234\n5\n", "v:string", "555-1234 5"),
        ("true\n1\n", "v:string", "true 1"),
        (
            "2020-01-31\n2020-02-29\n",
            "v:date32",
            "2020-01-31 2020-02-29",
        ),
        (
            "2020-01-31\n2021-02-29\n",
            "v:string",
            "2020-01-31 2021-02-29",
        ),
        (
            "2020-01-31T01:02:03.5\n",
            "v:timestamp[us]",
            "2020-01-31T01:02:03.500",
        ),
        (
            "2020-01-31T01:02:03+01:00\n",
            "v:timestamp[us, UTC]",
            "2020-01-31T00:02:03Z",
        ),
        (
            "2020-01-31T01:02:03Z\n2020-01-31T01:02:03\n",
            "v:string",
            "2020-01-31T01:02:03Z 2020-01-31T01:02:03",
        ),
    ] {
        let body = format!("v\n{values}");
        let (found, lines) = csv(body.as_bytes());
        assert_eq!(
            (found.as_str(), lines.join(" ").as_str()),
            (column, rows),
            "{values:?}"
        );
    }
}

#[test]
fn an_empty_field_is_null_and_a_quoted_one_is_empty_text() {
    assert_eq!(
        csv(b"a,b,c\n1,,\n,\"\",\n\"\",x,\n"),
        (
            "a:int64 b:string c:string".into(),
            vec!["1|~|~".into(), "~||~".into(), "~|x|~".into()]
        )
    );
}

#[test]
fn quotes_line_ends_and_marks_are_read_as_they_are_written() {
    let expected = (
        "a:int64 b:string".to_owned(),
        vec!["1|x".to_owned(), "2|y".to_owned()],
    );
    for body in [
        &b"a,b\n1,x\n2,y\n"[..],
        b"a,b\n1,x\n2,y",
        b"a,b\r\n1,x\r\n2,y\r\n",
        b"a,b\r\n1,x\r\n2,y",
        b"\xEF\xBB\xBFa,b\n1,x\n2,y\n",
        b"\n\na,b\n\n1,x\n\r\n2,y\n\n",
        b"\"a\",\"b\"\n\"1\",\"x\"\n\"2\",\"y\"\n",
        b"\"a\",\"b\"\r\n\"1\",\"x\"\r\n\"2\",\"y\"",
        b"a, b\n1,x\n2,y\n",
        b"a;b\n1;x\n2;y\n",
        b"a\tb\n1\tx\n2\ty\n",
        b"a|b\n1|x\n2|y\n",
        b"a;\"b\"\n1;x\n2;y\n",
    ] {
        assert_eq!(csv(body), expected, "{:?}", String::from_utf8_lossy(body));
    }
    assert_eq!(
        csv(b"\"a \"\"b\"\",\nc\",d\n\"say \"\"hi\"\"\",\"1,\r\n2\"\nin\"side,x\n"),
        (
            "a \"b\",\nc:string d:string".into(),
            vec!["say \"hi\"|1,\r\n2".into(), "in\"side|x".into()]
        )
    );
    assert_eq!(
        csv(b"a,b\n1,\n2,"),
        ("a:int64 b:string".into(), vec!["1|~".into(), "2|~".into()])
    );
    assert_eq!(
        csv(b"a,b\n\"1\",\n\"2\","),
        ("a:int64 b:string".into(), vec!["1|~".into(), "2|~".into()])
    );
}

#[test]
fn a_header_alone_is_a_table_without_rows() {
    for body in [&b"a,b\n"[..], b"a,b", b"a,b\r\n\r\n"] {
        assert_eq!(csv(body), ("a:string b:string".into(), Vec::new()));
    }
}

#[test]
fn a_broken_header_is_refused_with_its_line() {
    assert_eq!(
        refused(b"a,b,a\n1,2,3\n"),
        "line 1: column `a` stands twice in the header"
    );
    assert_eq!(
        refused(b"\na,,c\n1,2,3\n"),
        "line 2: column 2 of the header has no name"
    );
    assert_eq!(
        refused(b"1,2.5\n3,4\n"),
        "line 1: the header is missing, the first line holds only values"
    );
    assert_eq!(
        refused(b",\n3,4\n"),
        "line 1: the header is missing, the first line holds only values"
    );
    assert_eq!(
        refused(b"a,\"b\n1,2\n"),
        "line 1: a quote opened here is never closed"
    );
    assert_eq!(refused(b"a,\xFF\n1,2\n"), "line 1, column 3: invalid UTF-8");
}

#[test]
fn a_year_may_name_a_column_beside_a_word() {
    assert_eq!(csv(b"country,2020\nx,1\n").0, "country:string 2020:int64");
}

#[test]
fn rows_and_columns_have_limits() {
    let long = format!("a,b\n1,2\n3,{}\n", "x".repeat(17 << 20));
    let error = ingest_text(long.as_bytes(), FileFormat::Csv).unwrap_err();
    assert_eq!(
        error.to_string(),
        "line 3: a row is longer than 16777216 bytes"
    );
    assert_eq!(error.kind(), IngestErrorKind::TooLarge);
    let fits = format!("a,b\n1,2\n3,{}\n", "x".repeat(15 << 20));
    assert_eq!(
        ingest_text(fits.as_bytes(), FileFormat::Csv).unwrap().rows,
        2
    );
    let wide = (0..10_001)
        .map(|column| format!("c{column}"))
        .collect::<Vec<_>>()
        .join(",");
    let error = ingest_text(wide.as_bytes(), FileFormat::Csv).unwrap_err();
    assert_eq!(error.to_string(), "more than 10000 columns");
}

#[test]
fn an_open_quote_in_a_huge_file_is_named_by_its_line() {
    let body = format!("a,b\n1,2\n3,\"x\n{}", "1,2\n".repeat(5 << 20));
    assert_eq!(
        refused(body.as_bytes()),
        "line 3: a quote opened here is never closed"
    );
}
