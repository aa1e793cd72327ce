//! Benchmarks: ratios against a baseline in the same run.

pub mod tpch;
