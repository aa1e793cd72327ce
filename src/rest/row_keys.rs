//! Keys as requests name them: the columns of a key, and rows by their keys. Turns them into the one
//! spelling that everything behind the edge uses (`query::row_key`); finds and decides nothing.

use lakehouse_journal::model::catalog::{Dataset, KeyColumns};
use serde::Deserialize;
use serde_json::Value;

use super::problem::Problem;
use crate::query::row_key::{asked, spelled};

/// The columns of a key in JSON: a text as in a query string, or a list of names.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum AskedKey {
    /// `id`, or `region,id`.
    Text(String),
    /// `["region", "id"]`; a name may hold a comma.
    Columns(Vec<String>),
}

impl AskedKey {
    /// The columns' names.
    ///
    /// # Errors
    /// 400 for a list that is none.
    pub fn columns(self) -> Result<Vec<String>, Problem> {
        match self {
            Self::Text(text) => key_columns(&text),
            Self::Columns(columns) => Ok(columns),
        }
    }
}

impl TryFrom<AskedKey> for KeyColumns {
    type Error = Problem;

    fn try_from(key: AskedKey) -> Result<Self, Problem> {
        key.columns().map(Self::from)
    }
}

/// The columns of a key in text: names with commas between them, or a JSON array.
///
/// # Errors
/// 400 for what begins like an array and is none.
pub fn key_columns(text: &str) -> Result<Vec<String>, Problem> {
    if text.starts_with('[') {
        let columns = serde_json::from_str(text);
        return columns.map_err(|error| Problem::invalid(format!("`key`: {error}")));
    }
    let names = text.split(',').map(str::trim);
    Ok(names
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect())
}

/// The key of a row as a request gives it in JSON.
///
/// # Errors
/// 400 for a value that is no key of the dataset.
pub fn row_key(dataset: &Dataset, value: &Value) -> Result<String, Problem> {
    asked(&dataset.key, value).ok_or_else(|| {
        let text = match dataset.key.as_slice() {
            [] | [_] => format!("`{value}` is no row key"),
            columns => format!(
                "`{value}` is no row key: the rows of dataset `{}` are named by [{}]",
                dataset.name,
                columns.join(", ")
            ),
        };
        Problem::invalid(text)
    })
}

/// The name of a row that a path gives as text; one that no row can have stays as it is.
///
/// # Errors
/// For a key that cannot be looked up.
pub fn row_name(dataset: &Dataset, text: &str) -> Result<String, Problem> {
    if dataset.key.is_empty() {
        return Ok(text.to_owned());
    }
    let key = asked(&dataset.key, &Value::String(text.to_owned()));
    let Some(key) = key else {
        return Ok(text.to_owned());
    };
    let name = spelled(dataset, std::slice::from_ref(&key))?.pop();
    Ok(name.flatten().unwrap_or_else(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_columns_of_a_key_are_text_with_commas_or_a_list() {
        let columns = |text: &str| key_columns(text).ok();
        let names = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(columns("id"), names(&["id"]));
        assert_eq!(columns("region, id"), names(&["region", "id"]));
        assert_eq!(columns(r#"["a,b","c"]"#), names(&["a,b", "c"]));
        assert_eq!(columns(""), names(&[]));
        assert_eq!(columns("[1]"), None);
        let list: AskedKey = serde_json::from_str(r#"["a,b"]"#).expect("a list");
        assert_eq!(list.columns().ok(), names(&["a,b"]));
    }
}
