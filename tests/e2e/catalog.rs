//! The catalog: manifests, descriptions, and datasets that go.

use serde_json::{Value, json};

use crate::support::api::list;
use crate::support::daemon::Daemon;

#[tokio::test]
async fn a_manifest_says_everything_that_the_contract_lists() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    let created = api.create("people", "id,name\n1,ada\n2,grace\n").await;
    let manifest = api.get("/catalog/datasets/people").await.ok();
    for field in [
        "name",
        "id",
        "schema",
        "key",
        "row_count",
        "bytes",
        "files",
        "schema_fingerprint",
        "lineage",
        "created_at",
        "updated_at",
        "owner",
        "description",
        "tags",
        "last_embedded_at",
        "embedding_stale_since",
        "embedding_refresh_policy",
    ] {
        assert!(manifest.get(field).is_some(), "`{field}` in {manifest}");
    }
    assert_eq!(manifest["name"], "people");
    assert_eq!(manifest["row_count"], 2);
    let schema = list(&manifest["schema"]);
    assert_eq!(schema.len(), 2);
    for (column, name) in schema.iter().zip(["id", "name"]) {
        assert_eq!(column["name"], name, "{column}");
        assert!(
            column["type"].is_string() && column["nullable"].is_boolean(),
            "{column}"
        );
        assert!(column["sensitivity"].is_string(), "{column}");
    }
    let files = list(&manifest["files"]);
    assert_eq!(files.len(), 1);
    for field in ["bucket", "key", "rows", "bytes", "deleted_rows", "blake3"] {
        assert!(files[0].get(field).is_some(), "`{field}` in {}", files[0]);
    }
    assert_eq!(files[0]["rows"], 2);
    let lineage = list(&manifest["lineage"]);
    assert_eq!(
        lineage[0]["journal_seq"], created["journal_seq"],
        "{manifest}"
    );
    assert!(
        lineage[0].get("source").is_some() && lineage[0]["at"].is_string(),
        "{manifest}"
    );
    assert!(
        manifest["created_at"].as_str().unwrap().ends_with('Z'),
        "{manifest}"
    );
    let all = list(&api.get("/catalog/datasets").await.ok());
    assert_eq!(all.len(), 1);
    assert_eq!(all[0]["name"], "people");
}

#[tokio::test]
async fn a_manifest_of_many_writes_shows_the_newest_and_says_how_many_there_were() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("t", "id\n0\n").await;
    let mut last = json!(null);
    for id in 1..=104 {
        let answer = api
            .ingest("dataset=t&mode=append", "text/csv", format!("id\n{id}\n"))
            .await;
        last = answer.ok()["journal_seq"].clone();
    }
    let manifest = api.get("/catalog/datasets/t").await.ok();
    let lineage = list(&manifest["lineage"]);
    assert_eq!(
        (lineage.len(), &manifest["lineage_steps"]),
        (100, &json!(105))
    );
    assert_eq!(lineage[99]["journal_seq"], last);
}

#[tokio::test]
async fn a_patch_changes_what_it_names_and_survives() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let path = "/catalog/datasets/people";
    let all = json!({ "description": "who", "owner": "the desk", "tags": ["a", "b"], "sensitivity": { "name": "pii" } });
    let patched = api.patch(path, &all).await.ok();
    assert!(patched["journal_seq"].is_u64(), "{patched}");
    api.patch(path, &json!({ "description": "who it is" }))
        .await
        .ok();

    let daemon = daemon.crash_and_restart();
    let manifest = daemon.admin().get(path).await.ok();
    assert_eq!(manifest["description"], "who it is");
    assert_eq!(manifest["owner"], "the desk");
    assert_eq!(manifest["tags"], json!(["a", "b"]));
    let schema = list(&manifest["schema"]);
    assert_eq!(schema[1]["sensitivity"], "pii", "{manifest}");
}

#[tokio::test]
async fn a_patch_that_makes_no_sense_is_refused_whole() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let seq = api.seq().await;
    for body in [
        json!({ "description": "x", "sensitivity": { "nosuch": "pii" } }),
        json!({ "sensitivity": { "name": "delicate" } }),
        json!({ "row_count": 17 }),
        json!({ "tags": "a" }),
        json!({ "embedding_refresh_policy": "sometimes" }),
        json!([]),
    ] {
        api.patch("/catalog/datasets/people", &body).await.refused();
    }
    let patch = json!({ "description": "x" });
    api.patch("/catalog/datasets/poeple", &patch)
        .await
        .problem_code(404, "dataset_not_found");
    assert!(api.witness(seq).await.1.is_empty());
    assert_eq!(
        api.get("/catalog/datasets/people").await.ok()["description"],
        ""
    );
}

#[tokio::test]
async fn an_unknown_dataset_is_404_with_near_names() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("candidates", "id\n1\n").await;
    let problem = api
        .get("/catalog/datasets/candidate")
        .await
        .problem_code(404, "dataset_not_found");
    assert!(
        problem["detail"].as_str().unwrap().contains("candidates"),
        "{problem}"
    );
    api.delete("/catalog/datasets/candidate")
        .await
        .problem_code(404, "dataset_not_found");
}

#[tokio::test]
async fn a_dropped_dataset_is_gone_and_its_name_is_free() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    api.create("people", "id,name\n1,ada\n").await;
    let dropped = api.delete("/catalog/datasets/people").await.ok();
    assert!(dropped["journal_seq"].is_u64(), "{dropped}");
    api.get("/catalog/datasets/people")
        .await
        .problem_code(404, "dataset_not_found");
    api.sql("SELECT * FROM people")
        .await
        .problem_code(404, "dataset_not_found");

    let daemon = daemon.crash_and_restart();
    let api = daemon.admin();
    api.get("/catalog/datasets/people")
        .await
        .problem_code(404, "dataset_not_found");
    api.create("people", "id,city\n7,London\n").await;
    assert_eq!(
        api.rows("SELECT * FROM people").await,
        [[json!(7), json!("London")]]
    );
}

#[tokio::test]
async fn lists_page_with_limit_and_after() {
    let daemon = Daemon::start();
    let api = daemon.admin();
    for name in ["a", "b", "c", "d", "e"] {
        api.create(name, "id\n1\n").await;
    }
    let answer = api.get("/catalog/datasets?limit=2").await;
    let page = answer.ok();
    let mut names: Vec<Value> = list(&page)
        .iter()
        .map(|dataset| dataset["name"].clone())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let mut next = cursor(&answer);
    while let Some(after) = next {
        let answer = api
            .get(&format!("/catalog/datasets?limit=2&after={after}"))
            .await;
        let page = list(&answer.ok());
        assert!(page.len() <= 2);
        names.extend(page.iter().map(|dataset| dataset["name"].clone()));
        next = cursor(&answer);
        assert!(names.len() <= 5, "every dataset once: {names:?}");
    }
    assert_eq!(names, ["a", "b", "c", "d", "e"]);
}

/// Where the next page starts.
fn cursor(answer: &crate::support::api::Answer) -> Option<String> {
    let next = &answer.ok()["next"];
    next.as_str().map(str::to_owned)
}
