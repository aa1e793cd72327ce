//! One spelling for every JSON value that may be signed: the members of an object in the order of
//! their names' bytes, no white space, texts as `serde_json` writes them, whole numbers of 64 bits and
//! no others. Pure; `receipts` signs and verifies these bytes.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::ReceiptError;

/// The bytes that stand for a value.
///
/// # Errors
/// [`ReceiptError::Float`].
pub fn encode(value: &Value) -> Result<Vec<u8>, ReceiptError> {
    let mut bytes = Vec::new();
    write(value, &mut bytes)?;
    Ok(bytes)
}

fn write(value: &Value, out: &mut Vec<u8>) -> Result<(), ReceiptError> {
    match value {
        Value::Null | Value::Bool(_) => out.extend(value.to_string().bytes()),
        Value::Number(number) if number.is_f64() => {
            return Err(ReceiptError::Float(number.to_string()));
        }
        Value::Number(number) => out.extend(number.to_string().bytes()),
        Value::String(text) => write_text(text, out),
        Value::Array(items) => {
            out.push(b'[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(item, out)?;
            }
            out.push(b']');
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| name.as_bytes());
            out.push(b'{');
            for (index, (name, member)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write_text(name, out);
                out.push(b':');
                write(member, out)?;
            }
            out.push(b'}');
        }
    }
    Ok(())
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    serde_json::to_writer(out, text).expect("a text is JSON, and a vector takes every byte");
}

/// Reads a value, and refuses a member that comes twice: two readers might take either.
///
/// # Errors
/// [`ReceiptError::NotJson`].
pub fn parse(text: &[u8]) -> Result<Value, ReceiptError> {
    serde_json::from_slice(text)
        .map(|Strict(value)| value)
        .map_err(|error| ReceiptError::NotJson(error.to_string()))
}

/// A value of which every object has each member once.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Self)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value);
        number
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((name, Strict(member))) = members.next_entry::<String, _>()? {
            if all.contains_key(&name) {
                return Err(A::Error::custom(format_args!("`{name}` comes twice")));
            }
            all.insert(name, member);
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn encoded(value: &Value) -> String {
        String::from_utf8(encode(value).expect("it has no fraction")).expect("JSON is UTF-8")
    }

    #[test]
    fn members_are_sorted_by_their_bytes_and_nothing_is_added() {
        let value = json!({
            "b": [1, -2, u64::MAX, i64::MIN, null, true, {}],
            "a": {"z": "", "Z": "\"\\\u{8}\n\u{1f}/é\u{2028}", "ä": [], "aa": false},
            "": 0,
        });
        assert_eq!(
            encoded(&value),
            "{\"\":0,\"a\":{\"Z\":\"\\\"\\\\\\b\\n\\u001f/é\u{2028}\",\"aa\":false,\"z\":\"\",\"ä\":[]},\
             \"b\":[1,-2,18446744073709551615,-9223372036854775808,null,true,{}]}"
        );
    }

    #[test]
    fn numbers_with_more_than_one_spelling_are_refused() {
        for text in ["1.0", "[1e3]", "{\"a\":-0}", "18446744073709551616", "0.5"] {
            let value = parse(text.as_bytes()).expect("it is JSON");
            let error = encode(&value).expect_err(text);
            assert!(matches!(error, ReceiptError::Float(_)), "{text}: {error}");
        }
    }

    #[test]
    fn a_member_that_comes_twice_is_refused_wherever_it_is() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"[{"x":{"a":1,"b":2,"a":3}}]"#,
            r#"{"a":1,"\u0061":2}"#,
        ] {
            let error = parse(text.as_bytes()).expect_err(text);
            assert!(error.to_string().contains("`a` comes twice"), "{error}");
        }
        for text in ["", "{", "{} {}", "{\"a\":\"\u{1}\"}", "nul"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(&b"[".repeat(10_000)).is_err(), "too deep is refused");
        assert!(parse(b"\"\xff\"").is_err(), "bytes that are no text");
    }

    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 6, |inner| {
            let members = proptest::collection::vec((any::<String>(), inner.clone()), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Value::from),
                members.prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_spelling_is_read_back_and_survives_any_layout(value in values()) {
            let bytes = encode(&value).expect("it has no fraction");
            prop_assert_eq!(&parse(&bytes).expect("it is JSON"), &value);
            let pretty = serde_json::to_vec_pretty(&value).expect("it is JSON");
            let again = encode(&parse(&pretty).expect("it is JSON")).expect("as before");
            prop_assert_eq!(again, bytes);
        }
    }
}
