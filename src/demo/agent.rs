//! An agent at work: a view that is safe to read, a tool over it, a token that has only these; then the agents'
//! protocol, by which it asks for what it must not see and is refused, asks a question and is answered, and what
//! the audit has of both.

use rmcp::{
    RoleClient,
    model::{CallToolRequestParams, CallToolResult},
    service::RunningService,
};
use serde_json::{Value, json};

use super::{DemoError, Doing as _, script::say};
use crate::{
    cli::{
        client::{Client, items},
        output,
    },
    mcp::bridge,
};

/// What agents read of the candidates.
const VIEW: &str = "candidates_safe";
/// The tool over it.
const TOOL: &str = "search_candidates";
/// Rows that it answers with.
const TOOL_ROWS: u64 = 3;
/// Its name in the audit.
const AGENT: &str = "assistant";
/// For whom it acts.
const PERSON: &str = "grace@agency.example";
/// What it asks for and must not see.
const FORBIDDEN: [&str; 2] = [
    "SELECT first_name, ssn FROM candidates LIMIT 5",
    "SELECT id, ssn FROM candidates_safe LIMIT 5",
];

/// Makes the view, the tool and the token, and says so; returns the agent's secret.
pub(super) async fn prepare(client: &Client) -> Result<String, DemoError> {
    let view = json!({
        "name": VIEW,
        "base_dataset": "candidates",
        "columns": ["id", "city", "state", "years_experience", "headline", "skills"],
        "row_filter": "status <> 'blocked'",
        "description": "Candidates without what names them; who is blocked is not here",
    });
    client
        .post(&["catalog", "views"], &view)
        .await
        .doing("the view")?;
    say(&format!(
        "view `{VIEW}`: six columns of `candidates`, without who is blocked"
    ));
    let sql = format!(
        "SELECT id, headline, city, state FROM candidates_safe \
         WHERE contains(lower(skills), lower($skill)) AND ($state IS NULL OR state = $state) \
         ORDER BY years_experience DESC, id LIMIT {TOOL_ROWS}"
    );
    let tool = json!({
        "name": TOOL,
        "description": "Candidates with a skill, the most experienced first",
        "bind": VIEW,
        "sql": sql,
        "params": [
            { "name": "skill", "type": "string", "required": true, "description": "One skill, such as welding" },
            { "name": "state", "type": "string", "description": "Two letters" },
        ],
    });
    client.post(&["tools"], &tool).await.doing("the tool")?;
    say(&format!(
        "tool `{TOOL}`: one query over it, with bound values"
    ));
    let token = json!({ "name": AGENT, "role": "agent", "views": [VIEW], "tools": [TOOL] });
    let issued = client
        .post(&["auth", "tokens"], &token)
        .await
        .doing("the agent's token")?;
    let secret = issued["secret"].as_str().unwrap_or_default().to_owned();
    say(&format!(
        "token `{AGENT}`: the view, the tool, and nothing else"
    ));
    Ok(secret)
}

/// The agent's side: asks and is refused, asks and is answered. Returns the receipt of the answer.
pub(super) async fn ask(client: &Client, secret: &str) -> Result<String, DemoError> {
    let doing = "the agent's connection";
    let connected = bridge::connect(client.base(), secret, Some(PERSON)).await;
    let agent = connected.map_err(|error| DemoError::wrong(doing, error.to_string()))?;
    for sql in FORBIDDEN {
        let refused = call(&agent, "query", &json!({ "sql": sql })).await?;
        let body = body(&refused)?;
        if refused.is_error != Some(true) {
            return Err(DemoError::wrong(sql, format!("it was answered: {body}")));
        }
        say(&format!(
            "{sql}\n   refused: {} ({})",
            output::cell(&body["detail"]),
            output::cell(&body["code"])
        ));
    }
    let skill = json!({ "skill": "welding" });
    let answered = call(&agent, TOOL, &skill).await?;
    let body = body(&answered)?;
    let expected = welders(client).await?.min(TOOL_ROWS);
    if answered.is_error == Some(true) || items(&body["rows"]).len() as u64 != expected {
        return Err(DemoError::wrong(TOOL, body.to_string()));
    }
    say(&format!("{TOOL} {skill}"));
    say(&output::result_table(&body));
    // The daemon keeps nothing of a connection that could fail to be closed.
    let _ = agent.cancel().await;
    body["receipt"]
        .as_str()
        .map(str::to_owned)
        .ok_or_else(|| DemoError::wrong(TOOL, "no receipt"))
}

/// How many there are by the base table; a small demo may have none.
async fn welders(client: &Client) -> Result<u64, DemoError> {
    let sql = "SELECT count(*) FROM candidates \
               WHERE status <> 'blocked' AND contains(lower(skills), 'welding')";
    let answer = client
        .post(&["query", "sql"], &json!({ "sql": sql }))
        .await
        .doing(sql)?;
    answer["rows"][0][0]
        .as_u64()
        .ok_or_else(|| DemoError::wrong(sql, answer.to_string()))
}

/// What the audit has of it; checks that both are there and that the chain is whole.
pub(super) async fn audit(client: &Client, receipt: &str) -> Result<String, DemoError> {
    let doing = "the audit of the agent";
    let lines = client
        .get(&["audit"], &[("principal", AGENT)])
        .await
        .doing(doing)?;
    let lines = items(&lines);
    let of = |allowed: bool, action: &str| {
        lines
            .iter()
            .filter(|line| line["allowed"] == allowed && line["action"] == action)
            .count()
    };
    let answered = lines.iter().find(|line| line["receipt"] == *receipt);
    let fine = answered.is_some_and(|line| line["object"] == VIEW && line["tool"] == TOOL);
    if of(false, "query") != FORBIDDEN.len() || !fine {
        return Err(DemoError::wrong(doing, format!("{lines:?}")));
    }
    for line in lines
        .iter()
        .rev()
        .filter(|line| line["action"] == "query" || line["action"] == "tool")
    {
        say(&line_of(line));
    }
    let verified = client
        .post(&["audit", "verify"], &json!({}))
        .await
        .doing(doing)?;
    let kept = client
        .get(&["receipts", receipt], &[])
        .await
        .doing("the receipt")?;
    if verified["ok"] != true || kept["same"] != true {
        return Err(DemoError::wrong(doing, format!("{verified} {kept}")));
    }
    Ok(format!(
        "{} lines are chained without a gap, and the answer asked again is the same",
        output::cell(&verified["checked"])
    ))
}

fn line_of(line: &Value) -> String {
    let text = |name: &str| output::cell(&line[name]);
    let outcome = if line["allowed"] == true {
        format!("{} rows", text("rows"))
    } else {
        format!("refused, {}", text("code"))
    };
    let object = if line["object"].is_null() {
        String::new()
    } else {
        format!(" of {}", text("object"))
    };
    format!(
        "{} for {}: {}{object}: {outcome}",
        text("principal"),
        text("on_behalf_of"),
        text("action")
    )
}

async fn call(
    agent: &RunningService<RoleClient, ()>,
    tool: &'static str,
    arguments: &Value,
) -> Result<CallToolResult, DemoError> {
    let mut params = CallToolRequestParams::new(tool);
    params.arguments = arguments.as_object().cloned();
    let called = agent.call_tool(params).await;
    called.map_err(|error| DemoError::wrong(tool, error.to_string()))
}

fn body(result: &CallToolResult) -> Result<Value, DemoError> {
    let text = result.content.first().and_then(|content| content.as_text());
    let text = text.map(|text| text.text.as_str()).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| DemoError::wrong("an answer", error.to_string()))
}
