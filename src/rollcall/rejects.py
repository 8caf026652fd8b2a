"""Rejects: the Records that did not pass, with the reason and their own bytes.

Written by Lane 0 in the Share's transaction, so that a Reject is there exactly when it is counted.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import pyarrow as pa
from psycopg.rows import class_row

from rollcall.database import Connection


@dataclass(frozen=True)
class Reject:
    """One row; `raw` is the Record as it stands in the file."""

    record: int
    field: str | None
    code: str
    value: str | None
    raw: bytes


async def add(tx: Connection, job_id: UUID, rejects: pa.Table) -> None:
    """COPY a Part's Rejects in (columns record, field, code, value, raw)."""
    async with (
        tx.cursor() as cursor,
        cursor.copy("copy rollcall.rejects (import_id, record, field, code, value, raw) from stdin") as copy,
    ):
        for row in rejects.to_pylist():
            await copy.write_row((job_id, row["record"], row["field"], row["code"], row["value"], row["raw"]))


async def clear(tx: Connection, job_id: UUID) -> None:
    """Forget those of an earlier check pass."""
    await tx.execute("delete from rollcall.rejects where import_id = %s", (job_id,))


async def page(tx: Connection, job_id: UUID, *, after: int, limit: int) -> list[Reject]:
    """In the order of the file, from the first Record after `after`."""
    async with tx.cursor(row_factory=class_row(Reject)) as cursor:
        await cursor.execute(
            """select record, field, code, value, raw from rollcall.rejects
                where import_id = %s and record > %s order by record limit %s""",
            (job_id, after, limit),
        )
        return await cursor.fetchall()


async def every(tx: Connection, job_id: UUID, *, size: int = 1000) -> AsyncIterator[list[Reject]]:
    """All of them, page by page, by key: no transaction stays open while a slow client reads."""
    after = 0
    while found := await page(tx, job_id, after=after, limit=size):
        yield found
        after = found[-1].record


async def by_code(tx: Connection, job_id: UUID) -> dict[str, int]:
    """How many of each code."""
    rows = await (
        await tx.execute(
            "select code, count(*) from rollcall.rejects where import_id = %s group by code order by 2 desc, 1",
            (job_id,),
        )
    ).fetchall()
    return dict(rows)


async def expire(tx: Connection, age: timedelta, *, limit: int) -> int:
    """Delete some (at most `limit`) Rejects of imports that are final for so long; how many.

    Goes from one import that has Rejects to the next by their key: there may be many more imports that have none.
    """
    rows = await (
        await tx.execute(
            """with recursive owner (id) as (
                 (select import_id from rollcall.rejects order by import_id limit 1)
                 union all
                 select (select r.import_id from rollcall.rejects r where r.import_id > owner.id
                          order by r.import_id limit 1)
                   from owner where owner.id is not null),
               old as materialized (
                 select r.import_id, r.record from owner join rollcall.imports i using (id)
                   join rollcall.rejects r on r.import_id = i.id
                  where i.state in ('succeeded', 'failed', 'cancelled') and i.finished_at < clock_timestamp() - %s
                  limit %s)
               delete from rollcall.rejects r using old where (r.import_id, r.record) = (old.import_id, old.record)
               returning 1""",
            (age, limit),
        )
    ).fetchall()
    return len(rows)
