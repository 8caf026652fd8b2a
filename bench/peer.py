"""One peer's way to load a CSV file into the table `people` of the schema `peer`. Runs in the peers' environment.

python peer.py dlt_append|dlt_merge|pandas_to_sql FILE URL
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any


def dlt_append(file: str, url: str) -> None:
    """As its documentation has it for files that are large: Arrow batches, loaded as CSV through COPY."""
    _dlt(file, url, write_disposition="append")


def dlt_merge(file: str, url: str) -> None:
    """One row an email, a newer one in the place of the older."""
    _dlt(file, url, write_disposition={"disposition": "merge", "strategy": "upsert"}, primary_key="email")


def _dlt(file: str, url: str, **hints: Any) -> None:
    import dlt
    import pyarrow.csv as pa_csv

    def batches() -> Iterator[Any]:
        with pa_csv.open_csv(file) as reader:
            yield from reader

    # dlt wants a password and a host, even where the socket's folder that follows is all that counts.
    destination = dlt.destinations.postgres(url.replace("postgres@", "postgres:none@localhost", 1))
    pipeline = dlt.pipeline("peer", destination=destination, dataset_name="peer")
    resource = dlt.resource(batches, name="people", **hints)
    pipeline.run(resource, loader_file_format="csv").raise_on_failed_jobs()


def pandas_to_sql(file: str, url: str) -> None:
    """Read whole, then `to_sql` by SQLAlchemy and psycopg."""
    import pandas as pd
    import sqlalchemy

    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))
    with engine.begin() as connection:
        connection.execute(sqlalchemy.text("create schema peer"))
        pd.read_csv(file).to_sql("people", connection, schema="peer", index=False, chunksize=10_000)


if __name__ == "__main__":
    {"dlt_append": dlt_append, "dlt_merge": dlt_merge, "pandas_to_sql": pandas_to_sql}[sys.argv[1]](*sys.argv[2:])
