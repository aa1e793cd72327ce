//! Row filters of views: parsed against the columns that they may read, typed, and refused when a row
//! could make them fail. A policy that fails would tell of the rows that it hides, so its language has
//! only what is true, false or null of every row.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, LazyLock},
};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::{
    common::{
        DFSchema, DataFusionError, Result, ScalarValue, TableReference,
        config::ConfigOptions,
        plan_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    execution::SessionStateDefaults,
    functions::all_default_functions,
    logical_expr::{
        AggregateUDF, BinaryExpr, ColumnarValue, Expr, HigherOrderUDF, Operator,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TableSource, Volatility,
        WindowUDF,
        planner::{ContextProvider, ExprPlanner},
        simplify::SimplifyContext,
    },
    optimizer::simplify_expressions::ExprSimplifier,
    sql::{
        planner::{PlannerContext, SqlToRel},
        sqlparser::{dialect::GenericDialect, parser::Parser, tokenizer::Token},
    },
};

use crate::query::{GateLimits, QueryError, Reader, gate::check_shape};

/// How large a filter may be: it is planned with every query.
const LIMITS: GateLimits = GateLimits {
    bytes_max: 8 * 1024,
    tokens_max: 1_000,
    depth_max: 16,
    chain_max: 100,
    selects_max: 0,
    joins_max: 0,
};

/// Functions that answer every value, and in bounded room.
const FUNCTIONS: [&str; 16] = [
    "lower",
    "upper",
    "btrim",
    "trim",
    "ltrim",
    "rtrim",
    "character_length",
    "char_length",
    "length",
    "starts_with",
    "ends_with",
    "contains",
    "coalesce",
    "nullif",
    "now",
    "current_date",
];

/// The function that says whose token it is.
const PRINCIPAL: &str = "principal";
/// The function that says for whom the caller acts.
const ON_BEHALF_OF: &str = "on_behalf_of";

/// A row filter for one reader.
#[derive(Debug, Clone)]
pub struct CompiledFilter {
    /// True for the rows that are shown.
    pub predicate: Expr,
    /// The columns that it reads, in the order of their names.
    pub columns: Vec<String>,
    /// Whether it asks who reads.
    pub per_caller: bool,
}

/// Reads a row filter over the columns of `schema`, for this reader.
///
/// # Errors
/// [`QueryError::Invalid`] when it does not parse, is no predicate, names an unknown column, or has a
/// part that could fail on a row.
pub fn compile(
    text: &str,
    schema: &SchemaRef,
    reader: &Reader,
) -> Result<CompiledFilter, QueryError> {
    let refuse =
        |error: &dyn std::fmt::Display| QueryError::Invalid(format!("the row filter: {error}"));
    let engine = |error: DataFusionError| refuse(&QueryError::from_engine(&error, &[]));
    check_shape(text, &LIMITS)?;
    let mut parser = Parser::new(&GenericDialect {})
        .with_recursion_limit(32)
        .try_with_sql(text)
        .map_err(|error| refuse(&error))?;
    let parsed = parser.parse_expr().map_err(|error| refuse(&error))?;
    if parser.peek_token().token != Token::EOF {
        return Err(refuse(&"there is more than one predicate"));
    }
    let fields = DFSchema::try_from(Arc::clone(schema)).map_err(engine)?;
    let language = Language::new(reader);
    let planned = SqlToRel::new(&language)
        .sql_to_expr(parsed, &fields, &mut PlannerContext::new())
        .map_err(engine)?;
    let per_caller = asks_who_reads(&planned).map_err(engine)?;
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(fields.clone()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    let typed = simplifier.coerce(planned, &fields).map_err(engine)?;
    let predicate = simplifier.simplify(typed).map_err(engine)?;
    must_be_true_or_false(&predicate, &fields).map_err(|error| refuse(&error))?;
    cannot_fail(&predicate, &fields).map_err(|error| refuse(&error))?;
    let columns: BTreeSet<String> = predicate
        .column_refs()
        .into_iter()
        .map(|column| column.name.clone())
        .collect();
    Ok(CompiledFilter {
        predicate,
        columns: columns.into_iter().collect(),
        per_caller,
    })
}

fn asks_who_reads(expr: &Expr) -> Result<bool> {
    expr.exists(|part| {
        Ok(matches!(part, Expr::ScalarFunction(call)
            if [PRINCIPAL, ON_BEHALF_OF].contains(&call.func.name())))
    })
}

fn must_be_true_or_false(expr: &Expr, fields: &DFSchema) -> std::result::Result<(), String> {
    use datafusion::logical_expr::ExprSchemable;
    match expr.get_type(fields) {
        Ok(DataType::Boolean | DataType::Null) => Ok(()),
        Ok(other) => Err(format!("it is of type {other}, not a predicate")),
        Err(error) => Err(error.strip_backtrace()),
    }
}

/// Refuses an expression of which a part could fail on some row.
pub(in crate::query) fn cannot_fail(
    expr: &Expr,
    fields: &DFSchema,
) -> std::result::Result<(), String> {
    let mut refused = None;
    let walked = expr.apply(|part| {
        if let Some(why) = may_fail(part, fields) {
            refused = Some(why);
            return Ok(TreeNodeRecursion::Stop);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    match (walked, refused) {
        (Err(error), _) => Err(error.strip_backtrace()),
        (Ok(_), Some(why)) => Err(why),
        (Ok(_), None) => Ok(()),
    }
}

fn may_fail(part: &Expr, fields: &DFSchema) -> Option<String> {
    use datafusion::logical_expr::ExprSchemable;
    match part {
        Expr::Column(_)
        | Expr::Literal(..)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNotFalse(_)
        | Expr::IsNotUnknown(_)
        | Expr::Between(_)
        | Expr::Case(_)
        | Expr::TryCast(_)
        | Expr::InList(_) => None,
        Expr::BinaryExpr(binary) => operator_may_fail(binary),
        Expr::Like(like) => match like.pattern.as_ref() {
            Expr::Literal(pattern, _) if !ends_in_escape(pattern) => None,
            _ => Some("a pattern must be a text that stands there".to_owned()),
        },
        Expr::Cast(cast) => {
            let to = cast.field.data_type();
            match cast.expr.get_type(fields) {
                Ok(from) if always_casts(&from, to) => None,
                Ok(from) => Some(format!(
                    "a value of {from} is not always a {to}; compare like with like, or use TRY_CAST"
                )),
                Err(error) => Some(error.strip_backtrace()),
            }
        }
        Expr::ScalarFunction(call) => {
            let known = Language::has(call.func.name());
            (!known).then(|| format!("`{}` is not part of row filters", call.func.name()))
        }
        _ => Some("only comparisons of columns are part of row filters".to_owned()),
    }
}

fn operator_may_fail(binary: &BinaryExpr) -> Option<String> {
    match binary.op {
        Operator::Eq
        | Operator::NotEq
        | Operator::Lt
        | Operator::LtEq
        | Operator::Gt
        | Operator::GtEq
        | Operator::And
        | Operator::Or
        | Operator::IsDistinctFrom
        | Operator::IsNotDistinctFrom
        | Operator::StringConcat => None,
        other => Some(format!("the operator `{other}` is not part of row filters")),
    }
}

fn ends_in_escape(pattern: &ScalarValue) -> bool {
    match pattern.try_as_str() {
        Some(Some(text)) => text.ends_with('\\'),
        _ => false,
    }
}

/// Whether every value of one type is a value of the other.
fn always_casts(from: &DataType, to: &DataType) -> bool {
    if let DataType::Dictionary(_, values) = from {
        return always_casts(values, to);
    }
    if from == to || *from == DataType::Null {
        return true;
    }
    let digits = |data_type: &DataType| match data_type {
        DataType::Int8 | DataType::UInt8 => Some(3),
        DataType::Int16 | DataType::UInt16 => Some(5),
        DataType::Int32 | DataType::UInt32 => Some(10),
        DataType::Int64 => Some(19),
        DataType::UInt64 => Some(20),
        _ => None,
    };
    let bits = |data_type: &DataType| match data_type {
        DataType::Int8 => Some((8, true)),
        DataType::Int16 => Some((16, true)),
        DataType::Int32 => Some((32, true)),
        DataType::Int64 => Some((64, true)),
        DataType::UInt8 => Some((8, false)),
        DataType::UInt16 => Some((16, false)),
        DataType::UInt32 => Some((32, false)),
        DataType::UInt64 => Some((64, false)),
        _ => None,
    };
    match to {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => super::values::has_text(from),
        DataType::Float64 | DataType::Float32 => {
            from.is_integer() || from.is_floating() || matches!(from, DataType::Decimal128(..))
        }
        DataType::Decimal128(precision, scale) => {
            let room = i16::from(*precision) - i16::from(*scale);
            match from {
                DataType::Decimal128(p, s) => *s <= *scale && i16::from(*p) - i16::from(*s) <= room,
                whole => digits(whole).is_some_and(|digits| digits <= room),
            }
        }
        whole => match (bits(from), bits(whole)) {
            (Some((from, true)), Some((to, true))) | (Some((from, false)), Some((to, false))) => {
                from <= to
            }
            (Some((from, false)), Some((to, true))) => from < to,
            _ => false,
        },
    }
}

/// The language of row filters: a few functions, no tables.
struct Language {
    who: BTreeMap<&'static str, Arc<ScalarUDF>>,
    options: ConfigOptions,
    planners: Vec<Arc<dyn ExprPlanner>>,
}

static KNOWN: LazyLock<BTreeMap<String, Arc<ScalarUDF>>> = LazyLock::new(|| {
    let mut known = BTreeMap::new();
    for function in all_default_functions() {
        let names =
            std::iter::once(function.name()).chain(function.aliases().iter().map(String::as_str));
        for name in names.filter(|name| FUNCTIONS.contains(name)) {
            known.insert(name.to_owned(), Arc::clone(&function));
        }
    }
    known
});

impl Language {
    fn new(reader: &Reader) -> Self {
        let says = |name, value: Option<&str>| {
            let function = Says {
                name,
                value: value.map(str::to_owned),
                signature: Signature::nullary(Volatility::Immutable),
            };
            (name, Arc::new(ScalarUDF::new_from_impl(function)))
        };
        Self {
            who: BTreeMap::from([
                says(PRINCIPAL, Some(reader.principal())),
                says(ON_BEHALF_OF, reader.whom()),
            ]),
            options: ConfigOptions::default(),
            planners: SessionStateDefaults::default_expr_planners(),
        }
    }

    fn has(name: &str) -> bool {
        KNOWN.values().any(|function| function.name() == name)
            || [PRINCIPAL, ON_BEHALF_OF].contains(&name)
    }
}

impl ContextProvider for Language {
    fn get_table_source(&self, _: TableReference) -> Result<Arc<dyn TableSource>> {
        plan_err!("a row filter reads the row and no table")
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        &self.planners
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.who.get(name).or_else(|| KNOWN.get(name)).cloned()
    }

    fn get_higher_order_meta(&self, _: &str) -> Option<Arc<HigherOrderUDF>> {
        None
    }

    fn get_aggregate_meta(&self, _: &str) -> Option<Arc<AggregateUDF>> {
        None
    }

    fn get_window_meta(&self, _: &str) -> Option<Arc<WindowUDF>> {
        None
    }

    fn get_variable_type(&self, _: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        &self.options
    }

    fn udf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udwf_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// A function that says the same of every row.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Says {
    name: &'static str,
    value: Option<String>,
    signature: Signature,
}

impl ScalarUDFImpl for Says {
    fn name(&self) -> &'static str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Utf8)
    }

    fn invoke_with_args(&self, _: ScalarFunctionArgs) -> Result<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Utf8(self.value.clone())))
    }
}
