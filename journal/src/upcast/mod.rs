//! Old schema versions brought to the newest when they are read. Stored bytes are never rewritten.
//! One arm for each step of each event; a step is never changed once a version with it is out.

use serde_json::Value;

/// Takes an event's data from schema `from` to schema `to`.
///
/// # Errors
/// Says so when a step is missing: every version ever written must have one.
pub fn upcast(kind: &str, from: u16, to: u16, data: Value) -> Result<Value, String> {
    let mut data = data;
    for schema in from..to {
        data = step(kind, schema, data)?;
    }
    Ok(data)
}

/// One step, `schema` to `schema + 1`. Every event is at its first schema, so none exists.
fn step(kind: &str, schema: u16, _data: Value) -> Result<Value, String> {
    Err(format!(
        "no upcaster takes `{kind}` from schema {schema} to {}",
        schema + 1
    ))
}
