//! The gate before planning: one plain query, short and flat enough that no stage of the engine runs
//! out of stack or time on it. Works on tokens first, without recursion, so that it is safe on any
//! thread; then looks at the parsed statement; and, after planning, at the plan. Called by `session`.

mod plan;

use datafusion::sql::{
    parser::Statement as EngineStatement,
    resolve::resolve_table_references,
    sqlparser::{
        ast::{Query, SetExpr, Statement},
        dialect::GenericDialect,
        keywords::Keyword,
        parser::Parser,
        tokenizer::{Token, TokenWithSpan, Tokenizer},
    },
};

pub(super) use plan::{check_leaves, check_plan};

use super::QueryError;

/// How large a statement may be.
#[derive(Debug, Clone)]
pub struct GateLimits {
    /// Bytes of its text.
    pub bytes_max: usize,
    /// Tokens, white space not counted.
    pub tokens_max: usize,
    /// Parentheses, brackets and CASE inside one another.
    pub depth_max: usize,
    /// Operators in one unbroken chain, such as `a OR b OR c`.
    pub chain_max: usize,
    /// SELECTs in all: joined by UNION and its like, and as subqueries.
    pub selects_max: usize,
    /// Tables that are joined, in all.
    pub joins_max: usize,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            bytes_max: 256 * 1024,
            tokens_max: 10_000,
            depth_max: 48,
            chain_max: 500,
            selects_max: 128,
            joins_max: 64,
        }
    }
}

impl GateLimits {
    /// What can be looked through on a thread with a small stack.
    fn shallow() -> Self {
        Self {
            tokens_max: 2_000,
            depth_max: 12,
            chain_max: 48,
            selects_max: 16,
            joins_max: 16,
            ..Self::default()
        }
    }

    /// What an agent's statement may be: no larger than others, and smaller where these are large.
    pub fn of_agents(others: &Self) -> Self {
        Self {
            bytes_max: others.bytes_max.min(64 * 1024),
            ..others.clone()
        }
    }
}

/// Deepest nesting the parser follows by itself, a second line behind `depth_max`.
const PARSER_RECURSION_MAX: usize = 64;

/// Reads one query, or says why it is not let in. `?` placeholders become `$1`, `$2`, ….
/// Needs a large stack for what it lets in only (see `chain_max`).
///
/// # Errors
/// [`QueryError::TooComplex`], [`QueryError::NotAllowed`], [`QueryError::Invalid`].
pub fn parse_query(sql: &str, limits: &GateLimits) -> Result<Statement, QueryError> {
    check("bytes", sql.len(), limits.bytes_max)?;
    let dialect = GenericDialect {};
    let mut tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|error| QueryError::Invalid(error.to_string()))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    check("tokens", tokens.len(), limits.tokens_max)?;
    Shape::default().measure(&tokens, limits)?;
    number_placeholders(&mut tokens)?;
    let other = other_verb(&tokens);
    let statements = Parser::new(&dialect)
        .with_recursion_limit(PARSER_RECURSION_MAX)
        .with_tokens_with_locations(tokens)
        .parse_statements()
        .map_err(|error| match other {
            Some(verb) => QueryError::NotAllowed(format!("`{verb}` is none")),
            None => QueryError::Invalid(error.to_string()),
        })?;
    only_query(statements)
}

/// The tables that a statement names, each without its schema; none of one that does not parse. For
/// telling what a refused statement was about: what may be read is decided elsewhere.
pub fn tables_named(sql: &str) -> Vec<String> {
    let Ok(statement) = parse_query(sql, &GateLimits::shallow()) else {
        return Vec::new();
    };
    let statement = EngineStatement::Statement(Box::new(statement));
    let tables = resolve_table_references(&statement, true);
    let tables = tables.map(|(tables, _)| tables).unwrap_or_default();
    tables
        .iter()
        .map(|table| table.table().to_owned())
        .collect()
}

/// The word that a statement begins with when no query does: what the grammar does not know of such
/// a statement matters to nobody, as it is not let in either way.
fn other_verb(tokens: &[TokenWithSpan]) -> Option<String> {
    let Token::Word(word) = &tokens.first()?.token else {
        return None;
    };
    let query = [
        Keyword::NoKeyword,
        Keyword::SELECT,
        Keyword::WITH,
        Keyword::VALUES,
        Keyword::TABLE,
        Keyword::FROM,
    ];
    (!query.contains(&word.keyword)).then(|| word.value.to_ascii_uppercase())
}

/// Refuses a text that is longer, deeper or has longer chains than planning is safe for.
///
/// # Errors
/// [`QueryError::TooComplex`], and [`QueryError::Invalid`] for what is no text of SQL.
pub(super) fn check_shape(sql: &str, limits: &GateLimits) -> Result<(), QueryError> {
    check("bytes", sql.len(), limits.bytes_max)?;
    let mut tokens = Tokenizer::new(&GenericDialect {}, sql)
        .tokenize_with_location()
        .map_err(|error| QueryError::Invalid(error.to_string()))?;
    tokens.retain(|token| !matches!(token.token, Token::Whitespace(_)));
    check("tokens", tokens.len(), limits.tokens_max)?;
    Shape::default().measure(&tokens, limits)
}

fn check(what: &'static str, found: usize, limit: usize) -> Result<(), QueryError> {
    if found <= limit {
        return Ok(());
    }
    Err(QueryError::TooComplex { what, found, limit })
}

/// What the tokens say of the tree that they will become.
#[derive(Default)]
struct Shape {
    /// Operators since the last break, for each nesting level.
    chains: Vec<usize>,
    selects: usize,
    joins: usize,
    /// Whether a FROM is open at each level: its commas join.
    from: Vec<bool>,
}

impl Shape {
    fn measure(mut self, tokens: &[TokenWithSpan], limits: &GateLimits) -> Result<(), QueryError> {
        self.open();
        for token in tokens {
            match &token.token {
                Token::LParen | Token::LBracket | Token::LBrace => {
                    self.link();
                    self.open();
                }
                Token::RParen | Token::RBracket | Token::RBrace => self.close(),
                Token::Comma => self.comma(),
                Token::SemiColon => self.cut(),
                Token::Word(word) => self.word(word.keyword),
                other if is_operand(other) => {}
                _ => self.link(),
            }
            check("levels of nesting", self.chains.len() - 1, limits.depth_max)?;
            let chain = self.chains.last().copied().unwrap_or_default();
            check("operators in one chain", chain, limits.chain_max)?;
        }
        check("SELECTs", self.selects, limits.selects_max)?;
        check("joined tables", self.joins, limits.joins_max)
    }

    fn open(&mut self) {
        self.chains.push(0);
        self.from.push(false);
    }

    fn close(&mut self) {
        if self.chains.len() > 1 {
            self.chains.pop();
            self.from.pop();
        }
    }

    fn link(&mut self) {
        if let Some(chain) = self.chains.last_mut() {
            *chain += 1;
        }
    }

    fn cut(&mut self) {
        if let Some(chain) = self.chains.last_mut() {
            *chain = 0;
        }
    }

    fn comma(&mut self) {
        self.cut();
        if self.from.last() == Some(&true) {
            self.joins += 1;
        }
    }

    fn clause(&mut self, is_from: bool) {
        self.cut();
        if let Some(from) = self.from.last_mut() {
            *from = is_from;
        }
    }

    fn word(&mut self, keyword: Keyword) {
        match keyword {
            Keyword::SELECT
            | Keyword::VALUES
            | Keyword::UNION
            | Keyword::INTERSECT
            | Keyword::EXCEPT => {
                self.selects += 1;
                self.clause(false);
            }
            Keyword::FROM => self.clause(true),
            Keyword::JOIN => {
                self.joins += 1;
                self.cut();
            }
            Keyword::WHERE
            | Keyword::GROUP
            | Keyword::HAVING
            | Keyword::QUALIFY
            | Keyword::WINDOW
            | Keyword::ORDER
            | Keyword::LIMIT
            | Keyword::OFFSET
            | Keyword::WITH => self.clause(false),
            Keyword::ON | Keyword::WHEN | Keyword::THEN | Keyword::ELSE | Keyword::AS => self.cut(),
            Keyword::CASE => {
                self.link();
                self.open();
            }
            Keyword::END => self.close(),
            Keyword::AND
            | Keyword::OR
            | Keyword::NOT
            | Keyword::XOR
            | Keyword::IS
            | Keyword::IN
            | Keyword::LIKE
            | Keyword::ILIKE
            | Keyword::SIMILAR
            | Keyword::RLIKE
            | Keyword::REGEXP
            | Keyword::BETWEEN
            | Keyword::DIV
            | Keyword::COLLATE
            | Keyword::AT
            | Keyword::INTERVAL
            | Keyword::PRIOR
            | Keyword::EXISTS => self.link(),
            _ => {}
        }
    }
}

fn is_operand(token: &Token) -> bool {
    matches!(
        token,
        Token::EOF
            | Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::DoubleQuotedString(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::HexStringLiteral(_)
            | Token::EscapedStringLiteral(_)
            | Token::NationalStringLiteral(_)
    )
}

/// Gives each `?` its number.
fn number_placeholders(tokens: &mut [TokenWithSpan]) -> Result<(), QueryError> {
    let mut asked = 0;
    let mut numbered = false;
    for token in tokens {
        match &token.token {
            Token::Question => asked += 1,
            Token::Placeholder(name) if name == "?" => asked += 1,
            Token::Placeholder(_) => {
                numbered = true;
                continue;
            }
            _ => continue,
        }
        token.token = Token::Placeholder(format!("${asked}"));
    }
    if asked > 0 && numbered {
        return Err(QueryError::BadParameter(
            "`?` and numbered placeholders cannot be mixed".to_owned(),
        ));
    }
    Ok(())
}

/// Exactly one statement, and it only asks.
fn only_query(mut statements: Vec<Statement>) -> Result<Statement, QueryError> {
    let refuse = |what: String| Err(QueryError::NotAllowed(what));
    match statements.len() {
        0 => return Err(QueryError::Invalid("there is no statement".to_owned())),
        1 => {}
        more => return refuse(format!("{more} statements in one request")),
    }
    let statement = statements.remove(0);
    let Statement::Query(query) = &statement else {
        let text = statement.to_string();
        let verb = text.split_whitespace().next().unwrap_or_default();
        return refuse(format!("`{}` is none", verb.to_ascii_uppercase()));
    };
    match unsafe_part(query) {
        Some(part) => refuse(format!("`{part}` is not part of one")),
        None => Ok(statement),
    }
}

/// What a query holds that does more than ask.
fn unsafe_part(query: &Query) -> Option<&'static str> {
    if !query.locks.is_empty() {
        return Some("FOR UPDATE");
    }
    if query.settings.is_some() {
        return Some("SETTINGS");
    }
    if query.format_clause.is_some() {
        return Some("FORMAT");
    }
    let inner = query.with.iter().flat_map(|with| &with.cte_tables);
    for cte in inner {
        if let Some(part) = unsafe_part(&cte.query) {
            return Some(part);
        }
    }
    unsafe_body(&query.body)
}

fn unsafe_body(body: &SetExpr) -> Option<&'static str> {
    match body {
        SetExpr::Select(select) => select.into.is_some().then_some("INTO"),
        SetExpr::Query(query) => unsafe_part(query),
        SetExpr::SetOperation { left, right, .. } => {
            unsafe_body(left).or_else(|| unsafe_body(right))
        }
        SetExpr::Values(_) => None,
        SetExpr::Insert(_) => Some("INSERT"),
        SetExpr::Update(_) => Some("UPDATE"),
        SetExpr::Delete(_) => Some("DELETE"),
        SetExpr::Merge(_) => Some("MERGE"),
        SetExpr::Table(_) => Some("TABLE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write;

    fn refused(sql: &str) -> &'static str {
        // Deep trees must not even be built: this thread's stack is a small one.
        let sql = sql.to_owned();
        std::thread::Builder::new()
            .stack_size(2 << 20)
            .spawn(move || match parse_query(&sql, &GateLimits::default()) {
                Ok(_) => "accepted",
                Err(error) => error.code(),
            })
            .unwrap()
            .join()
            .unwrap()
    }

    #[test]
    fn only_one_plain_query_gets_in() {
        for sql in [
            "SELECT 1",
            "WITH a AS (SELECT 1 AS x) SELECT * FROM a;",
            "VALUES (1), (2)",
            "(SELECT 1) UNION ALL (SELECT 2)",
        ] {
            assert_eq!(refused(sql), "accepted", "{sql}");
        }
        for sql in [
            "SELECT 1; SELECT 2",
            "EXPLAIN SELECT 1",
            "EXPLAIN ANALYZE SELECT 1",
            "DESCRIBE t",
            "SHOW TABLES",
            "SET a = 1",
            "CREATE TABLE t (a INT)",
            "CREATE VIEW v AS SELECT 1",
            "DROP TABLE t",
            "INSERT INTO t VALUES (1)",
            "UPDATE t SET a = 1",
            "DELETE FROM t",
            "COPY t TO 'x'",
            "TRUNCATE t",
            "SELECT * INTO u FROM t",
            "SELECT * FROM t FOR UPDATE",
            "PREPARE p AS SELECT 1",
            "EXECUTE p",
            "BEGIN",
            "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'",
            "DROP EVERYTHING AT ONCE",
            "GRANT",
            "WITH a AS (DELETE FROM t RETURNING *) SELECT * FROM a",
        ] {
            assert_eq!(refused(sql), "statement_not_allowed", "{sql}");
        }
        for sql in ["", ";", "  -- nothing", "SELEC 1", "SELECT 'open"] {
            assert_eq!(refused(sql), "invalid_sql", "{sql}");
        }
    }

    #[test]
    fn hostile_sizes_are_refused_before_parsing() {
        for terms in [2_000, 20_000, 200_000] {
            let chain = |op: &str| format!("SELECT {}", vec!["1"; terms].join(op));
            let deep = |open: &str, close: &str| {
                format!("SELECT {}1{}", open.repeat(terms), close.repeat(terms))
            };
            let statements = [
                chain("+"),
                chain(" OR "),
                chain(" AND "),
                chain(" UNION SELECT "),
                chain(" || "),
                format!("SELECT {} 1", "NOT ".repeat(terms)),
                format!("SELECT {} 1", "- ".repeat(terms)),
                deep("(", ")"),
                deep("CASE WHEN ", " THEN 1 END"),
                deep("abs(", ")"),
                deep("(SELECT ", ")"),
                deep("[", "]"),
                format!("SELECT 1{}", "::int".repeat(terms)),
                format!("SELECT a{}", "[1]".repeat(terms)),
                format!("SELECT 1{}", " IS NULL".repeat(terms)),
                format!("SELECT * FROM t{}", ", t".repeat(terms)),
                format!("SELECT * FROM t{}", " JOIN t ON 1 = 1".repeat(terms)),
            ];
            for sql in statements {
                let start: String = sql.chars().take(60).collect();
                assert_eq!(refused(&sql), "statement_too_complex", "{terms} {start}");
            }
        }
    }

    #[test]
    fn ordinary_large_statements_get_in() {
        let mut list = String::from("SELECT * FROM t WHERE a IN (0");
        for i in 1..4_000 {
            write!(list, ", {i}").unwrap();
        }
        list.push(')');
        assert_eq!(refused(&list), "accepted");
        let cases = "WHEN a = 1 AND b > 2 THEN 'x' ".repeat(300);
        assert_eq!(
            refused(&format!("SELECT CASE {cases} ELSE 'y' END FROM t")),
            "accepted"
        );
        let columns: Vec<String> = (0..500).map(|i| format!("a + {i} AS c{i}")).collect();
        assert_eq!(
            refused(&format!("SELECT {} FROM t", columns.join(", "))),
            "accepted"
        );
        let ors = vec!["(a = 1 AND b = 2)"; 200].join(" OR ");
        assert_eq!(refused(&format!("SELECT * FROM t WHERE {ors}")), "accepted");
    }

    #[test]
    fn question_marks_are_numbered_and_not_mixed() {
        let statement = parse_query("SELECT ?, ? + 1", &GateLimits::default()).unwrap();
        assert_eq!(statement.to_string(), "SELECT $1, $2 + 1");
        assert_eq!(refused("SELECT ?, $1"), "invalid_parameter");
    }
}
