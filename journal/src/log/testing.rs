//! Drafts and faults for tests, of this crate and (feature `testing`) of others.

use serde_json::value::RawValue;

use crate::record::{Actor, Draft};

/// A small event about `dataset/people` and `row/people/<n>`, whose body is about 315 bytes.
pub fn draft(n: u64) -> Draft {
    sized_draft(n, 315)
}

/// An event as [`draft`] makes it, padded to about `body_bytes`.
pub fn sized_draft(n: u64, body_bytes: usize) -> Draft {
    let mut draft = Draft {
        at: 1_763_800_000_000_000 + i64::try_from(n % 1_000_000_000).expect("small"),
        request_id: format!("01JD{n:022}"),
        actor: Actor {
            name: "loader".to_owned(),
            role: "writer".to_owned(),
        },
        idempotency: None,
        subjects: vec!["dataset/people".to_owned(), format!("row/people/{n}")],
        kind: "RowsTombstoned".to_owned(),
        schema: 1,
        data: raw("{\"n\":0,\"pad\":\"\"}".to_owned()),
    };
    let empty = serde_json::to_vec(&draft).map_or(0, |json| json.len()) + 28;
    let pad = "x".repeat(body_bytes.saturating_sub(empty));
    draft.data = raw(format!("{{\"n\":{n},\"pad\":\"{pad}\"}}"));
    draft
}

/// `n` of them, numbered from `first`.
pub fn drafts(first: u64, n: u64) -> Vec<Draft> {
    (first..first + n).map(draft).collect()
}

fn raw(json: String) -> Box<RawValue> {
    RawValue::from_string(json).expect("written as JSON")
}
