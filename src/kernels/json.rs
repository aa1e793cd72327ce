//! A JSON object with one long array of numbers among its fields: the vector of a search. The edge's bodies
//! of searches are read by it.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, Visitor};
use serde_json::{Map, Value};

/// The fields of an object, and the numbers of another.
pub type WithNumbers = (Map<String, Value>, Option<Vec<f32>>);

/// The fields of the object that `json` is but `field`, and the numbers of that one, if it is there and not
/// null. No field may be there twice.
///
/// # Errors
/// Where it is no such object, with line and column.
pub fn object_with_numbers(json: &[u8], field: &str) -> serde_json::Result<WithNumbers> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let read = Fields { field }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(read)
}

struct Fields<'a> {
    field: &'a str,
}

impl<'de> DeserializeSeed<'de> for Fields<'_> {
    type Value = WithNumbers;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_> {
    type Value = WithNumbers;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut fields, mut numbers) = (Map::new(), None);
        while let Some(name) = map.next_key::<String>()? {
            let is_numbers = name == self.field;
            if fields.contains_key(&name) || is_numbers && numbers.is_some() {
                return Err(A::Error::custom(format!("duplicate field `{name}`")));
            }
            if is_numbers {
                numbers = Some(map.next_value::<Option<Vec<f32>>>()?);
            } else {
                fields.insert(name, map.next_value()?);
            }
        }
        Ok((fields, numbers.flatten()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_come_apart_from_the_other_fields() {
        for (text, numbers) in [
            (
                r#"{"a": [1, "x"], "v": [1, -2.5, 1e3], "b": null}"#,
                Some(vec![1.0, -2.5, 1e3]),
            ),
            (r#"{"a": [1, "x"], "b": null}"#, None),
            (r#" {"v": null, "a": [1, "x"], "b": null} "#, None),
            (r#"{"v": [], "a": [1, "x"], "b": null}"#, Some(Vec::new())),
        ] {
            let (fields, found) = object_with_numbers(text.as_bytes(), "v").unwrap();
            assert_eq!(found, numbers, "{text}");
            assert_eq!(Value::Object(fields), json!({ "a": [1, "x"], "b": null }));
        }
    }

    #[test]
    fn what_is_no_such_object_is_refused_with_its_place() {
        for (text, why) in [
            (
                r#"{"v": [1, "x"]}"#,
                r#"invalid type: string "x", expected f32 at line 1 column 13"#,
            ),
            (
                r#"{"v": [1], "v": [2]}"#,
                "duplicate field `v` at line 1 column 14",
            ),
            (
                r#"{"v": null, "v": [2]}"#,
                "duplicate field `v` at line 1 column 15",
            ),
            (
                r#"{"a": 1, "a": 2}"#,
                "duplicate field `a` at line 1 column 12",
            ),
            ("{}{", "trailing characters at line 1 column 3"),
            (
                "[1]",
                "invalid type: sequence, expected an object at line 1 column 0",
            ),
            (r#"{"v": [1"#, "EOF while parsing a list at line 1 column 8"),
        ] {
            let refused = object_with_numbers(text.as_bytes(), "v").unwrap_err();
            assert_eq!(refused.to_string(), why, "{text}");
        }
    }
}
