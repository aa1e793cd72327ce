//! The three output formats, each read back by a reader of that format.

use arrow::{datatypes::DataType, ipc::reader::StreamReader};
use futures::TryStreamExt;

use super::*;
use crate::query::testing::{Lake, people};

fn on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(work)
}

async fn all(stream: ByteStream) -> Result<Vec<u8>, QueryError> {
    let chunks: Vec<Bytes> = stream.try_collect().await?;
    Ok(chunks.concat())
}

async fn csv_of(lake: &Lake, sql: &str, options: CsvOptions) -> String {
    let stream = lake.session().execute(sql, vec![], None).await.unwrap();
    String::from_utf8(all(csv(stream, options)).await.unwrap()).unwrap()
}

#[test]
fn csv_has_one_header_and_quotes_what_has_to_be_quoted() {
    on(async {
        let lake = Lake::new();
        let sql = "SELECT * FROM (VALUES \
                   (1, 'plain', 1.5::double, '2024-01-31'::date, [1, 2]), \
                   (2, 'a,\"b\"', 'NaN'::double, NULL, NULL), \
                   (3, '', NULL, NULL, NULL), (4, NULL, NULL, NULL, NULL)) AS t(\"i,d\", s, f, d, l) \
                   ORDER BY 1";
        assert_eq!(
            csv_of(&lake, sql, CsvOptions::default()).await,
            "\"i,d\",s,f,d,l\r\n1,plain,1.5,2024-01-31,\"[1,2]\"\r\n2,\"a,\"\"b\"\"\",NaN,,\r\n\
             3,\"\",,,\r\n4,,,,\r\n"
        );
    });
}

#[test]
fn csv_keeps_formulas_unless_it_is_told_to_escape_them() {
    on(async {
        let lake = Lake::new();
        let sql = "SELECT '=1+1' AS a, '-5' AS b, '@x' AS c, -7 AS d";
        let plain = csv_of(&lake, sql, CsvOptions::default()).await;
        assert_eq!(plain, "a,b,c,d\r\n=1+1,-5,@x,-7\r\n");
        let options = CsvOptions {
            escape_formulas: true,
        };
        let escaped = csv_of(&lake, sql, options).await;
        assert_eq!(escaped, "a,b,c,d\r\n\"'=1+1\",-5,\"'@x\",-7\r\n");
    });
}

#[test]
fn every_row_streams_and_an_empty_answer_has_its_header() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 30_000), vec![7])], 10_000);
        let text = csv_of(&lake, "SELECT id, name FROM t", CsvOptions::default()).await;
        assert_eq!(text.lines().count(), 30_000);
        let none = "SELECT id, name FROM t WHERE id < 0";
        assert_eq!(
            csv_of(&lake, none, CsvOptions::default()).await,
            "id,name\r\n"
        );
    });
}

#[test]
fn arrow_streams_have_the_types_of_the_dataset() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 20_000), vec![0, 1])], 10_000);
        for (sql, rows) in [
            ("SELECT name, id FROM t", 19_998),
            ("SELECT name, id FROM t WHERE id < 0", 0),
        ] {
            let stream = lake.session().execute(sql, vec![], None).await.unwrap();
            let bytes = all(arrow_ipc(stream)).await.unwrap();
            let reader = StreamReader::try_new(bytes.as_slice(), None).unwrap();
            let schema = reader.schema();
            assert_eq!(schema.field(0).data_type(), &DataType::Utf8);
            let seen: usize = reader.map(|batch| batch.unwrap().num_rows()).sum();
            assert_eq!(seen, rows);
        }
    });
}

#[test]
fn an_error_among_the_rows_ends_a_stream_with_its_code() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 100_000), vec![])], 10_000);
        let sql = "SELECT 1 / (id - 99999) AS x FROM t";
        let stream = lake.session().execute(sql, vec![], None).await.unwrap();
        let error = all(csv(stream, CsvOptions::default())).await.unwrap_err();
        assert_eq!(error.code(), "execution_failed");
        let stream = lake.session().execute(sql, vec![], None).await.unwrap();
        let error = all(arrow_ipc(stream)).await.unwrap_err();
        assert_eq!(error.code(), "execution_failed");
    });
}

#[test]
fn a_client_that_goes_away_ends_its_query() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 100_000), vec![])], 10_000);
        let sql = "SELECT a.id, b.id FROM t a CROSS JOIN t b";
        let stream = lake.session().execute(sql, vec![], None).await.unwrap();
        let mut bytes = csv(stream, CsvOptions::default());
        bytes.next().await.unwrap().unwrap();
        drop(bytes);
        let handle = lake.engine.handle();
        for _ in 0..200 {
            if handle.metrics().num_alive_tasks() == 0 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("the query still runs");
    });
}

#[test]
fn columns_are_named_with_plain_types() {
    on(async {
        let mut lake = Lake::new();
        lake.add("t", &[(people(0, 1), vec![])], 10);
        let answer = lake.json("SELECT name, id FROM t", vec![]).await.unwrap();
        let types: Vec<_> = answer
            .columns
            .iter()
            .map(|c| c.data_type.as_str())
            .collect();
        assert_eq!(types, ["Utf8", "Int64"]);
        assert_eq!(answer.row_count, 1);
    });
}
