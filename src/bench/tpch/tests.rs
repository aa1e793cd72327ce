//! The tables and queries at scale factor 0.01, in plain `DataFusion`.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::ipc::reader::StreamReader;
use arrow::util::pretty::pretty_format_batches;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;

use super::*;

const SCALE: f64 = 0.01;

fn all(table: TpchTable) -> Vec<RecordBatch> {
    parallel_batches(table, SCALE, 2).collect()
}

fn rows(batches: &[RecordBatch]) -> usize {
    batches.iter().map(RecordBatch::num_rows).sum()
}

fn tpch_at(scale_factor: f64) -> SessionContext {
    let session = SessionContext::new();
    for table in TpchTable::ALL {
        let data = parallel_batches(table, scale_factor, 2).collect();
        let memory = MemTable::try_new(table.schema(), vec![data]).unwrap();
        session
            .register_table(table.name(), Arc::new(memory))
            .unwrap();
    }
    session
}

async fn answer(session: &SessionContext, number: usize) -> Vec<RecordBatch> {
    let text = query(number, SCALE).unwrap();
    session.sql(&text).await.unwrap().collect().await.unwrap()
}

#[test]
fn every_table_has_its_rows() {
    for table in TpchTable::ALL {
        let expected = table.row_count(SCALE).unwrap_or(60_175);
        assert_eq!(rows(&all(table)) as u64, expected, "{}", table.name());
    }
}

#[test]
fn a_table_is_the_same_made_in_one_part_in_many_and_in_parallel() {
    for table in [TpchTable::Region, TpchTable::Supplier, TpchTable::LineItem] {
        let schema = table.schema();
        let whole: Vec<_> = batches(table, SCALE, 1, 1).collect();
        let parts: Vec<_> = (1..=3)
            .flat_map(|part| batches(table, SCALE, part, 3))
            .collect();
        let whole = concat_batches(&schema, &whole).unwrap();
        assert_eq!(whole, concat_batches(&schema, &parts).unwrap());
        assert_eq!(whole, concat_batches(&schema, &all(table)).unwrap());
    }
}

#[test]
fn several_pieces_come_in_the_order_of_their_keys() {
    let keys = parallel_batches(TpchTable::PartSupp, 0.2, 2).map(|batch| batch.column(0).clone());
    let keys: Vec<_> = keys.collect();
    assert!(keys.len() > 16);
    let keys = arrow::compute::concat(&keys.iter().map(AsRef::as_ref).collect::<Vec<_>>()).unwrap();
    let sorted = arrow::compute::sort(&keys, None).unwrap();
    assert_eq!(keys.len(), 160_000);
    assert_eq!(&keys, &sorted);
}

#[test]
fn a_reader_may_leave_early() {
    let mut batches = parallel_batches(TpchTable::Orders, 1.0, 2);
    assert!(batches.next().is_some());
}

#[test]
fn an_ipc_stream_holds_the_table() {
    let table = TpchTable::LineItem;
    let chunks: Vec<_> = ipc_chunks(&table.schema(), parallel_batches(table, SCALE, 2)).collect();
    assert!(chunks.len() > 7);
    let stream = chunks.concat();
    let reader = StreamReader::try_new(stream.as_slice(), None).unwrap();
    let read: Vec<_> = reader.map(Result::unwrap).collect();
    assert_eq!(read, all(table));
}

#[test]
fn query_11_asks_for_a_share_that_fits_the_scale() {
    assert!(query(11, 1.0).unwrap().contains("* 0.0001\n"));
    assert!(query(11, SCALE).unwrap().contains("* 0.0100000000\n"));
    assert!(query(0, 1.0).is_none() && query(23, 1.0).is_none());
}

#[tokio::test]
async fn all_queries_run_and_the_known_answers_come() {
    let session = tpch_at(SCALE);
    let expected = [
        4, 4, 10, 5, 5, 1, 4, 2, 173, 20, 1, 2, 33, 1, 1, 296, 1, 2, 1, 1, 1, 7,
    ];
    for (number, expected) in (1..=QUERY_COUNT).zip(expected) {
        assert_eq!(
            rows(&answer(&session, number).await),
            expected,
            "query {number}"
        );
    }
    let revenue = pretty_format_batches(&answer(&session, 6).await)
        .unwrap()
        .to_string();
    assert!(revenue.contains("1193053.2253"), "{revenue}");
}

#[test]
fn a_wrong_answer_is_told_from_the_published_one() {
    let column = |name: &str, value: &str| {
        let array: arrow::array::ArrayRef = Arc::new(arrow::array::StringArray::from(vec![value]));
        (name.to_owned(), array)
    };
    let right = RecordBatch::try_from_iter([column("revenue", "123141078.2283")]).unwrap();
    let wrong = RecordBatch::try_from_iter([column("revenue", "123141278.23")]).unwrap();
    check_answer(6, std::slice::from_ref(&right)).unwrap();
    assert!(matches!(
        check_answer(6, &[wrong]),
        Err(AnswerDiffers::Row { row: 0, .. })
    ));
    assert!(matches!(
        check_answer(6, &[]),
        Err(AnswerDiffers::Rows {
            found: 0,
            expected: 1,
            ..
        })
    ));
    assert!(matches!(
        check_answer(23, &[right]),
        Err(AnswerDiffers::NoSuchQuery(23))
    ));
}
