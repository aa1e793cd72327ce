"""Peers of `lakehouse bench postgres`: a table from PostgreSQL to a Parquet file of snappy pages.

Reads one JSON line {dsn, table, threads} from standard input, prints one JSON line a peer that is there
or absent and {"ready": true}; then reads lines `PEER` and answers each with {s, rows}.
"""

import json
import os
import sys
import time

OUT = "peer.parquet"


def duckdb_peer(dsn, table, threads):
    import duckdb

    connection = duckdb.connect(config={"threads": threads})
    try:
        # The extension as a package of the registry ships it; its signature is DuckDB's own.
        import duckdb_extension_postgres_scanner as shipped

        folder = os.path.dirname(shipped.__file__)
        name = "postgres_scanner.duckdb_extension"
        found = [os.path.join(at, name) for at, _, files in os.walk(folder) if name in files]
        connection.execute(f"LOAD '{found[0]}'")
    except ImportError:
        connection.execute("LOAD postgres")
    source = f"postgres_scan('{dsn}', 'public', '{table}')"

    def read():
        copy = f"COPY (SELECT * FROM {source}) TO '{OUT}' (FORMAT parquet, COMPRESSION snappy)"
        return connection.execute(copy).fetchone()[0]

    return read


def adbc_peer(dsn, table, threads):
    import adbc_driver_postgresql.dbapi as dbapi
    import pyarrow.parquet as parquet

    def read():
        rows = 0
        with dbapi.connect(dsn) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {table}")
            batches = cursor.fetch_record_batch()
            with parquet.ParquetWriter(OUT, batches.schema) as writer:
                for batch in batches:
                    writer.write_batch(batch)
                    rows += batch.num_rows
        return rows

    return read


def connectorx_peer(dsn, table, threads):
    import connectorx
    import pyarrow.parquet as parquet

    def read():
        rows = connectorx.read_sql(
            dsn,
            f"SELECT * FROM {table}",
            return_type="arrow",
            partition_on="id",
            partition_num=threads,
        )
        parquet.write_table(rows, OUT)
        return rows.num_rows

    return read


PEERS = {"DuckDB": duckdb_peer, "ADBC": adbc_peer, "connectorx": connectorx_peer}


def answer(value):
    print(json.dumps(value), flush=True)


def main():
    asked = json.loads(sys.stdin.readline())
    reads = {}
    for name, peer in PEERS.items():
        try:
            reads[name] = peer(asked["dsn"], asked["table"], asked["threads"])
            answer({"peer": name})
        except Exception as error:  # Whatever keeps it from being had, the others are measured.
            answer({"peer": name, "absent": str(error)})
    answer({"ready": True})
    for line in sys.stdin:
        started = time.perf_counter()
        rows = reads[line.strip()]()
        answer({"s": time.perf_counter() - started, "rows": rows})


main()
