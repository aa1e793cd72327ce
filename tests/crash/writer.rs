//! One writer: draws a mutation, notes it, sends it, notes the answer, until the daemon is gone.

use rand::SeedableRng;
use rand::rngs::StdRng;
use reqwest::Method;
use serde_json::{Value, json};

use super::ledger::{Ledger, Outcome};
use super::model::{Model, Op, csv};
use crate::support::api::{Answer, Api, list};

/// Runs until a request gets no certain answer.
pub async fn write(api: Api, mut model: Model, prefix: String, seed: u64) -> (Model, Ledger) {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut ledger = Ledger::default();
    for number in 0_u64.. {
        let op = model.draw(&mut rng);
        let id = format!("{prefix}-{}-{number}", model.writer);
        ledger.invoke(id.clone(), model.writer, op.clone());
        let answer = send(&api, &model, &op, &id, &id).await;
        match answer {
            Some(answer) if answer.is_ok() => {
                let body = answer.ok();
                let seq = body["journal_seq"].as_u64();
                let seq =
                    seq.unwrap_or_else(|| panic!("a mutation carries journal_seq: {op:?} {body}"));
                ledger.settle(Outcome::Ok { seq });
                model.apply(&op);
                learn(&mut model, &op, &body);
            }
            Some(answer) if answer.status < 500 => {
                let body = answer.text();
                // Writers compete for the shared dataset: losing too often is an honest answer.
                assert!(
                    [409, 429].contains(&answer.status),
                    "{op:?}: {} {body}",
                    answer.status
                );
                ledger.settle(Outcome::Refused {
                    status: answer.status,
                    body,
                });
            }
            Some(_) | None => return (model, ledger),
        }
    }
    unreachable!("the numbers do not end")
}

/// Sends a mutation; nothing when no whole answer came back.
pub async fn send(api: &Api, model: &Model, op: &Op, key: &str, request: &str) -> Option<Answer> {
    let (method, path, body) = request_of(model, op);
    let call = api
        .call(method, &path)
        .key(key)
        .header("x-request-id", request);
    let call = match body {
        Body::Csv(text) => call.header("content-type", "text/csv").body(text),
        Body::Json(value) => call.json(&value),
        Body::Nothing => call,
    };
    call.try_send().await.ok()
}

/// Keeps what only an answer tells: a token's id and secret.
pub fn learn(model: &mut Model, op: &Op, body: &Value) {
    if let Op::Issue { name } = op {
        let token = model.tokens.get_mut(name).expect("it was applied");
        token.id = body["id"].as_str().map(str::to_owned);
        let secret = body["secret"].as_str().or_else(|| body["token"].as_str());
        token.secret = secret.map(str::to_owned);
    }
}

/// Looks up the id of a token whose answer was lost.
pub async fn find_token(api: &Api, name: &str) -> Option<String> {
    let tokens = list(&api.get("/auth/tokens?limit=1000").await.ok());
    let token = tokens.iter().find(|token| token["name"] == name)?;
    token["id"].as_str().map(str::to_owned)
}

enum Body {
    Csv(String),
    Json(Value),
    Nothing,
}

fn request_of(model: &Model, op: &Op) -> (Method, String, Body) {
    let ingest = |dataset: &str, mode: &str, rows| {
        let path = format!("/ingest/file?dataset={dataset}&mode={mode}");
        (Method::POST, path, Body::Csv(csv(rows)))
    };
    let dataset_path = |name: &str, rest: &str| format!("/catalog/datasets/{name}{rest}");
    match op {
        Op::Create { dataset, rows } => ingest(dataset, "create&key=id", rows),
        Op::Append { dataset, rows } => ingest(dataset, "append", rows),
        Op::Upsert { dataset, rows } => ingest(dataset, "upsert&key=id", rows),
        Op::Replace { dataset, rows } => ingest(dataset, "replace", rows),
        Op::Tombstone { dataset, keys } => {
            let keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
            let body = json!({ "row_keys": keys, "reason": "a crash test" });
            (
                Method::POST,
                dataset_path(dataset, "/tombstone"),
                Body::Json(body),
            )
        }
        Op::Patch {
            dataset,
            description,
        } => {
            let body = json!({ "description": description });
            (Method::PATCH, dataset_path(dataset, ""), Body::Json(body))
        }
        Op::Compact { dataset } => (
            Method::POST,
            dataset_path(dataset, "/compact"),
            Body::Nothing,
        ),
        Op::Drop { dataset } => (Method::DELETE, dataset_path(dataset, ""), Body::Nothing),
        Op::Issue { name } => {
            let body = json!({ "name": name, "role": "analyst" });
            (Method::POST, "/auth/tokens".to_owned(), Body::Json(body))
        }
        Op::Revoke { name } => {
            let id = model.tokens[name]
                .id
                .clone()
                .expect("only tokens with an id are revoked");
            (Method::DELETE, format!("/auth/tokens/{id}"), Body::Nothing)
        }
    }
}
