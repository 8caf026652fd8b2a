"""Rejects: the Records that broke a rule, with the reason and their raw bytes.

Loader 0 writes them in its batch's transaction, so a Reject is stored exactly when it is counted. Only the first of an
import are stored, up to a limit that the caller keeps. The ledger has the number of each code; `export` finds the rest
in the stored file.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from psycopg.rows import class_row

from rollcall import binary_copy
from rollcall.binary_copy import Column
from rollcall.database import Connection


@dataclass(frozen=True)
class Reject:
    """One row. `raw`: the Record's bytes in the file."""

    record: int
    field: str | None
    code: str
    value: str | None
    raw: bytes


async def add(tx: Connection, job_id: UUID, found: pa.Table) -> None:
    """Store Rejects. `found`: columns record, field, code, value, raw."""
    data = await asyncio.to_thread(_encode, job_id, found)
    await binary_copy.copy(
        tx, "copy rollcall.rejects (import_id, record, field, code, value, raw) from stdin (format binary)", [data]
    )


def _encode(job_id: UUID, found: pa.Table) -> Column:
    texts = (binary_copy.text(found[column]) for column in ("field", "code", "value", "raw"))
    return binary_copy.rows(binary_copy.constant(job_id.bytes), binary_copy.int8(found["record"]), *texts)


def by_code(found: pa.Table) -> dict[str, int]:
    """The number of these Rejects by code."""
    counted: Any = pc.value_counts(found["code"])
    codes, counts = counted.flatten()
    return dict(zip(codes.to_pylist(), counts.to_pylist(), strict=True))


async def clear(tx: Connection, job_id: UUID, *, after: int) -> None:
    """Delete the Rejects after this Record, which an interrupted check pass stored."""
    await tx.execute("delete from rollcall.rejects where import_id = %s and record > %s", (job_id, after))


async def page(tx: Connection, job_id: UUID, *, after: int, limit: int, size: int) -> tuple[list[Reject], bool]:
    """Rejects in file order after Record `after`, and whether there may be more. Ends after `limit` of them, or with
    the one that brings their raw bytes to `size`.
    """
    async with tx.cursor(row_factory=class_row(Reject)) as cursor:
        await cursor.execute(
            """select record, field, code, value, raw from (
                 select *, sum(octet_length(raw) + octet_length(coalesce(field, ''))) over (order by record)
                             - octet_length(raw) - octet_length(coalesce(field, '')) as before
                   from (select record, field, code, value, raw from rollcall.rejects
                          where import_id = %s and record > %s order by record limit %s) as first) as summed
                where before < %s order by record""",
            (job_id, after, limit, size),
        )
        found = await cursor.fetchall()
    held = sum(len(reject.raw) + len((reject.field or "").encode()) for reject in found)
    return found, len(found) == limit or held >= size


async def count(tx: Connection, job_id: UUID, until: int) -> int:
    """How many Rejects are stored up to Record `until`."""
    row = await (
        await tx.execute("select count(*) from rollcall.rejects where import_id = %s and record <= %s", (job_id, until))
    ).fetchone()
    return int(row[0]) if row else 0


async def expire(tx: Connection, age: timedelta, *, limit: int) -> int:
    """Delete up to `limit` Rejects of imports that have been final for `age`; how many.

    Steps through the primary key from one import with Rejects to the next: far more imports have none.
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
