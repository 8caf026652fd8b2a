"""Figures over all imports: what the queue looks like, what became of the Records."""

from __future__ import annotations

from psycopg.rows import class_row

from rollcall.database import Connection
from rollcall.imports.table import Counts, State


async def count_queued(tx: Connection, created_by: str | None) -> int:
    """This sender's imports that wait for a worker."""
    row = await (
        await tx.execute(
            "select count(*) from rollcall.imports where state = 'queued' and created_by is not distinct from %s",
            (created_by,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def census(tx: Connection) -> list[tuple[State, str | None, int]]:
    """How many imports are in each state, the failed ones by their code."""
    return await (
        await tx.execute("""select state, case when state = 'failed' then error_code end as code, count(*)
                 from rollcall.imports group by state, code""")
    ).fetchall()


async def outcomes(tx: Connection) -> Counts:
    """The account of all imports together."""
    async with tx.cursor(row_factory=class_row(Counts)) as cursor:
        await cursor.execute(
            """select coalesce(sum(read), 0)::bigint as read, coalesce(sum(created), 0)::bigint as created,
                      coalesce(sum(updated), 0)::bigint as updated, coalesce(sum(unchanged), 0)::bigint as unchanged,
                      coalesce(sum(skipped), 0)::bigint as skipped, coalesce(sum(duplicate), 0)::bigint as duplicate,
                      coalesce(sum(rejected), 0)::bigint as rejected
                 from (select read, created, updated, unchanged, skipped, duplicate, rejected from rollcall.imports
                        where state not in ('queued', 'running')
                       union all
                       select p.read, p.created, p.updated, p.unchanged, p.skipped, p.duplicate, p.rejected
                         from rollcall.imports i cross join lateral rollcall.account(i.id) p
                        where i.state in ('queued', 'running')) every"""
        )
        counts = await cursor.fetchone()
    assert counts is not None
    return counts


async def longest_wait(tx: Connection) -> float:
    """Seconds since the oldest queued import was created; 0 when none is queued."""
    row = await (
        await tx.execute(
            """select coalesce(extract(epoch from clock_timestamp() - min(created_at)), 0)::float8
                 from rollcall.imports where state = 'queued'"""
        )
    ).fetchone()
    return float(row[0]) if row else 0.0


async def count_open(tx: Connection) -> int:
    """Imports that are queued or running."""
    row = await (
        await tx.execute("select count(*) from rollcall.imports where state in ('queued', 'running')")
    ).fetchone()
    return int(row[0]) if row else 0
