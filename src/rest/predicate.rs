//! A predicate over a dataset, as a request gives it: parsed alone and printed again, so that it
//! cannot be more than one. Search filters and deletions by predicate use it.

use datafusion::sql::sqlparser::{dialect::GenericDialect, parser::Parser, tokenizer::Token};

use super::problem::Problem;

/// The predicate in the field `field` as SQL in brackets.
///
/// # Errors
/// 400 that names the field, for what is no predicate or more than one.
pub fn predicate(field: &str, text: &str) -> Result<String, Problem> {
    let refuse = |error: &dyn std::fmt::Display| Problem::invalid(format!("`{field}`: {error}"));
    let mut parser = Parser::new(&GenericDialect {})
        .try_with_sql(text)
        .map_err(|error| refuse(&error))?;
    let predicate = parser.parse_expr().map_err(|error| refuse(&error))?;
    if parser.peek_token().token != Token::EOF {
        return Err(refuse(&"there is more than one predicate"));
    }
    Ok(format!("({predicate})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_one_predicate() {
        let one = predicate("filter", "pos = 'noun'").expect("one");
        assert_eq!(one, "(pos = 'noun')");
        for bad in ["1 = 1) UNION SELECT (2", "a = 1; DROP TABLE x", "", "a ="] {
            assert!(predicate("filter", bad).is_err(), "{bad}");
        }
    }
}
