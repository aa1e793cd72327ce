//! Policies as they are carried out: what a row filter may say, and what redactions make of values, held
//! against a reference that is written the other way round.

use std::sync::Arc;

use arrow::{
    array::{
        Array, ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, Int64Array, ListArray,
        RecordBatch, StringArray, StructArray, TimestampMicrosecondArray,
    },
    datatypes::{
        DataType, Date32Type, Field, Float64Type, Int64Type, Schema, TimestampMicrosecondType,
    },
};
use futures::TryStreamExt;
use lakehouse_journal::model::catalog::{ColumnRedaction, DateUnit, Redaction, ViewSpec};
use proptest::prelude::*;
use serde_json::json;

use super::{barrier::view, on};
use crate::query::{
    Reader, SessionTables,
    policy::{Lens, RedactionKey, compile, described},
    testing::Lake,
};

fn schema() -> arrow::datatypes::SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("small", DataType::Int32, true),
        Field::new("city", DataType::Utf8View, true),
        Field::new("price", DataType::Decimal128(12, 2), true),
        Field::new("born", DataType::Date32, true),
        Field::new("open", DataType::Boolean, true),
    ]))
}

#[test]
fn a_row_filter_says_what_is_true_or_false_of_every_row() {
    let reader = Reader::daemon();
    for text in [
        "status_is_none IS NULL"
            .replace("status_is_none", "city")
            .as_str(),
        "city <> 'blocked'",
        "city IN ('a', 'b') AND NOT open",
        "id > 5 OR small <= 7",
        "lower(city) = 'ulm' AND starts_with(city, 'U')",
        "born >= DATE '2000-01-01' AND born < '2010-01-01'",
        "city LIKE 'U%'",
        "price > 100 AND price <= 99.95",
        "city = principal() OR city = on_behalf_of()",
        "TRY_CAST(city AS INT) > 3",
        "coalesce(city, '') <> ''",
        "small = id",
        "open",
        "CASE WHEN open THEN id > 3 ELSE false END",
        "id BETWEEN 1 AND 9",
    ] {
        let compiled = compile(text, &schema(), &reader);
        assert!(compiled.is_ok(), "{text}: {}", compiled.unwrap_err());
    }
    let compiled = compile("city = principal() AND id > 3", &schema(), &reader).unwrap();
    assert_eq!(compiled.columns, ["city", "id"]);
    assert!(compiled.per_caller);
}

#[test]
fn a_filter_that_could_fail_or_do_more_is_refused() {
    let reader = Reader::daemon();
    for text in [
        "CAST(city AS INT) > 3",
        "1 / (id - 7) > 0",
        "id % small = 0",
        "city = 7 + id",
        "id + 1 > 5",
        "regexp_like(city, '(')",
        "city ~ '^x[0-9]+$'",
        "city LIKE small",
        "id IN (SELECT 1)",
        "EXISTS (SELECT * FROM payroll)",
        "random() > 0.5",
        "id",
        "nothing = 1",
        "id > 1; DROP TABLE x",
        "id > 1) OR (1 = 1",
        "",
        "to_date(city) > '2000-01-01'",
        "version() = 'x'",
        "count(*) > 3",
        "row_number() OVER () > 1",
        "make_date(id, 1, 1) IS NULL",
        "city LIKE 'x\\'",
        &vec!["open"; 300].join(" OR "),
        &format!("{}open{}", "(".repeat(60), ")".repeat(60)),
        &format!("city = '{}'", "x".repeat(9_000)),
    ] {
        let compiled = compile(text, &schema(), &reader);
        assert!(compiled.is_err(), "{text:.60}: {compiled:?}");
    }
}

#[test]
fn a_rule_that_a_column_cannot_take_is_refused_when_the_view_is_made() {
    let mut lake = Lake::new();
    let batch = batch(&[Some(1)]);
    lake.add("base", &[(batch, vec![])], 10);
    let rule = |column: &str, rule: Redaction| ViewSpec {
        base: "base".to_owned(),
        columns: vec![column.to_owned()],
        redactions: vec![ColumnRedaction {
            column: column.to_owned(),
            rule,
        }],
        ..ViewSpec::default()
    };
    let year = Redaction::Truncate {
        unit: Some(DateUnit::Year),
        decimals: None,
    };
    let cut = Redaction::Truncate {
        unit: None,
        decimals: Some(1),
    };
    for (column, bad) in [
        ("number", year.clone()),
        ("number", cut),
        ("text", Redaction::Bucket { width: 10 }),
        ("list", Redaction::Hash {}),
        (
            "struct",
            Redaction::Mask {
                keep_prefix: 1,
                keep_suffix: 0,
            },
        ),
        (
            "number",
            Redaction::Constant {
                value: json!("x y").clone(),
            },
        ),
    ] {
        let refused = described(&lake.state, &rule(column, bad.clone()), &Reader::daemon());
        let text_for_number = matches!(bad, Redaction::Constant { .. });
        assert_eq!(
            refused.is_err(),
            !text_for_number,
            "{column} {}",
            bad.as_str()
        );
    }
    assert!(described(&lake.state, &rule("date", year), &Reader::daemon()).is_ok());
}

/// A column of every kind, made of numbers.
fn batch(numbers: &[Option<i64>]) -> RecordBatch {
    let number: Int64Array = numbers.iter().copied().collect();
    let text: StringArray = numbers
        .iter()
        .map(|n| n.map(|n| format!("té{n}xt")))
        .collect();
    let float: Float64Array = numbers.iter().map(|n| n.map(exact)).collect();
    let date: Date32Array = numbers
        .iter()
        .map(|n| n.map(|n| i32::try_from(n % 40_000).unwrap()))
        .collect();
    let time: TimestampMicrosecondArray = numbers
        .iter()
        .map(|n| n.map(|n| n.wrapping_mul(86_399_999_983) % (1 << 52)))
        .collect();
    let flag: BooleanArray = numbers.iter().map(|n| n.map(|n| n % 2 == 0)).collect();
    let list = ListArray::from_iter_primitive::<Int64Type, _, _>(
        numbers.iter().map(|n| n.map(|n| vec![Some(n), None])),
    );
    let inner = Arc::new(number.clone()) as ArrayRef;
    let nested = StructArray::from(vec![(
        Arc::new(Field::new("x", DataType::Int64, true)),
        inner,
    )]);
    RecordBatch::try_from_iter_with_nullable([
        ("number", Arc::new(number) as ArrayRef, true),
        ("text", Arc::new(text) as ArrayRef, true),
        ("float", Arc::new(float) as ArrayRef, true),
        ("date", Arc::new(date) as ArrayRef, true),
        ("time", Arc::new(time) as ArrayRef, true),
        ("flag", Arc::new(flag) as ArrayRef, true),
        ("list", Arc::new(list) as ArrayRef, true),
        ("struct", Arc::new(nested) as ArrayRef, true),
    ])
    .unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "any number will do")]
fn exact(number: i64) -> f64 {
    number as f64 / 8.0
}

const COLUMNS: [&str; 8] = [
    "number", "text", "float", "date", "time", "flag", "list", "struct",
];

fn rules() -> impl Strategy<Value = Option<Redaction>> {
    prop_oneof![
        Just(None),
        Just(Some(Redaction::Null {})),
        (0_u32..4, 0_u32..4).prop_map(|(keep_prefix, keep_suffix)| Some(Redaction::Mask {
            keep_prefix,
            keep_suffix
        })),
        Just(Some(Redaction::Hash {})),
        Just(Some(Redaction::Tokenize {
            domain: Some("d".to_owned())
        })),
        Just(Some(Redaction::Constant { value: json!(7) })),
        Just(Some(Redaction::Truncate {
            unit: Some(DateUnit::Month),
            decimals: None
        })),
        Just(Some(Redaction::Truncate {
            unit: None,
            decimals: Some(1)
        })),
        (1_u64..1_000).prop_map(|width| Some(Redaction::Bucket { width })),
    ]
}

/// Whether an answer's cell is what the rule makes of the base's cell, looked at from outside.
fn is_redacted(rule: &Redaction, base: &ArrayRef, seen: &ArrayRef, row: usize) -> bool {
    if seen.is_null(row) {
        return true;
    }
    let nested = base.data_type().is_nested();
    match rule {
        Redaction::Null {} => false,
        Redaction::Mask {
            keep_prefix,
            keep_suffix,
        } => {
            let text = arrow::util::display::array_value_to_string(base, row).unwrap();
            let seen = seen.as_string_view().value(row);
            let most = (*keep_prefix + *keep_suffix) as usize + 3;
            !nested && seen.contains("***") && seen.chars().count() <= most && seen != text
        }
        Redaction::Hash {} => !nested && seen.as_string_view().value(row).len() == 32,
        Redaction::Tokenize { .. } => {
            !nested && seen.as_string_view().value(row).starts_with("tok_")
        }
        Redaction::Constant { .. } => {
            let text = arrow::util::display::array_value_to_string(seen, row).unwrap();
            ["7", "7.0", "true", "[7]", "{x: 7}"].contains(&text.as_str())
                || text.starts_with("1970-01-0")
        }
        Redaction::Truncate { unit: Some(_), .. } => match seen.data_type() {
            DataType::Date32 => seen
                .as_primitive::<Date32Type>()
                .value_as_date(row)
                .unwrap()
                .to_string()
                .ends_with("-01"),
            DataType::Timestamp(..) => {
                let at = seen
                    .as_primitive::<TimestampMicrosecondType>()
                    .value_as_datetime(row)
                    .unwrap();
                at.to_string().ends_with("-01 00:00:00")
            }
            _ => false,
        },
        Redaction::Truncate { .. } => {
            let value = seen.as_primitive::<Float64Type>().value(row);
            ((value * 10.0).round() - value * 10.0).abs() < 1e-3
        }
        Redaction::Bucket { width } => {
            let width = i64::try_from(*width).unwrap();
            match seen.data_type() {
                DataType::Int64 => seen.as_primitive::<Int64Type>().value(row) % width == 0,
                DataType::Date32 => {
                    i64::from(seen.as_primitive::<Date32Type>().value(row)) % width == 0
                }
                DataType::Float64 => {
                    // The multiple as a float has it: large ones are not all there.
                    let (value, wide) = (
                        seen.as_primitive::<Float64Type>().value(row),
                        exact(width * 8),
                    );
                    ((value / wide).round() * wide - value).abs()
                        < value.abs().mul_add(4.0 * f64::EPSILON, 1e-6)
                }
                _ => {
                    let day = 86_400_000_000 * width;
                    seen.as_primitive::<TimestampMicrosecondType>().value(row) % day == 0
                }
            }
        }
    }
}

async fn seen(lake: &Lake, columns: &[String]) -> RecordBatch {
    let tables = SessionTables::of_reader(Arc::new(lake.state.clone()), 1, Reader::daemon());
    let quoted: Vec<String> = columns.iter().map(|name| format!("\"{name}\"")).collect();
    let sql = format!("SELECT {} FROM v", quoted.join(", "));
    let session = lake.engine.session(tables).with_partitions(1);
    let stream = session.execute(&sql, Vec::new(), None).await.unwrap();
    let schema = Arc::clone(stream.schema());
    let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
    arrow::compute::concat_batches(&schema, &batches).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("LAKEHOUSE_REDACTIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(200)
    ))]

    #[test]
    fn whatever_the_types_and_rules_no_cell_is_shown_that_a_rule_hides(
        numbers in prop::collection::vec(prop::option::weighted(0.9, any::<i64>()), 1..40),
        chosen in prop::collection::vec(rules(), COLUMNS.len()),
        mask in 1_u8..=255,
    ) {
        let base = batch(&numbers);
        let mut lake = Lake::new();
        lake.add("base", &[(base.clone(), vec![])], 100);
        let columns: Vec<String> = COLUMNS.iter().enumerate()
            .filter(|(at, _)| mask >> at & 1 == 1).map(|(_, name)| (*name).to_owned()).collect();
        let redactions = COLUMNS.iter().zip(&chosen)
            .filter(|(name, _)| columns.iter().any(|c| c == *name))
            .filter_map(|(name, rule)| Some(ColumnRedaction { column: (*name).to_owned(), rule: rule.clone()? }))
            .collect();
        let spec = ViewSpec { base: "base".to_owned(), columns: columns.clone(), redactions, ..ViewSpec::default() };
        lake.state.views.insert("v".to_owned(), view("v", spec.clone()));
        let seen = on(seen(&lake, &columns));
        prop_assert_eq!(seen.num_rows(), base.num_rows());
        for (at, name) in columns.iter().enumerate() {
            let plain = base.column_by_name(name).unwrap();
            let shown = seen.column(at);
            for row in 0..seen.num_rows() {
                match spec.rule(name) {
                    None => {
                        let text = |array: &ArrayRef| arrow::util::display::array_value_to_string(array, row).unwrap();
                        prop_assert_eq!(text(plain), text(shown));
                    }
                    Some(rule) => prop_assert!(is_redacted(rule, plain, shown, row), "{} {:?} {}", name, rule,
                        arrow::util::display::array_value_to_string(shown, row).unwrap()),
                }
            }
        }
    }
}

#[test]
fn tokens_join_within_a_domain_and_hashes_only_within_a_column() {
    let mut lake = Lake::new();
    lake.add("one", &[(batch(&[Some(5)]), vec![])], 10);
    lake.add("two", &[(batch(&[Some(5)]), vec![])], 10);
    let key = RedactionKey::new([7; 32]);
    let value = |lake: &mut Lake, name: &str, base: &str, rule: Redaction| {
        let spec = ViewSpec {
            base: base.to_owned(),
            columns: vec!["number".to_owned()],
            redactions: vec![ColumnRedaction {
                column: "number".to_owned(),
                rule,
            }],
            ..ViewSpec::default()
        };
        lake.state.views.insert(name.to_owned(), view(name, spec));
        let lens = Lens::of(&lake.state, name, &Reader::daemon(), &key)
            .unwrap()
            .unwrap();
        format!("{:?}", lens.steps[0].columns[0].1)
    };
    let domain = |name: &str| Redaction::Tokenize {
        domain: Some(name.to_owned()),
    };
    // The key itself is never printed.
    assert!(!value(&mut lake, "a", "one", domain("x")).contains("[7, 7"));
    let token = |lake: &Lake, name: &str| {
        let tables = SessionTables::of_reader(Arc::new(lake.state.clone()), 1, Reader::daemon());
        on(async {
            let sql = format!("SELECT number FROM {name}");
            let stream = lake
                .engine
                .session(tables)
                .execute(&sql, Vec::new(), None)
                .await
                .unwrap();
            let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap();
            batches[0].column(0).as_string_view().value(0).to_owned()
        })
    };
    for (name, base, rule) in [
        ("b", "two", domain("x")),
        ("c", "two", domain("y")),
        ("d", "one", Redaction::Hash {}),
        ("e", "two", Redaction::Hash {}),
        ("f", "one", Redaction::Hash {}),
    ] {
        value(&mut lake, name, base, rule);
    }
    assert_eq!(token(&lake, "a"), token(&lake, "b"), "one domain");
    assert_ne!(token(&lake, "a"), token(&lake, "c"), "another domain");
    assert_ne!(
        token(&lake, "d"),
        token(&lake, "e"),
        "columns of two datasets"
    );
    assert_eq!(token(&lake, "d"), token(&lake, "f"), "one column");
}
