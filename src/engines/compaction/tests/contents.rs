//! What rows hold comes out as it went in, and is compared by a sum that knows every value but no order.

use arrow::{
    array::{Float32Array, Float64Array},
    compute::{cast, take},
    datatypes::{DataType, Field, Fields, Schema},
};

use super::*;

#[tokio::test]
async fn values_of_every_kind_come_out_as_they_went_in() {
    let world = World::new();
    let rows = every_kind();
    let backwards: Int64Array = (0..i64::try_from(rows.num_rows()).unwrap()).rev().collect();
    let columns = rows
        .columns()
        .iter()
        .map(|column| take(column, &backwards, None).unwrap());
    let other = RecordBatch::try_new(rows.schema(), columns.collect()).unwrap();
    let before = world.dataset(&[], &[(rows, &[1]), (other, &[])]).await;
    let (after, _) = world.compact(&before, Sizes::default()).await;
    same_rows(&world.rows(&before).await, &world.rows(&after).await);
    let schema = schema_of(&after);
    let file = OpenFile::open(&world.tables.buckets, &after.files[0], &schema);
    let rows: Vec<RecordBatch> = file
        .await
        .unwrap()
        .live_rows()
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    assert!(rows[0]["lists"].is_null(3), "no list is not an empty list");
    assert!(!rows[0]["lists"].is_null(1));
}

#[tokio::test]
async fn two_dictionaries_with_more_values_than_their_keys_can_count_become_one_column() {
    let world = World::new();
    let keyed = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let words = |start: u32| {
        let words: StringArray = (start..start + 100)
            .map(|n| Some(format!("w{n}")))
            .collect();
        let column = cast(&words, &keyed).unwrap();
        RecordBatch::try_from_iter_with_nullable([("word", column, true)]).unwrap()
    };
    let before = world
        .dataset(&[], &[(words(0), &[7]), (words(100), &[])])
        .await;
    let (after, _) = world.compact(&before, Sizes::default()).await;
    assert_eq!(world.rows(&after).await.num_rows(), 199);
    same_rows(&world.rows(&before).await, &world.rows(&after).await);
}

/// Numbers that are none, text that is empty, lists that are not there, dictionaries.
fn every_kind() -> RecordBatch {
    let json = r#"
        {"half": 1, "text": "", "lists": [1, null], "points": {"x": 1.5, "tags": ["a"]}, "word": "b"}
        {"half": 2, "text": "a", "lists": [], "points": {"x": null, "tags": []}, "word": "a"}
        {"half": 3, "lists": [], "points": {"x": -0.0, "tags": null}, "word": "b"}
        {"half": null, "text": "long enough for a buffer of its own", "lists": [3], "word": null}
        {"half": 5, "text": "", "lists": null, "points": null, "word": "c"}"#;
    let tags = DataType::List(Arc::new(Field::new_list_field(DataType::Utf8, true)));
    let x = Field::new("x", DataType::Float64, true);
    let points = Fields::from(vec![x, Field::new("tags", tags, true)]);
    let numbers = DataType::List(Arc::new(Field::new_list_field(DataType::Int32, true)));
    let words = DataType::Dictionary(Box::new(DataType::Int8), Box::new(DataType::Utf8));
    let schema = Arc::new(Schema::new(vec![
        Field::new("half", DataType::Float32, true),
        Field::new("text", DataType::LargeUtf8, true),
        Field::new("lists", numbers, true),
        Field::new("points", DataType::Struct(points), true),
        Field::new("word", DataType::Utf8, true),
    ]));
    let reader = arrow::json::ReaderBuilder::new(Arc::clone(&schema)).build(json.as_bytes());
    let rows = reader.unwrap().next().unwrap().unwrap();
    let mut columns = rows.columns().to_vec();
    let halves = [
        Some(f32::NAN),
        Some(-0.0),
        Some(0.0),
        None,
        Some(f32::INFINITY),
    ];
    columns[0] = Arc::new(Float32Array::from(halves.to_vec()));
    columns[4] = cast(&columns[4], &words).unwrap();
    let fields = schema.fields().iter().zip(&columns);
    let fields =
        fields.map(|(field, column)| Field::new(field.name(), column.data_type().clone(), true));
    let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
    RecordBatch::try_new(schema, columns).unwrap()
}

#[test]
fn the_sum_of_rows_knows_null_from_empty_and_one_zero_from_the_other_but_no_order() {
    let sum = |rows: &RecordBatch| {
        let content = Content::new(rows.schema_ref()).unwrap();
        content.add(rows).unwrap();
        content.sum()
    };
    let text = |values: &[Option<&str>]| {
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap()
    };
    let number = |value: f64| {
        let column: ArrayRef = Arc::new(Float64Array::from(vec![value]));
        RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap()
    };
    assert_eq!(
        sum(&text(&[Some("a"), None])),
        sum(&text(&[None, Some("a")]))
    );
    let different = [
        text(&[Some("a"), None]),
        text(&[Some("a"), Some("")]),
        text(&[Some("a"), Some("a")]),
        text(&[None, None]),
        number(0.0),
        number(-0.0),
        number(f64::NAN),
        number(-f64::NAN),
    ];
    for (at, left) in different.iter().enumerate() {
        for right in &different[at + 1..] {
            assert_ne!(sum(left), sum(right));
        }
    }
}

#[test]
fn a_dictionary_has_the_sum_of_its_values() {
    let rows = every_kind();
    let words: ArrayRef = Arc::clone(&rows["word"]);
    let plain = cast(&words, &DataType::Utf8View).unwrap();
    let sum = |column: ArrayRef| {
        let rows = RecordBatch::try_from_iter_with_nullable([("a", column, true)]).unwrap();
        let content = Content::new(rows.schema_ref()).unwrap();
        content.add(&rows).unwrap();
        content.sum()
    };
    assert_eq!(sum(words), sum(plain));
}
