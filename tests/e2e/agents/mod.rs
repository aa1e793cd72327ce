//! What an agent can do: ask through its views, call its tools, within its limits, and every answer put down.

mod audit;
mod doors;
mod issuer;
mod limits;
mod mcp;
mod receipts;
mod search;
mod tools;

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::support::{api::Api, daemon::Daemon};

/// What no agent may ever see, wherever it stands.
const CANARIES: [&str; 4] = [
    "canary-mail",
    "canary-phone",
    "canary-ssn",
    "canary-blocked",
];
/// The base, of which every third row is blocked.
const BASE: &str = "candidates";
/// What agents read of it.
const VIEW: &str = "candidates_safe";
/// Rows that agents can see.
const VISIBLE: u64 = 20;

/// A lake with candidates, and the view that hides of them what must be hidden.
struct Lake {
    daemon: Daemon,
    admin: Api,
}

impl Lake {
    async fn with(env: &[(&str, &str)]) -> Self {
        let daemon = Daemon::start_with(env);
        let admin = daemon.admin();
        let mut csv = "id,name,city,skill,rate,email,phone,ssn,blocked\n".to_owned();
        for id in 0..30 {
            let (blocked, name) = if id % 3 == 0 {
                (true, format!("canary-blocked-{id}"))
            } else {
                (false, format!("person {id}"))
            };
            let (city, skill) = (["Bern", "Graz"][id % 2], ["rust", "sql", "law"][id % 3]);
            let _ = writeln!(
                csv,
                "c{id},{name},{city},{skill},{id}.5,canary-mail-{id},canary-phone-{id},canary-ssn-{id},{blocked}"
            );
        }
        admin.create(BASE, &csv).await;
        let view = json!({
            "name": VIEW,
            "base_dataset": BASE,
            "columns": ["id", "name", "city", "skill", "rate"],
            "row_filter": "blocked = false",
        });
        admin.post("/catalog/views", &view).await.ok();
        Self { daemon, admin }
    }

    async fn new() -> Self {
        Self::with(&[]).await
    }

    /// An agent with the view and these tools.
    async fn agent(&self, name: &str, tools: &[&str]) -> Api {
        let token = json!({ "name": name, "role": "agent", "views": [VIEW], "tools": tools });
        self.admin.with_token(&token).await
    }

    /// A tool over the view: names by skill.
    async fn tool(&self) -> Value {
        self.admin.post("/tools", &search_candidates()).await.ok()
    }

    async fn audit(&self, query: &str) -> Vec<Value> {
        let lines = self.admin.get(&format!("/audit?{query}")).await.ok();
        crate::support::api::list(&lines)
    }
}

fn search_candidates() -> Value {
    json!({
        "name": "search_candidates",
        "description": "Candidates with a skill, cheapest first",
        "bind": VIEW,
        "sql": "SELECT id, name, rate FROM candidates_safe WHERE skill = $skill AND rate <= coalesce($most, 1000) ORDER BY rate",
        "params": [
            { "name": "skill", "type": "string", "required": true, "description": "One skill" },
            { "name": "most", "type": "number" },
        ],
    })
}

/// Fails when something that must be hidden is in a text.
fn shows_nothing(what: &str, text: &str) {
    for canary in CANARIES {
        assert!(!text.contains(canary), "{what} shows {canary}: {text}");
    }
}
