//! Files in: CSV, NDJSON, JSON, Parquet and Arrow IPC streams become Parquet files.
