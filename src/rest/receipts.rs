//! Receipts of answers: an agent's answer asked again at its position of the journal, as its holder, under the policy
//! of today, and held against what the audit has of it. Says whether it is the same, and which of its rows have been
//! erased since; shows no row.

use std::{collections::BTreeMap, sync::Arc};

use actix_web::{HttpRequest, HttpResponse, web};
use lakehouse_journal::model::access::{Role, Token};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    Edge,
    ask::{self, Question},
    audited::{self, Told},
    auth::{Ask, May, Permission},
    problem::Problem,
    times, tools, vectors,
};
use crate::engines::audit::{AuditLine, SeenRows};

/// `/receipts…`
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/receipts/{id}", web::get().to(show));
}

/// What was asked, as it is kept, sealed, for its receipt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Kept {
    /// Whose rights it was asked with.
    holder: Holder,
    /// The question.
    asked: Asked,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Holder {
    role: Role,
    views: Vec<String>,
    tools: Vec<String>,
}

/// A question in one of its forms.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// A statement.
    Query {
        /// Its text.
        sql: String,
        /// Its values.
        params: Vec<Value>,
        /// Rows of the page; none for a stream.
        limit: Option<usize>,
    },
    /// A call of a tool.
    Tool {
        /// Its name.
        name: String,
        /// Its values.
        params: Map<String, Value>,
        /// Rows of the page.
        limit: Option<usize>,
    },
    /// A search.
    Search(Value),
}

impl Asked {
    /// The same with the number of rows that it is answered with.
    #[must_use]
    pub fn limited(mut self, rows: Option<usize>) -> Self {
        if let Self::Query { limit, .. } | Self::Tool { limit, .. } = &mut self {
            *limit = rows;
        }
        self
    }
}

/// Seals what a caller asks into what is told of it, where a receipt is given.
pub fn keep(edge: &Edge, token: &Token, asked: impl FnOnce() -> Asked, told: &mut Told) {
    let Some(receipt) = &told.receipt else {
        return;
    };
    let kept = Kept {
        holder: Holder {
            role: token.role,
            views: token.views.clone(),
            tools: token.tools.clone(),
        },
        asked: asked(),
    };
    let text = serde_json::to_string(&kept).unwrap_or_default();
    told.sealed = edge.audit.seal(receipt, &text);
}

/// Asks again what a receipt is of.
#[utoipa::path(get, path = "/receipts/{id}", tag = "access", params(("id" = String, Path)),
    responses((status = 200, description = "{receipt, at, principal, action, objects, as_of, same, rows: {then, now}, erased: [{dataset, key_hash, row_key?, journal_seq, at}], policy_changed, reason?}"),
        (status = 404, body = Problem), (status = 503, body = Problem)))]
pub async fn show(
    edge: web::Data<Edge>,
    may: May<Ask>,
    request: HttpRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Problem> {
    let line = edge.audit.receipt(&id).await?;
    let line = line
        .filter(|line| may.also(Permission::ReadJournal) || line.entry.principal == may.token.name);
    let line = line.ok_or_else(|| Problem::not_found("receipt", &id))?;
    let told = Told {
        action: "receipt",
        objects: line.entry.objects.clone(),
        tool: line.entry.tool.clone(),
        journal_seq: line.entry.journal_seq,
        ..Told::default()
    };
    audited::tell(&request, told);
    let then = then(&edge, &line).await?;
    let again = again(&edge, &may, &id, &line).await;
    let erased = erased(&edge, &may, &line, &then.keys);
    let entry = &line.entry;
    let mut body = json!({
        "receipt": *id,
        "at": times::text(line.at),
        "principal": entry.principal,
        "on_behalf_of": entry.on_behalf_of,
        "action": entry.action,
        "objects": entry.objects,
        "tool": entry.tool,
        "as_of": entry.journal_seq,
        "rows": { "then": then.rows, "now": null },
        "same": null,
        "erased": erased,
        "policy_changed": entry.policy_seq != Some(ask::policy_seq(&edge)),
    });
    match again {
        Ok(now) => {
            body["rows"]["now"] = json!(now.rows);
            body["same"] =
                json!(now.rows == Some(then.rows) && now.content.as_ref() == Some(&then.content));
        }
        Err(problem) => {
            body["reason"] = json!(problem.code);
        }
    }
    Ok(HttpResponse::Ok().json(body))
}

/// What the audit has of an answer.
struct Then {
    rows: u64,
    content: String,
    keys: Vec<SeenRows>,
}

/// The marks of an answer; one that went on has them in several lines.
async fn then(edge: &Edge, line: &AuditLine) -> Result<Then, Problem> {
    let entry = &line.entry;
    if let (Some(rows), Some(content)) = (entry.rows, &entry.content) {
        return Ok(Then {
            rows,
            content: content.clone(),
            keys: entry.row_keys.clone(),
        });
    }
    let mut rows = 0;
    let mut sum = 0_u128;
    let mut keys = Vec::new();
    for part in edge
        .audit
        .parts(entry.receipt.as_deref().unwrap_or_default())
        .await?
    {
        rows += part.entry.rows.unwrap_or_default();
        let content = part.entry.content.as_deref().unwrap_or("0");
        sum = sum.wrapping_add(u128::from_str_radix(content, 16).unwrap_or_default());
        keys.extend(part.entry.row_keys);
    }
    Ok(Then {
        rows,
        content: format!("{sum:032x}"),
        keys,
    })
}

/// Asks again, as the holder of then, as long as the one who wants to know may ask.
async fn again(
    edge: &web::Data<Edge>,
    may: &May<Ask>,
    id: &str,
    line: &AuditLine,
) -> Result<Told, Problem> {
    let sealed = line.entry.sealed.as_deref().unwrap_or_default();
    let kept = edge.audit.unseal(id, sealed);
    let kept: Option<Kept> = kept.and_then(|text| serde_json::from_str(&text).ok());
    let Some(Kept { holder, asked }) = kept else {
        return Err(Problem::unsupported(
            "a receipt of an answer that was not kept",
        ));
    };
    let token = Token {
        name: line.entry.principal.clone(),
        role: holder.role,
        views: holder.views,
        tools: holder.tools,
        ..may.token.as_ref().clone()
    };
    let reader = may.reading_as(Arc::new(token), line.entry.on_behalf_of.clone());
    let as_of = json!(line.entry.journal_seq);
    let mut told = Told::default();
    match asked {
        Asked::Query { sql, params, limit } => {
            let question = Question {
                sql: &sql,
                params: params.into(),
                limit,
                as_of: Some(&as_of),
                only: None,
                kept: None,
            };
            ask::marks(edge, &reader, question, &mut told).await?;
        }
        Asked::Tool {
            name,
            params,
            limit,
        } => {
            let called = tools::Called {
                name: &name,
                params: &params,
                limit,
                as_of: Some(&as_of),
            };
            tools::marks(edge, &reader, &called, &mut told).await?;
        }
        Asked::Search(mut body) => {
            body["as_of"] = as_of;
            let body = serde_json::from_value(body).map_err(|error| Problem::internal(&error))?;
            vectors::search::answer(edge, &reader, &body, &mut told).await?;
        }
    }
    Ok(told)
}

/// The rows of an answer that were deleted for good after it.
fn erased(edge: &Edge, may: &May<Ask>, line: &AuditLine, keys: &[SeenRows]) -> Vec<Value> {
    let shown: BTreeMap<&str, Vec<&String>> = keys.iter().fold(BTreeMap::new(), |mut all, rows| {
        all.entry(rows.dataset.as_str())
            .or_default()
            .extend(&rows.keys);
        all
    });
    let reads_keys = may.also(Permission::ReadJournal);
    let catalog = edge.lake.catalog();
    let mut erased = Vec::new();
    for dataset in catalog.state.datasets.values() {
        let Some(hashes) = shown.get(dataset.id.as_str()) else {
            continue;
        };
        for tombstone in dataset.tombstones_after(None) {
            let hash = edge.audit.row_hash(&dataset.id, tombstone.row_key);
            if Some(tombstone.seq) <= line.entry.journal_seq || !hashes.contains(&&hash) {
                continue;
            }
            let mut row = json!({
                "key_hash": hash,
                "journal_seq": tombstone.seq,
                "at": times::text(tombstone.batch.at),
            });
            if reads_keys {
                row["dataset"] = json!(dataset.name);
                row["row_key"] = json!(tombstone.row_key);
            }
            erased.push(row);
        }
    }
    erased
}
