//! How fast it is, printed. `LAKEHOUSE_TEST_POSTGRES_ROWS` sets the size of the large table.

use super::reads::mixed_table;
use super::*;

async fn timed(source: &PostgresSource, options: &ReadOptions) -> (u64, Duration) {
    let begun = Instant::now();
    let mut stream = source
        .read(table("mixed"), options.clone())
        .await
        .expect("a table");
    let mut rows = 0;
    while let Some(batch) = stream.next().await {
        rows += batch.expect("a batch").num_rows() as u64;
    }
    (rows, begun.elapsed())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_seed_figure_586_rows_of_13_columns() {
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, &mixed_table(586));
    let source = source(&server.dsn(&database));
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let (rows, elapsed) = timed(&source, &ReadOptions::default()).await;
        assert_eq!(rows, 586);
        best = best.min(elapsed);
    }
    println!("586 x 13, connection included: {best:.1?}");
    assert!(best < Duration::from_millis(196), "{best:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_streams_near_the_speed_of_a_copy_thrown_away() {
    let wanted = std::env::var("LAKEHOUSE_TEST_POSTGRES_ROWS").ok();
    let rows: u32 = wanted.map_or(100_000, |text| text.parse().expect("a number of rows"));
    let server = TestServer::shared();
    let database = server.create_database();
    server.sql(&database, &mixed_table(rows));
    let source = source(&server.dsn(&database));
    for _ in 0..3 {
        let (bytes, limit) = source
            .copy_discarded(&table("mixed"))
            .await
            .expect("a table");
        print!("{rows} x 13, {} MiB: thrown away {limit:.2?}", bytes >> 20);
        for partitions in [Some(1), Some(2), None] {
            let options = ReadOptions {
                partitions,
                ..ReadOptions::default()
            };
            let (found, elapsed) = timed(&source, &options).await;
            assert_eq!(found, u64::from(rows));
            print!(" | {partitions:?} {elapsed:.2?}");
        }
        println!();
    }
}
