//! Ingest of what cannot be taken: a clear error, and nothing has changed.

use std::fmt::Write as _;

use reqwest::Method;

use crate::support::api::{Answer, Api};
use crate::support::daemon::Daemon;
use crate::support::rows::{self, PEOPLE};

/// Sends what must be refused, and checks that nothing came of it.
async fn refused(api: &Api, call: impl Future<Output = Answer>) -> Answer {
    let seq = api.seq().await;
    let before = api.witness(seq).await;
    let answer = call.await;
    answer.refused();
    assert_eq!(
        api.witness(seq).await,
        before,
        "a refused ingest changes nothing"
    );
    answer
}

async fn with_people() -> (Daemon, Api) {
    let daemon = Daemon::start_with(&[("LAKEHOUSE__INGEST__BODY_LIMIT", "1MiB")]);
    let api = daemon.admin();
    api.create("people", &rows::csv(&PEOPLE)).await;
    (daemon, api)
}

#[tokio::test]
async fn a_dataset_is_created_once() {
    let (_daemon, api) = with_people().await;
    let again = api.ingest(
        "dataset=people&mode=create",
        "text/csv",
        "id,name,score\n9,x,1.5\n",
    );
    let problem = refused(&api, again)
        .await
        .problem_code(409, "dataset_exists");
    assert!(
        problem["detail"].as_str().unwrap().contains("people"),
        "{problem}"
    );
}

#[tokio::test]
async fn append_to_and_upsert_into_nothing_is_404_with_near_names() {
    let (_daemon, api) = with_people().await;
    for mode in ["append", "upsert&key=id"] {
        let query = format!("dataset=poeple&mode={mode}");
        let call = api.ingest(&query, "text/csv", "id,name,score\n9,x,1.5\n");
        let problem = refused(&api, call)
            .await
            .problem_code(404, "dataset_not_found");
        assert!(
            problem["detail"].as_str().unwrap().contains("people"),
            "{mode}: {problem}"
        );
    }
}

#[tokio::test]
async fn another_schema_is_409_with_the_difference() {
    let (_daemon, api) = with_people().await;
    let cases = [
        ("id,name\n9,tony\n", "score"),
        ("id,name,score,email\n9,tony,1.5,t@example.org\n", "email"),
        ("id,name,score\n9,tony,high\n", "score"),
    ];
    for mode in ["append", "upsert&key=id"] {
        for (csv, column) in cases {
            let query = format!("dataset=people&mode={mode}");
            let answer = refused(&api, api.ingest(&query, "text/csv", csv)).await;
            let problem = answer.problem_code(409, "schema_mismatch");
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(column),
                "{mode}: names `{column}`: {problem}"
            );
        }
    }
}

#[tokio::test]
async fn malformed_text_is_400_with_the_line() {
    let (_daemon, api) = with_people().await;
    let cases = [
        ("text/csv", "id,name,score\n7,a,1.5\n8,b\n", "3"),
        ("text/csv", "id,name,score\n7,a,1.5\n8,b,1.5,extra\n", "3"),
        ("text/csv", "id,name,score\n7,\"open,1.5\n", "2"),
        ("application/x-ndjson", "{\"id\":7}\n{\"id\":\n", "2"),
        ("application/json", "[{\"id\":7},\n{\"id\"}]", "2"),
    ];
    for (media, body, line) in cases {
        for query in ["dataset=fresh&mode=create", "dataset=people&mode=append"] {
            let answer = refused(&api, api.ingest(query, media, body)).await;
            let problem = answer.problem(400);
            let detail = problem["detail"].as_str().unwrap();
            assert!(
                detail.contains(&format!("line {line}")),
                "{body:?}: {problem}"
            );
        }
    }
}

#[tokio::test]
async fn files_that_are_none_are_400() {
    let (_daemon, api) = with_people().await;
    let parquet = "application/vnd.apache.parquet";
    let whole = rows::parquet(&PEOPLE);
    let cut = whole[..whole.len() / 2].to_vec();
    let cases: [(&str, Vec<u8>); 7] = [
        (parquet, Vec::new()),
        (parquet, cut),
        (parquet, b"PAR1 this is no Parquet file PAR1".to_vec()),
        ("application/vnd.apache.arrow.stream", Vec::new()),
        ("application/vnd.apache.arrow.stream", vec![0xff; 64]),
        ("text/csv", Vec::new()),
        ("application/json", b"{\"an\": \"object, cut".to_vec()),
    ];
    for (media, body) in cases {
        let length = body.len();
        let answer = refused(&api, api.ingest("dataset=fresh&mode=create", media, body)).await;
        assert_eq!(
            answer.status,
            400,
            "{length} bytes of {media}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn a_broken_gzip_stream_is_400() {
    let (_daemon, api) = with_people().await;
    let mut packed = rows::gzip(rows::csv(&PEOPLE).as_bytes()).await;
    packed.truncate(packed.len() - 6);
    let call = api
        .call(Method::POST, "/ingest/file?dataset=fresh&mode=create")
        .header("content-type", "text/csv")
        .header("content-encoding", "gzip")
        .body(packed)
        .send();
    assert_eq!(refused(&api, call).await.status, 400);
}

#[tokio::test]
async fn a_body_over_the_limit_is_413() {
    let (_daemon, api) = with_people().await;
    let mut csv = String::from("id,name,score\n");
    for id in 0..60_000 {
        writeln!(csv, "{id},somebody with a longer name,1.5").unwrap();
    }
    assert!(csv.len() > 1 << 20);
    let answer = refused(
        &api,
        api.ingest("dataset=fresh&mode=create", "text/csv", csv),
    )
    .await;
    answer.problem(413);
    api.get("/health").await.ok();
}

#[tokio::test]
async fn an_unknown_bucket_is_404_with_the_valid_ones() {
    let (_daemon, api) = with_people().await;
    let call = api
        .call(Method::POST, "/ingest/file?dataset=fresh&mode=create")
        .header("content-type", "text/csv")
        .header("x-lakehouse-bucket", "elsewhere")
        .body("id\n1\n")
        .send();
    let problem = refused(&api, call)
        .await
        .problem_code(404, "bucket_not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("primary"),
        "{problem}"
    );
}

#[tokio::test]
async fn a_request_that_does_not_make_sense_is_a_4xx() {
    let (_daemon, api) = with_people().await;
    let row = "id,name,score\n9,tony,1.5\n";
    let cases = [
        "mode=create",
        "dataset=&mode=create",
        "dataset=../../etc/passwd&mode=create",
        "dataset=1st&mode=create",
        "dataset=fresh&mode=sideways",
        "dataset=fresh&mode=create&format=xlsx",
        "dataset=fresh&mode=create&key=nosuch",
        "dataset=fresh&mode=upsert",
        "dataset=fresh&mode=create&colour=red",
    ];
    for query in cases {
        refused(&api, api.ingest(query, "text/csv", row)).await;
    }
}

#[tokio::test]
async fn an_upsert_without_a_key_is_refused() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.ingest("dataset=keyless&mode=create", "text/csv", "a,b\n1,x\n")
        .await
        .ok();
    refused(
        &api,
        api.ingest("dataset=keyless&mode=upsert", "text/csv", "a,b\n1,y\n"),
    )
    .await;
}

#[tokio::test]
async fn a_row_without_a_key_value_is_refused() {
    let (_daemon, api) = with_people().await;
    let body = "id,name,score\n,nobody,1.5\n";
    refused(
        &api,
        api.ingest("dataset=people&mode=upsert&key=id", "text/csv", body),
    )
    .await;
}

#[tokio::test]
async fn a_client_that_hangs_up_half_way_leaves_nothing_behind() {
    use std::io::Write as _;

    let (daemon, api) = with_people().await;
    let seq = api.seq().await;
    let before = api.witness(seq).await;
    let address = daemon.base().strip_prefix("http://").unwrap();
    let mut socket = std::net::TcpStream::connect(address).unwrap();
    write!(
        socket,
        "POST /ingest/file?dataset=fresh&mode=create HTTP/1.1\r\nHost: {address}\r\n\
         Authorization: Bearer {}\r\nContent-Type: text/csv\r\nContent-Length: 100000\r\n\r\n\
         id,name\n1,half a r",
        daemon.token()
    )
    .unwrap();
    drop(socket);
    // The daemon answers others meanwhile, and after it has noticed as before.
    for _ in 0..20 {
        assert_eq!(api.witness(seq).await, before);
    }
}
