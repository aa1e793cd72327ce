//! What columns look like that hold data about people: by their names, and by the first values of each.
//! The writer's sink shows its first rows; the ingest commits the result as a proposal, which somebody
//! confirms. A pure look at values: nothing of them is kept beyond counts.

use std::{collections::BTreeMap, net::IpAddr};

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    compute::{CastOptions, cast_with_options},
    datatypes::DataType,
};
use lakehouse_journal::model::catalog::{Proposal, Sensitivity};

/// Rows that are looked at.
pub(super) const SAMPLE_ROWS: u64 = 1_000;
/// Values that it takes to judge by them alone.
const VALUES_MIN: usize = 5;
/// Of ten values, how many must look alike.
const OF_TEN: usize = 8;

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Card,
    Ssn,
    Iban,
    Email,
    Ip,
    Phone,
    BirthDate,
}

const KINDS: [Kind; 7] = [
    Kind::Card,
    Kind::Ssn,
    Kind::Iban,
    Kind::Email,
    Kind::Ip,
    Kind::Phone,
    Kind::BirthDate,
];

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Card => "card_number",
            Self::Ssn => "ssn",
            Self::Iban => "iban",
            Self::Email => "email",
            Self::Ip => "ip_address",
            Self::Phone => "phone",
            Self::BirthDate => "date_of_birth",
        }
    }

    fn class(self) -> Sensitivity {
        match self {
            Self::Card | Self::Ssn => Sensitivity::Secret,
            Self::Iban | Self::Email | Self::Ip | Self::Phone | Self::BirthDate => Sensitivity::Pii,
        }
    }

    /// Whether a column of this name is meant to hold it. `name` is in lower case, its words apart.
    fn is_named(self, name: &str) -> bool {
        let has = |words: &[&str]| {
            let padded = format!("_{name}_");
            words
                .iter()
                .any(|word| padded.contains(&format!("_{word}_")))
        };
        match self {
            Self::Card => has(&["card_number", "card_no", "credit_card", "cc_number", "pan"]),
            Self::Ssn => has(&["ssn", "social_security", "social_security_number"]),
            Self::Iban => has(&["iban"]),
            Self::Email => has(&["email", "e_mail", "mail", "mail_address"]),
            Self::Ip => has(&["ip", "ip_address", "ip_addr", "remote_addr"]),
            Self::Phone => has(&["phone", "telephone", "mobile", "tel", "cell_phone", "fax"]),
            Self::BirthDate => has(&[
                "dob",
                "birth_date",
                "birthdate",
                "birthday",
                "date_of_birth",
                "born",
            ]),
        }
    }

    /// Whether a column of this type can hold it.
    fn fits(self, data_type: &DataType) -> bool {
        let text = matches!(
            data_type,
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
        );
        match self {
            Self::Card | Self::Ssn | Self::Phone => text || data_type.is_integer(),
            Self::Iban | Self::Email | Self::Ip => text,
            Self::BirthDate => {
                text || matches!(
                    data_type,
                    DataType::Date32 | DataType::Date64 | DataType::Timestamp(..)
                )
            }
        }
    }

    /// Whether a value looks like it, so that a column of such is one whatever its name is.
    fn looks(self, value: &str) -> bool {
        match self {
            Self::Card => is_card(value),
            Self::Ssn => is_ssn(value),
            Self::Iban => is_iban(value),
            Self::Email => is_email(value),
            Self::Ip => value.parse::<IpAddr>().is_ok(),
            Self::Phone => is_phone(value),
            // Many dates are none of birth: the name has to say so.
            Self::BirthDate => false,
        }
    }
}

/// Looks at columns while their rows go by.
#[derive(Default)]
pub(super) struct Detector {
    rows: u64,
    columns: BTreeMap<String, Seen>,
}

#[derive(Default)]
struct Seen {
    data_type: Option<DataType>,
    values: usize,
    alike: [usize; KINDS.len()],
}

impl Detector {
    /// Looks at rows, as long as not enough were seen.
    pub fn see(&mut self, batch: &RecordBatch) {
        if self.rows >= SAMPLE_ROWS {
            return;
        }
        let left = usize::try_from(SAMPLE_ROWS - self.rows).unwrap_or(usize::MAX);
        let rows = batch.num_rows().min(left);
        self.rows += rows as u64;
        for (field, column) in batch.schema_ref().fields().iter().zip(batch.columns()) {
            let seen = self.columns.entry(field.name().clone()).or_default();
            seen.data_type = Some(field.data_type().clone());
            if let Some(texts) = texts(&column.slice(0, rows)) {
                seen.look(&texts);
            }
        }
    }

    /// What was found.
    pub fn proposals(&self) -> BTreeMap<String, Proposal> {
        let found = self.columns.iter().filter_map(|(name, seen)| {
            let kind = seen.kind(name)?;
            let proposal = Proposal {
                class: kind.class(),
                found: kind.as_str().to_owned(),
            };
            Some((name.clone(), proposal))
        });
        found.collect()
    }
}

impl Seen {
    fn look(&mut self, texts: &ArrayRef) {
        for value in texts.as_string::<i32>().iter().flatten() {
            let value = value.trim();
            if value.is_empty() {
                continue;
            }
            self.values += 1;
            for (count, kind) in self.alike.iter_mut().zip(KINDS) {
                *count += usize::from(kind.looks(value));
            }
        }
    }

    fn kind(&self, name: &str) -> Option<Kind> {
        let data_type = self.data_type.as_ref()?;
        let fits = |kind: &Kind| kind.fits(data_type);
        let looks =
            |at: usize| self.values >= VALUES_MIN && self.alike[at] * 10 >= self.values * OF_TEN;
        let by_value = KINDS
            .iter()
            .enumerate()
            .find(|(at, kind)| fits(kind) && looks(*at));
        let words = words(name);
        let by_name = || {
            KINDS
                .iter()
                .find(|kind| fits(kind) && kind.is_named(&words))
        };
        by_value.map(|(_, kind)| kind).or_else(by_name).copied()
    }
}

/// The values of a column as text; nothing for columns that hold none of what is looked for.
fn texts(column: &ArrayRef) -> Option<ArrayRef> {
    let data_type = column.data_type();
    if !KINDS.iter().any(|kind| kind.fits(data_type)) {
        return None;
    }
    let lenient = CastOptions {
        safe: true,
        ..CastOptions::default()
    };
    cast_with_options(column, &DataType::Utf8, &lenient).ok()
}

/// A name in lower case with `_` between its words: `birthDate` is `birth_date`.
fn words(name: &str) -> String {
    let mut words = String::new();
    let mut last_lower = false;
    for letter in name.chars() {
        if letter.is_alphanumeric() {
            if letter.is_uppercase() && last_lower {
                words.push('_');
            }
            words.extend(letter.to_lowercase());
            last_lower = letter.is_lowercase() || letter.is_numeric();
        } else {
            words.push('_');
            last_lower = false;
        }
    }
    words
}

fn is_email(value: &str) -> bool {
    let Some((local, host)) = value.split_once('@') else {
        return false;
    };
    let plain = |text: &str| {
        !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c == '@' || c == ',')
    };
    plain(local)
        && plain(host)
        && host.contains('.')
        && !host.starts_with('.')
        && !host.ends_with('.')
}

fn is_ssn(value: &str) -> bool {
    let parts: Vec<&str> = value.split('-').collect();
    let digits =
        |part: &str, length| part.len() == length && part.bytes().all(|b| b.is_ascii_digit());
    matches!(parts.as_slice(), [area, group, serial]
        if digits(area, 3) && digits(group, 2) && digits(serial, 4))
}

/// 13 to 19 digits whose check digit is right (Luhn).
fn is_card(value: &str) -> bool {
    let digits: Option<Vec<u32>> = value
        .chars()
        .filter(|c| !matches!(c, ' ' | '-'))
        .map(|c| c.to_digit(10))
        .collect();
    let Some(digits) = digits.filter(|digits| (13..=19).contains(&digits.len())) else {
        return false;
    };
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(at, digit)| match (at % 2, digit * 2) {
            (0, _) => *digit,
            (_, double) if double > 9 => double - 9,
            (_, double) => double,
        })
        .sum();
    sum.is_multiple_of(10) && digits.iter().any(|digit| *digit != digits[0])
}

/// Two letters, two check digits, and a rest that leaves 1 of 97 (ISO 13616).
fn is_iban(value: &str) -> bool {
    let plain: String = value.chars().filter(|c| *c != ' ').collect();
    let fits = (15..=34).contains(&plain.len())
        && plain.is_ascii()
        && plain[..2].bytes().all(|b| b.is_ascii_uppercase())
        && plain[2..4].bytes().all(|b| b.is_ascii_digit());
    if !fits {
        return false;
    }
    let turned = plain[4..].chars().chain(plain[..4].chars());
    let mut rest = 0_u32;
    for letter in turned {
        let Some(value) = letter.to_digit(36) else {
            return false;
        };
        rest = (rest * if value > 9 { 100 } else { 10 } + value) % 97;
    }
    rest == 1
}

/// A number with a country's code, or with the signs that only telephone numbers have.
fn is_phone(value: &str) -> bool {
    let digits = value.chars().filter(char::is_ascii_digit).count();
    let signs = value
        .chars()
        .all(|c| c.is_ascii_digit() || matches!(c, '+' | ' ' | '-' | '(' | ')' | '/' | '.'));
    let marked = value.starts_with('+') || (value.contains('(') && value.contains(')'));
    signs && marked && (7..=15).contains(&digits)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Date32Array, Int64Array, StringArray};

    use super::*;

    fn found(name: &str, values: &[&str]) -> Option<String> {
        let column: ArrayRef = Arc::new(StringArray::from(values.to_vec()));
        let batch = RecordBatch::try_from_iter([(name, column)]).unwrap();
        let mut detector = Detector::default();
        detector.see(&batch);
        detector
            .proposals()
            .remove(name)
            .map(|proposal| proposal.found)
    }

    #[test]
    fn columns_are_known_by_their_values() {
        for (kind, values) in [
            (
                "email",
                ["a@b.de", "c.d@e.org", "f@g.h.i", "j+k@l.com", "m@n.io"],
            ),
            (
                "ssn",
                [
                    "123-45-6789",
                    "001-01-0001",
                    "999-99-9999",
                    "321-54-9876",
                    "111-22-3333",
                ],
            ),
            (
                "card_number",
                [
                    "4111 1111 1111 1111",
                    "5500005555555559",
                    "340000000000009",
                    "6011000000000004",
                    "4012888888881881",
                ],
            ),
            (
                "iban",
                [
                    "DE89370400440532013000",
                    "GB82 WEST 1234 5698 7654 32",
                    "FR1420041010050500013M02606",
                    "NL91ABNA0417164300",
                    "CH9300762011623852957",
                ],
            ),
            (
                "ip_address",
                [
                    "127.0.0.1",
                    "10.0.0.7",
                    "::1",
                    "192.168.1.20",
                    "2001:db8::1",
                ],
            ),
            (
                "phone",
                [
                    "+49 731 1234567",
                    "(555) 123-4567",
                    "+1-202-555-0147",
                    "+33 1 23 45 67 89",
                    "+44 20 7946 0958",
                ],
            ),
        ] {
            assert_eq!(
                found("column", &values).as_deref(),
                Some(kind),
                "{values:?}"
            );
        }
    }

    #[test]
    fn columns_are_known_by_their_names() {
        for (name, kind) in [
            ("Email", "email"),
            ("customer_phone", "phone"),
            ("birthDate", "date_of_birth"),
            ("ssn", "ssn"),
            ("credit card", "card_number"),
        ] {
            assert_eq!(found(name, &["x"]).as_deref(), Some(kind), "{name}");
        }
    }

    #[test]
    fn other_columns_are_left_alone() {
        for (name, values) in [
            ("city", ["Ulm", "Bonn", "Köln", "Kiel", "Jena"]),
            (
                "order_number",
                [
                    "4111111111111112",
                    "4111111111111113",
                    "1234567890123",
                    "9999999999999",
                    "1111111111111",
                ],
            ),
            ("version", ["1.2.3", "1.2.4", "2.0.0", "2.1.0", "3.0.0"]),
            ("recipe", ["a", "b", "c", "d", "e"]),
            ("hotel", ["a", "b", "c", "d", "e"]),
            ("zip", ["89073", "53111", "50667", "24103", "07743"]),
        ] {
            assert_eq!(found(name, &values), None, "{name}");
        }
        let batch = RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(vec![1; 9])) as ArrayRef),
            (
                "hired",
                Arc::new(Date32Array::from(vec![7_000; 9])) as ArrayRef,
            ),
        ])
        .unwrap();
        let mut detector = Detector::default();
        detector.see(&batch);
        assert!(detector.proposals().is_empty());
    }

    #[test]
    fn a_few_values_of_another_kind_do_not_hide_what_the_rest_is() {
        let mut values = vec!["a@b.de"; 17];
        values.extend(["unknown", "none", "-"]);
        assert_eq!(found("contact", &values).as_deref(), Some("email"));
        values.extend(["none"; 9]);
        assert_eq!(found("contact", &values), None);
    }
}
