//! Views over REST: made, shown, previewed, compared, replaced, dropped; what an agent sees of the lake through
//! one, and that nothing it can send shows more.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::api::{Answer, Api, list, secret_of};
use crate::support::daemon::Daemon;
use crate::support::hostile::{self, CANARY, CANARY_NUMBER, shows_canary};
use crate::support::until;

/// People of whom every tenth is blocked; everything hidden holds a canary.
fn people() -> String {
    let mut csv = "id,name,email,phone,ssn,salary,status,city,skill,score,hired\n".to_owned();
    for id in 0..100 {
        let blocked = id % 10 == 7;
        let shown = |words: [&str; 3]| {
            if blocked {
                format!("{CANARY}-{id}")
            } else {
                words[id % 3].to_owned()
            }
        };
        let first = char::from(b'A' + u8::try_from(id % 20).unwrap());
        let _ = writeln!(
            csv,
            "{id},{first}{CANARY}-{id},{CANARY}-{id}@x.org,{CANARY}-p-{id},{CANARY}-s-{id},{CANARY_NUMBER}{id:03},{},{},{},{},20{:02}-03-17",
            if blocked { "blocked" } else { "open" },
            shown(["Ulm", "Bonn", "Jena"]),
            shown(["writes rust", "writes sql", "keeps bees"]),
            if blocked {
                format!("{CANARY_NUMBER}{id:03}.5")
            } else {
                format!("{}.5", id % 13)
            },
            10 + id % 10,
        );
    }
    csv
}

fn safe() -> Value {
    json!({
        "name": "candidates_safe",
        "base_dataset": "candidates",
        "columns": ["id", "name", "city", "skill", "score", "hired"],
        "row_filter": "status <> 'blocked'",
        "column_redactions": [
            { "column": "name", "rule": { "mask": { "keep_prefix": 1, "keep_suffix": 0 } } },
            { "column": "hired", "rule": { "truncate": { "unit": "year" } } },
        ],
        "description": "candidates that may be spoken to",
        "column_meanings": { "skill": "what they do" },
    })
}

/// A lake with the view, and something that nobody may know of.
async fn lake() -> (Daemon, Api) {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    admin.create("candidates", &people()).await;
    admin
        .create("payroll", &format!("id,pay\n1,{CANARY}\n"))
        .await;
    admin.post("/catalog/views", &safe()).await.ok();
    let full = json!({ "name": "candidates_full", "base_dataset": "candidates", "columns": ["id", "email", "ssn"] });
    admin.post("/catalog/views", &full).await.ok();
    (daemon, admin)
}

async fn agent(daemon: &Daemon, admin: &Api, views: &[&str]) -> Api {
    let token = json!({ "name": format!("bot-{}", views.join("-")), "role": "agent", "views": views,
        "limits": { "concurrent_queries": 100, "requests_per_s": 100_000 } });
    let issued = admin.post("/auth/tokens", &token).await.ok();
    daemon.client(Some(&secret_of(&issued)))
}

#[tokio::test]
async fn a_view_is_made_shown_previewed_and_dropped() {
    let (_daemon, admin) = lake().await;
    let view = admin.get("/catalog/views/candidates_safe").await.ok();
    assert_eq!(view["base_dataset"], "candidates");
    assert_eq!(view["columns"], safe()["columns"]);
    let sql = view["sql"].as_str().unwrap();
    assert!(
        sql.contains("mask(\"name\")") && sql.contains("status <> 'blocked'"),
        "{sql}"
    );
    assert_eq!(list(&admin.get("/catalog/views").await.ok()).len(), 2);
    let preview = admin
        .get("/catalog/views/candidates_safe/preview?limit=3")
        .await
        .ok();
    assert_eq!(preview["row_count"], 3, "{preview}");
    assert_eq!(
        preview["rows"][0],
        json!([0, "A***", "Ulm", "writes rust", 0.5, "2010-01-01"])
    );
    let kept = admin.delete("/catalog/datasets/candidates").await;
    kept.problem_code(409, "dataset_in_use");
    admin.delete("/catalog/views/candidates_full").await.ok();
    admin
        .get("/catalog/views/candidates_full")
        .await
        .problem_code(404, "view_not_found");
    admin
        .delete("/catalog/datasets/candidates?cascade=true")
        .await
        .ok();
    admin
        .get("/catalog/views/candidates_safe")
        .await
        .problem_code(404, "view_not_found");
}

#[tokio::test]
async fn what_makes_no_view_is_refused_and_changes_nothing() {
    let (_daemon, admin) = lake().await;
    let seq = admin.seq().await;
    let change = |field: &str, value: Value| {
        let mut body = safe();
        body["name"] = json!("another");
        body[field] = value;
        body
    };
    for (body, status, code) in [
        (safe(), 409, "view_exists"),
        (change("name", json!("candidates")), 409, "dataset_exists"),
        (change("name", json!("no name")), 400, "bad_name"),
        (
            change("base_dataset", json!("nobody")),
            404,
            "dataset_not_found",
        ),
        (change("columns", json!([])), 422, "impossible"),
        (
            change("columns", json!(["id", "iq"])),
            404,
            "column_not_found",
        ),
        (change("row_filter", json!("status")), 400, "invalid_sql"),
        (
            change("row_filter", json!("1 / (id - 7) > 0")),
            400,
            "invalid_sql",
        ),
        (
            change("row_filter", json!("id IN (SELECT id FROM payroll)")),
            400,
            "statement_too_complex",
        ),
        (change("min_group_size", json!(1)), 422, "impossible"),
        (
            change(
                "column_redactions",
                json!([{ "column": "city", "rule": { "bucket": { "width": 5 } } }]),
            ),
            400,
            "invalid_sql",
        ),
        (
            change(
                "column_redactions",
                json!([{ "column": "email", "rule": { "null": {} } }]),
            ),
            404,
            "column_not_found",
        ),
        (
            change(
                "column_redactions",
                json!([{ "column": "city", "rule": { "blur": {} } }]),
            ),
            400,
            "invalid_request",
        ),
        (change("surprise", json!(1)), 400, "invalid_request"),
    ] {
        admin
            .post("/catalog/views", &body)
            .await
            .problem_code(status, code);
    }
    assert!(admin.witness(seq).await.1.is_empty(), "nothing happened");
}

#[tokio::test]
async fn the_definition_lies_in_the_primary_bucket_as_long_as_there_is_a_view() {
    let (_daemon, admin) = lake().await;
    let object = "/storage/buckets/primary/objects/_catalog/views/candidates_safe.json";
    let written = until("the definition", || async {
        let answer = admin.get(object).await;
        answer.is_ok().then(|| answer.json())
    })
    .await;
    assert_eq!(written["spec"]["base"], "candidates");
    admin.delete("/catalog/views/candidates_safe").await.ok();
    until("no definition", || async {
        (admin.get(object).await.status == 404).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_agent_that_writes_raw_sql_sees_neither_email_phone_ssn_nor_blocked_rows() {
    let (daemon, admin) = lake().await;
    let bot = agent(&daemon, &admin, &["candidates_safe"]).await;
    assert_eq!(bot.cell("SELECT count(*) FROM candidates_safe").await, 90);
    assert_eq!(
        bot.cell("SELECT count(*) FROM candidates_safe WHERE city LIKE 'z%'")
            .await,
        0
    );
    for column in ["email", "phone", "ssn", "salary", "status"] {
        let answer = bot
            .sql(&format!("SELECT {column} FROM candidates_safe"))
            .await;
        answer.problem_code(400, "column_not_found");
    }
    for hidden in [
        "candidates",
        "payroll",
        "candidates_full",
        "system.events",
        "nothing",
    ] {
        let answer = bot.sql(&format!("SELECT * FROM {hidden}")).await;
        answer.problem_code(404, "dataset_not_found");
    }
    let mine = list(&bot.get("/catalog/views").await.ok());
    assert_eq!(mine.len(), 1, "{mine:?}");
    let text = mine[0].to_string();
    assert!(!text.contains("status") && !text.contains("base"), "{text}");
    let hidden = bot.get("/catalog/views/candidates_full").await.problem(404);
    let missing = bot.get("/catalog/views/nothing").await.problem(404);
    assert_eq!(hidden["detail"], missing["detail"]);
    bot.post("/query/explain", &json!({ "sql": "SELECT 1" }))
        .await
        .refused();
    let audit = admin.get("/audit?view=candidates_safe").await.ok();
    assert!(!list(&audit).is_empty(), "the audit names the view");
}

/// Everything of an answer that an agent gets to see.
fn whole(answer: &Answer) -> String {
    let headers = answer
        .headers
        .iter()
        .filter(|(name, _)| name.as_str() != "x-request-id");
    let headers: Vec<String> = headers
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or_default()))
        .collect();
    let mut body = answer.text();
    if let Ok(mut json) = serde_json::from_slice::<Value>(&answer.body)
        && let Some(fields) = json.as_object_mut()
    {
        // What is made anew for each request: ids, and how long it took.
        for field in [
            "instance",
            "request_id",
            "elapsed_ms",
            "elapsed_us",
            "receipt",
        ] {
            fields.remove(field);
        }
        body = json.to_string();
    }
    format!("{}\n{body}", headers.join("\n"))
}

#[tokio::test]
async fn hostile_statements_over_rest_show_no_canary_and_break_nothing() {
    let (daemon, admin) = lake().await;
    let bot = agent(&daemon, &admin, &["candidates_safe"]).await;
    let mut asked = 0;
    for (class, sql) in hostile::statements() {
        let answer = bot.sql(&sql).await;
        asked += 1;
        assert!(answer.status < 500, "{class}: {sql}: {}", answer.text());
        assert!(
            !shows_canary(&whole(&answer)),
            "{class}: {sql}: {}",
            answer.text()
        );
    }
    for accept in ["text/csv", "application/vnd.apache.arrow.stream"] {
        for sql in [
            "SELECT * FROM candidates_safe",
            "SELECT * FROM candidates",
            "SELECT CAST(city AS INT) FROM candidates_safe",
        ] {
            let call = bot
                .call(Method::POST, "/query/sql")
                .header("accept", accept)
                .json(&json!({ "sql": sql }));
            // A stream that fails breaks off.
            if let Ok(answer) = call.try_send().await {
                asked += 1;
                assert!(
                    answer.status < 500 && !shows_canary(&answer.text()),
                    "{sql} as {accept}"
                );
            }
        }
    }
    for as_of in [
        json!(1),
        json!(2),
        json!(9_999_999),
        json!("2020-01-01T00:00:00Z"),
        json!("x"),
        json!(-1),
        json!([1]),
    ] {
        for table in ["candidates_safe", "candidates"] {
            let body = json!({ "sql": format!("SELECT * FROM {table}"), "as_of": as_of });
            let answer = bot.post("/query/sql", &body).await;
            asked += 1;
            assert!(
                answer.status < 500 && !shows_canary(&whole(&answer)),
                "{body}: {}",
                answer.text()
            );
        }
    }
    assert!(asked >= 1_000, "{asked} calls");
}

#[tokio::test]
async fn a_new_policy_holds_for_every_query_that_starts_after_it() {
    let (daemon, admin) = lake().await;
    let bot = agent(&daemon, &admin, &["candidates_safe"]).await;
    let (stop, stopped) = tokio::sync::watch::channel(0_u64);
    let mut readers = Vec::new();
    for _ in 0..16 {
        let (bot, stopped) = (bot.clone(), stopped.clone());
        readers.push(tokio::spawn(async move {
            let mut late = 0;
            loop {
                let stage = *stopped.borrow();
                let answer = bot
                    .sql("SELECT city, count(*) FROM candidates_safe GROUP BY city ORDER BY city")
                    .await;
                if stage == 2 {
                    return late;
                }
                if stage == 1 {
                    let rows = answer.ok()["rows"].to_string();
                    assert!(
                        !rows.contains("Ulm") && !rows.contains("Bonn"),
                        "an old policy answers: {rows}"
                    );
                    late += 1;
                }
            }
        }));
    }
    tokio::time::timeout(std::time::Duration::from_secs(30), bot.sql("SELECT 1"))
        .await
        .unwrap();
    let mut stricter = safe();
    stricter["row_filter"] = json!("status <> 'blocked' AND city = 'Jena'");
    stricter["replace"] = json!(true);
    admin.post("/catalog/views", &stricter).await.ok();
    stop.send(1).unwrap();
    for _ in 0..20 {
        bot.sql("SELECT count(*) FROM candidates_safe").await.ok();
    }
    stop.send(2).unwrap();
    let mut late = 0;
    for reader in readers {
        late += reader.await.unwrap();
    }
    assert!(late > 0, "queries started after the new policy");
    admin.delete("/catalog/views/candidates_safe").await.ok();
    bot.sql("SELECT count(*) FROM candidates_safe")
        .await
        .problem_code(404, "dataset_not_found");
}

#[tokio::test]
async fn a_difference_says_what_would_be_newly_shown_and_hidden() {
    let (_daemon, admin) = lake().await;
    let mut proposed = safe();
    proposed["columns"] = json!(["id", "name", "city", "email"]);
    proposed["row_filter"] = json!("city = 'Ulm' OR status = 'blocked'");
    proposed["column_redactions"] = json!([]);
    let diff = admin
        .post(
            "/catalog/views/candidates_safe/diff",
            &json!({ "proposed": proposed }),
        )
        .await
        .ok();
    assert_eq!(diff["columns"]["exposed"], json!(["email"]));
    assert_eq!(
        diff["columns"]["hidden"],
        json!(["skill", "score", "hired"])
    );
    assert_eq!(diff["redactions"][0]["column"], "name");
    assert_eq!(diff["rows"]["before"], 90);
    assert_eq!(diff["rows"]["exposed"], 10, "the blocked: {diff}");
    let shown = diff["rows"]["after"].as_u64().unwrap() - 10;
    assert_eq!(diff["rows"]["hidden"], 90 - shown, "{diff}");
}

#[tokio::test]
async fn a_view_of_the_past_is_under_the_policy_of_today() {
    let (daemon, admin) = lake().await;
    let then = admin.seq().await;
    let bot = agent(&daemon, &admin, &["candidates_safe"]).await;
    let mut stricter = safe();
    stricter["row_filter"] = json!("city = 'Ulm'");
    stricter["replace"] = json!(true);
    admin.post("/catalog/views", &stricter).await.ok();
    let body = json!({ "sql": "SELECT DISTINCT city FROM candidates_safe", "as_of": then });
    let answer = bot.post("/query/sql", &body).await.ok();
    assert_eq!(answer["rows"], json!([["Ulm"]]));
}

#[tokio::test]
async fn classes_are_proposed_at_ingest_confirmed_by_patch_and_then_held() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    let mut csv = "id,contact,card\n".to_owned();
    for id in 0..9 {
        let _ = writeln!(csv, "{id},p{id}@x.org,4111111111111111");
    }
    admin.create("people", &csv).await;
    let schema = |manifest: &Value, at: usize| manifest["schema"][at].clone();
    let manifest = admin.get("/catalog/datasets/people").await.ok();
    assert_eq!(
        schema(&manifest, 1)["proposed"]["found"],
        "email",
        "{manifest}"
    );
    assert_eq!(
        schema(&manifest, 2)["proposed"]["class"],
        "secret",
        "{manifest}"
    );
    assert_eq!(
        schema(&manifest, 1)["sensitivity"],
        "internal",
        "a proposal is none yet"
    );
    let analyst = admin.with_role("analyst").await;
    assert_eq!(
        analyst.cell("SELECT min(contact) FROM people").await,
        "p0@x.org"
    );
    let classes = json!({ "sensitivity": { "contact": "pii", "card": "secret" } });
    admin.patch("/catalog/datasets/people", &classes).await.ok();
    let seen = analyst.rows("SELECT contact, card FROM people").await;
    assert!(
        seen.iter().all(|row| row
            .iter()
            .all(|cell| cell.as_str().unwrap().starts_with("tok_"))),
        "{seen:?}"
    );
    let operator = admin.with_role("operator").await;
    assert_eq!(
        operator
            .rows("SELECT contact, card FROM people WHERE id = 3")
            .await,
        [[json!("p3@x.org"), Value::Null]]
    );
    assert_eq!(
        admin.cell("SELECT min(contact) FROM people").await,
        "p0@x.org"
    );
}

#[tokio::test]
async fn what_a_role_does_not_see_is_told_by_no_count_of_a_deletion_and_no_list_of_keys() {
    let daemon = Daemon::start();
    let admin = daemon.admin();
    admin.create("people", "id,ssn\nann,123\nbob,456\n").await;
    let classes = json!({ "sensitivity": { "ssn": "secret" } });
    admin.patch("/catalog/datasets/people", &classes).await.ok();
    let operator = admin.with_role("operator").await;
    let path = "/catalog/datasets/people/delete";
    let body = |predicate: &str| json!({ "where": predicate, "reason": "asked", "dry_run": true });
    assert_eq!(
        operator.post(path, &body("id = 'ann'")).await.ok()["matched"],
        1
    );
    for asked in ["ssn = 123", "id IN (SELECT id FROM people WHERE ssn = 123)"] {
        let answer = operator.post(path, &body(asked)).await;
        let told = !answer.is_ok() || answer.json()["matched"] == 0;
        assert!(told, "{asked}: {}", answer.text());
    }
    assert_eq!(
        admin.post(path, &body("ssn = 123")).await.ok()["matched"],
        1
    );
    admin.tombstone("people", &["ann"], "asked").await.ok();
    let analyst = admin.with_role("analyst").await;
    let listed = "/catalog/datasets/people/tombstone";
    analyst.get(listed).await.ok();
    let classes = json!({ "sensitivity": { "id": "pii" } });
    admin.patch("/catalog/datasets/people", &classes).await.ok();
    analyst.get(listed).await.problem_code(403, "column_denied");
    operator.get(listed).await.ok();
}
