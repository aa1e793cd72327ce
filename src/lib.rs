//! The daemon's edge: command line, configuration and REST, and the engines behind the actors'
//! ports (`DataFusion`, Parquet, usearch, Lance, the embedder, `PostgreSQL`, object stores).

pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod demo;
pub mod engines;
pub mod exit;
pub mod limits;
pub mod mcp;
pub mod query;
pub mod rest;
