//! Which columns name a row: the key of a dataset, and the key that an index or an embedding knows its
//! rows by. Pure; `decide` asks. How a row's key is spelled is the edge's affair.

use serde::{Deserialize, Serialize};

use super::{Column, Dataset};
use crate::model::{ModelError, error::near_names};

/// Columns of a key at most.
pub const KEY_COLUMNS_MAX: usize = 16;

/// The columns whose values name a row, in order: one name or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "OneOrMany", into = "OneOrMany")]
pub struct KeyColumns(Vec<String>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for KeyColumns {
    fn from(key: OneOrMany) -> Self {
        match key {
            OneOrMany::One(column) => Self(vec![column]),
            OneOrMany::Many(columns) => Self(columns),
        }
    }
}

impl From<KeyColumns> for OneOrMany {
    fn from(mut key: KeyColumns) -> Self {
        match key.0.len() {
            1 => Self::One(key.0.remove(0)),
            _ => Self::Many(key.0),
        }
    }
}

impl From<Vec<String>> for KeyColumns {
    fn from(columns: Vec<String>) -> Self {
        Self(columns)
    }
}

impl From<&str> for KeyColumns {
    fn from(column: &str) -> Self {
        Self(vec![column.to_owned()])
    }
}

impl KeyColumns {
    /// Their names.
    pub fn columns(&self) -> &[String] {
        &self.0
    }
}

/// Refuses a key that no row can be named by.
pub(super) fn check_key(key: &[String], columns: &[Column]) -> Result<(), ModelError> {
    let impossible = |reason: String| ModelError::Impossible {
        what: "key",
        reason,
    };
    if key.len() > KEY_COLUMNS_MAX {
        return Err(impossible(format!(
            "a key has {KEY_COLUMNS_MAX} columns at most"
        )));
    }
    for (at, name) in key.iter().enumerate() {
        if key[..at].contains(name) {
            return Err(impossible(format!("column `{name}` is named twice")));
        }
        if !columns.iter().any(|column| column.name == *name) {
            return Err(ModelError::NotFound {
                what: "column",
                name: name.clone(),
                near: near_names(name, columns.iter().map(|column| &column.name)),
            });
        }
    }
    Ok(())
}

impl Dataset {
    /// A row that is deleted is hidden in an index by its key, so the index must know rows by it.
    pub(super) fn must_be_key(&self, key: &KeyColumns) -> Result<(), ModelError> {
        self.must_have_key(key)?;
        if self.key.is_empty() || self.key == key.columns() {
            return Ok(());
        }
        Err(ModelError::Impossible {
            what: "key",
            reason: format!(
                "dataset `{}` names its rows by `{}`, and an index over it must do so too",
                self.name,
                self.key.join("`, `")
            ),
        })
    }

    /// Whether rows could be named by these columns.
    pub(super) fn must_have_key(&self, key: &KeyColumns) -> Result<(), ModelError> {
        if key.columns().is_empty() {
            return Err(ModelError::Impossible {
                what: "key",
                reason: "it names no column".to_owned(),
            });
        }
        check_key(key.columns(), &self.schema.columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_one_column_stands_as_its_name_and_others_as_a_list() {
        for (key, text) in [
            (KeyColumns::from("id"), r#""id""#),
            (
                KeyColumns::from(vec!["a,b".to_owned(), "c".to_owned()]),
                r#"["a,b","c"]"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&key).expect("plain"), text);
            assert_eq!(
                serde_json::from_str::<KeyColumns>(text).expect("a key"),
                key
            );
        }
    }

    #[test]
    fn a_key_names_columns_that_are_there_and_each_once() {
        let columns: Vec<Column> = (0..20)
            .map(|number| Column {
                name: format!("c{number}"),
                data_type: "Utf8".to_owned(),
                nullable: true,
            })
            .collect();
        let key = |numbers: &[usize]| -> Vec<String> {
            numbers.iter().map(|number| format!("c{number}")).collect()
        };
        assert!(check_key(&[], &columns).is_ok());
        assert!(check_key(&key(&[3, 1]), &columns).is_ok());
        for bad in [key(&[1, 1]), key(&[20]), key(&(0..17).collect::<Vec<_>>())] {
            assert!(check_key(&bad, &columns).is_err(), "{bad:?}");
        }
    }
}
