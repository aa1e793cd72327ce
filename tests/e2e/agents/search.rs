//! Search by an agent over the protocol: it is offered the indexes that answer it and no others, finds rows of its
//! view only, and what it found stands in the audit and can be asked again.

use serde_json::{Value, json};

use super::{BASE, Lake, VIEW, mcp, shows_nothing};
use crate::support::api::{Api, list};

async fn index(admin: &Api, name: &str, source: &str, column: &str) {
    let index =
        json!({ "name": name, "source": source, "key": "id", "text": [column], "backend": "hnsw" });
    admin.post("/vectors/index?wait=true", &index).await.ok();
}

#[tokio::test]
async fn an_agent_searches_the_indexes_that_answer_it_and_its_hits_are_put_down() {
    let lake = Lake::new().await;
    index(&lake.admin, "over_view", VIEW, "skill").await;
    index(&lake.admin, "over_base", BASE, "skill").await;
    index(&lake.admin, "of_mails", BASE, "email").await;
    let agent = lake.agent("helper", &[]).await;
    let client = mcp::over_http(&lake.daemon, agent.token()).await;
    let tools = client.list_all_tools().await.unwrap();
    let search = tools.iter().find(|tool| tool.name == "search");
    let offered = search.expect("it may search").input_schema["properties"]["index"].clone();
    assert_eq!(offered["enum"], json!(["over_base", "over_view"]));

    for name in ["over_view", "over_base"] {
        let asked = json!({ "index": name, "query": "rust", "k": 30, "columns": ["name"] });
        let found = mcp::call(&client, "search", &asked).await;
        assert_ne!(found.is_error, Some(true), "{found:?}");
        shows_nothing(name, &format!("{found:?}"));
        let found = mcp::body(&found);
        let hits = found["hits"].as_array().unwrap();
        assert_eq!(hits.len(), 20, "{name}: every row that it sees");
        let receipt = found["receipt"].as_str().unwrap();
        let kept = agent.get(&format!("/receipts/{receipt}")).await.ok();
        assert_eq!(kept["same"], true, "{kept:#}");
    }
    for asked in [
        json!({ "index": "of_mails", "query": "canary" }),
        json!({ "index": "none", "query": "canary" }),
        json!({ "index": "over_base", "query": "x", "filter": "ssn = 'canary-ssn-1'" }),
        json!({ "index": "over_base", "query": "x", "columns": ["email"] }),
    ] {
        let refused = mcp::call(&client, "search", &asked).await;
        assert_eq!(refused.is_error, Some(true), "{asked}: {refused:?}");
        let told = mcp::body(&refused);
        let told: Value = told["detail"].clone();
        shows_nothing("the refusal", &told.to_string().replace("canary-ssn-1", ""));
    }
    let lines = lake.audit("principal=helper").await;
    let searches: Vec<_> = lines
        .iter()
        .filter(|line| line["action"] == "search")
        .collect();
    assert_eq!(searches.len(), 6, "{lines:#?}");
    for line in searches.iter().filter(|line| line["allowed"] == true) {
        assert_eq!(line["objects"][1], VIEW, "the view, and not its base");
        assert_eq!(
            (&line["rows"], line["generation"].is_u64()),
            (&json!(20), true)
        );
    }
    let seen = async |key: &str| {
        let path = format!("/audit/subject/{BASE}/{key}");
        list(&lake.admin.get(&path).await.ok())
    };
    let named = seen("c1").await;
    let named = named.iter().filter(|line| line["action"] == "search");
    assert_eq!(named.count(), 2);
    assert!(
        seen("c0").await.is_empty(),
        "a hidden row was found by nobody"
    );
    let _ = client.cancel().await;
}
