//! The functions that an agent's statement may call: those that read their arguments and nothing else,
//! answer in bounded room, and say the same when asked again. A function of the engine that stands in
//! neither list keeps a test from passing, so that a new one is looked at before anybody calls it.

/// Functions of one row.
const SCALAR: &[&str] = &[
    "abs",
    "acos",
    "acosh",
    "array_any_value",
    "array_append",
    "array_concat",
    "array_dims",
    "array_distance",
    "array_distinct",
    "array_element",
    "array_except",
    "array_has",
    "array_has_all",
    "array_has_any",
    "array_intersect",
    "array_length",
    "array_max",
    "array_min",
    "array_ndims",
    "array_pop_back",
    "array_pop_front",
    "array_position",
    "array_positions",
    "array_prepend",
    "array_remove",
    "array_remove_all",
    "array_remove_n",
    "array_replace",
    "array_replace_all",
    "array_replace_n",
    "array_reverse",
    "array_slice",
    "array_sort",
    "array_to_string",
    "array_union",
    "arrays_zip",
    "array_compact",
    "array_normalize",
    "arrow_cast",
    "arrow_try_cast",
    "arrow_typeof",
    "ascii",
    "asin",
    "asinh",
    "atan",
    "atan2",
    "atanh",
    "bit_length",
    "btrim",
    "cardinality",
    "cast_to_type",
    "cbrt",
    "ceil",
    "character_length",
    "chr",
    "coalesce",
    "concat",
    "concat_ws",
    "contains",
    "cos",
    "cosh",
    "cosine_distance",
    "cot",
    "date_bin",
    "date_part",
    "date_trunc",
    "decode",
    "degrees",
    "digest",
    "empty",
    "encode",
    "ends_with",
    "exp",
    "factorial",
    "find_in_set",
    "flatten",
    "floor",
    "from_unixtime",
    "gcd",
    "get_field",
    "greatest",
    "initcap",
    "inner_product",
    "isnan",
    "iszero",
    "lcm",
    "least",
    "left",
    "levenshtein",
    "ln",
    "log",
    "log10",
    "log2",
    "lower",
    "ltrim",
    "make_array",
    "make_date",
    "make_time",
    "map",
    "map_entries",
    "map_extract",
    "map_keys",
    "map_values",
    "md5",
    "named_struct",
    "nanvl",
    "nullif",
    "nvl",
    "nvl2",
    "octet_length",
    "overlay",
    "pi",
    "position",
    "power",
    "radians",
    "regexp_count",
    "regexp_instr",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "replace",
    "reverse",
    "right",
    "round",
    "rtrim",
    "sha224",
    "sha256",
    "sha384",
    "sha512",
    "signum",
    "sin",
    "sinh",
    "split_part",
    "sqrt",
    "starts_with",
    "string_to_array",
    "strpos",
    "struct",
    "substr",
    "substr_index",
    "substrindex",
    "tan",
    "tanh",
    "to_char",
    "to_date",
    "to_hex",
    "to_local_time",
    "to_time",
    "to_timestamp",
    "to_timestamp_micros",
    "to_timestamp_millis",
    "to_timestamp_nanos",
    "to_timestamp_seconds",
    "to_unixtime",
    "translate",
    "trunc",
    "try_cast_to_type",
    "union_extract",
    "union_tag",
    "upper",
];

/// Functions of one row that are refused: they say what is not in their arguments (the program, the
/// time, chance, the metadata of a field), or make much out of little.
#[cfg(test)]
const REFUSED: &[&str] = &[
    "array_repeat",
    "array_resize",
    "arrow_field",
    "arrow_metadata",
    "current_date",
    "current_time",
    "current_timestamp",
    "generate_series",
    "gen_series",
    "lpad",
    "now",
    "random",
    "range",
    "repeat",
    "rpad",
    "today",
    "uuid",
    "version",
    "with_metadata",
];

/// Functions of many rows.
const AGGREGATE: &[&str] = &[
    "approx_distinct",
    "approx_median",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "count",
    "covar_pop",
    "covar_samp",
    "first_value",
    "grouping",
    "last_value",
    "max",
    "median",
    "min",
    "nth_value",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];

/// Functions over windows.
const WINDOW: &[&str] = &[
    "cume_dist",
    "dense_rank",
    "first_value",
    "lag",
    "last_value",
    "lead",
    "nth_value",
    "ntile",
    "percent_rank",
    "rank",
    "row_number",
];

/// Whether an agent may call this function of one row.
pub(super) fn is_scalar(name: &str) -> bool {
    SCALAR.contains(&name)
}

/// Whether an agent may call this aggregate.
pub(super) fn is_aggregate(name: &str) -> bool {
    AGGREGATE.contains(&name)
}

/// Whether an agent may call this function over a window.
pub(super) fn is_window(name: &str) -> bool {
    WINDOW.contains(&name) || AGGREGATE.contains(&name)
}

#[cfg(test)]
mod tests {
    use datafusion::execution::SessionStateDefaults;

    use super::*;

    #[test]
    fn every_function_of_the_engine_is_let_in_or_refused_by_name() {
        let mut unknown: Vec<String> = Vec::new();
        for function in SessionStateDefaults::default_scalar_functions() {
            let name = function.name();
            if !is_scalar(name) && !REFUSED.contains(&name) {
                unknown.push(name.to_owned());
            }
        }
        for function in SessionStateDefaults::default_aggregate_functions() {
            if !is_aggregate(function.name()) {
                unknown.push(function.name().to_owned());
            }
        }
        for function in SessionStateDefaults::default_window_functions() {
            if !is_window(function.name()) {
                unknown.push(function.name().to_owned());
            }
        }
        assert!(unknown.is_empty(), "{unknown:?}");
    }
}
