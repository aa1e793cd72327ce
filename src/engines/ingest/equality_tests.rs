//! Properties: blocks, threads and widening change neither types, rows nor errors.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::tests::{columns, ingest_blocks, lines, options};
use super::{BLOCK_BYTES, FileFormat};

/// A cell of a CSV file that has many chances to widen a type, or to need quotes.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        6 => (-99i64..99).prop_map(|value| value.to_string()),
        2 => Just(String::new()),
        1 => Just("9007199254740993".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => Just("007".to_owned()),
        1 => Just("true".to_owned()),
        1 => Just("2020-02-03".to_owned()),
        1 => Just("2020-02-03T04:05:06Z".to_owned()),
        1 => Just("\"\"".to_owned()),
        1 => Just("\"a,\"\"b\"\"\nc\"".to_owned()),
        1 => Just("é".to_owned()),
    ]
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        4 => (-99i64..99).prop_map(|value| value.to_string()),
        1 => Just("null".to_owned()),
        1 => Just("true".to_owned()),
        1 => Just("1.5".to_owned()),
        1 => Just("9007199254740993".to_owned()),
        1 => Just("\"x\\u00e9\\n\"".to_owned()),
        1 => Just("\"2020-01-01\"".to_owned()),
        1 => Just("{}".to_owned()),
        1 => Just("[]".to_owned()),
    ];
    leaf.prop_recursive(2, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|items| format!("[{}]", items.join(", "))),
            prop::collection::btree_map("[pq]", inner, 0..3).prop_map(|fields| object(&fields)),
        ]
    })
}

fn object(fields: &BTreeMap<String, String>) -> String {
    let fields: Vec<String> = fields
        .iter()
        .map(|(name, value)| format!("\"{name}\":{value}"))
        .collect();
    format!("{{{}}}", fields.join(","))
}

/// The schema and rows, or the error, as text.
fn outcome(body: &[u8], format: FileFormat, block_bytes: usize) -> String {
    let (_dir, mut options) = options();
    options.format = Some(format);
    match ingest_blocks(body, &options, block_bytes) {
        Ok(staged) if staged.rows == 0 => columns(&staged.schema),
        Ok(staged) => format!("{}\n{}", columns(&staged.schema), lines(&staged).join("\n")),
        Err(error) => error.to_string(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// With one block for all, the types come from the whole file; with blocks of a few bytes they
    /// come from the first row and widen, and rows and quotes cross the reads.
    #[test]
    fn blocks_and_widening_of_csv_change_nothing(
        rows in prop::collection::vec(prop::collection::vec(cell(), 3), 0..12),
        block_bytes in 1usize..40,
    ) {
        let mut body = String::from("a,b,c\n");
        for row in rows {
            body.push_str(&row.join(","));
            body.push('\n');
        }
        let whole = outcome(body.as_bytes(), FileFormat::Csv, BLOCK_BYTES);
        prop_assert_eq!(outcome(body.as_bytes(), FileFormat::Csv, block_bytes), whole);
    }

    #[test]
    fn blocks_and_widening_of_json_change_nothing(
        rows in prop::collection::vec(prop::collection::btree_map("[abc]", value(), 0..4), 1..10),
        block_bytes in 1usize..60,
    ) {
        let objects: Vec<String> = rows.iter().map(object).collect();
        let lines = objects.join("\n");
        let whole = outcome(lines.as_bytes(), FileFormat::Ndjson, BLOCK_BYTES);
        prop_assert_eq!(outcome(lines.as_bytes(), FileFormat::Ndjson, block_bytes), whole.clone());
        let array = format!("[{}]", objects.join(",\n "));
        prop_assert_eq!(outcome(array.as_bytes(), FileFormat::JsonArray, block_bytes), whole.clone());
        prop_assert_eq!(outcome(objects.join(" ").as_bytes(), FileFormat::JsonArray, block_bytes), whole);
    }

    #[test]
    fn broken_text_has_one_error_whatever_the_blocks(
        bytes in prop::collection::vec(prop_oneof![
            Just(b'a'), Just(b','), Just(b'"'), Just(b'\n'), Just(b'\r'), Just(b'1'), Just(0xFF)
        ], 0..60),
        block_bytes in 1usize..30,
    ) {
        let mut body = b"a,b\n1,2\n".to_vec();
        body.extend_from_slice(&bytes);
        let whole = outcome(&body, FileFormat::Csv, BLOCK_BYTES);
        prop_assert_eq!(outcome(&body, FileFormat::Csv, block_bytes), whole);
    }
}
