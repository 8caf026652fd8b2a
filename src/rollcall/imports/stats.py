"""Figures over all imports: what the queue looks like, what became of the Records; and their end."""

from __future__ import annotations

from datetime import timedelta
from typing import LiteralString

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
    """How many imports are in each state, the failed ones by their code. Looks at open imports alone."""
    return await (
        await tx.execute(
            """select state, code, sum(imports)::bigint from rollcall.ends group by state, code
               union all
               select state, null, count(*) from rollcall.imports where state in ('queued', 'running') group by state"""
        )
    ).fetchall()


async def outcomes(tx: Connection) -> Counts:
    """The account of all imports together, of deleted ones too. Looks at open imports alone."""
    async with tx.cursor(row_factory=class_row(Counts)) as cursor:
        await cursor.execute(
            """select sum(created + updated + unchanged + skipped + duplicate + rejected)::bigint as read,
                      sum(created)::bigint as created, sum(updated)::bigint as updated,
                      sum(unchanged)::bigint as unchanged, sum(skipped)::bigint as skipped,
                      sum(duplicate)::bigint as duplicate, sum(rejected)::bigint as rejected
                 from (select 0 as created, 0 as updated, 0 as unchanged, 0 as skipped, 0 as duplicate, 0 as rejected
                       union all
                       select created, updated, unchanged, skipped, duplicate, rejected from rollcall.ends
                       union all
                       select p.created, p.updated, p.unchanged, p.skipped, p.duplicate, p.rejected
                         from rollcall.imports i cross join lateral rollcall.account(i.id) p
                        where i.state in ('queued', 'running')) every"""
        )
        counts = await cursor.fetchone()
    assert counts is not None
    return counts


async def sum_up(tx: Connection, *, limit: int) -> int:
    """Make one row of (at most `limit`) rows of ends that are alike; how many there are fewer."""
    row = await (
        await tx.execute(
            """with gone as (delete from rollcall.ends where ctid = any(array(select ctid from rollcall.ends limit %s))
                             returning *),
                    sums as (insert into rollcall.ends
                             select state, code, sum(imports), sum(created), sum(updated), sum(unchanged), sum(skipped),
                                    sum(duplicate), sum(rejected) from gone group by state, code returning 1)
               select (select count(*) from gone) - (select count(*) from sums)""",
            (limit,),
        )
    ).fetchone()
    return int(row[0]) if row else 0


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


async def expire(tx: Connection, age: timedelta, *, limit: int) -> int:
    """Delete some (at most `limit`) rows of the ledger, imports and uploads that are over for so long; how many.

    Of an import the ledger goes first, and it goes itself when its stored file and its rejects are gone too; its upload
    after the last import made of it. Contacts keep the id of theirs. Locks the imports, as retry does.
    """
    old: LiteralString = """with old as materialized (
        select i.id from rollcall.imports i where i.finished_at < clock_timestamp() - %(age)s and """
    ledger: LiteralString = (
        old
        + """exists (select from rollcall.import_parts p where p.import_id = i.id)
             order by i.finished_at limit 100 for update skip locked),
           lines as materialized (select p.import_id, p.loader, p.first
                                   from old join rollcall.import_parts p on p.import_id = old.id limit %(limit)s)
         delete from rollcall.import_parts p using lines
          where (p.import_id, p.loader, p.first) = (lines.import_id, lines.loader, lines.first)"""
    )
    whole: LiteralString = (
        old
        + """not exists (select from rollcall.import_parts p where p.import_id = i.id)
              and not exists (select from rollcall.rejects r where r.import_id = i.id)
              and not exists (select from rollcall.segments s where s.upload_id = i.upload_id)
             order by i.finished_at limit %(limit)s for update skip locked)
         delete from rollcall.imports i using old where i.id = old.id"""
    )
    uploads: LiteralString = """with old as materialized (
        select u.id from rollcall.uploads u where u.completed_at < clock_timestamp() - %(age)s
           and not exists (select from rollcall.imports i where i.upload_id = u.id)
           and not exists (select from rollcall.segments s where s.upload_id = u.id)
         order by u.completed_at limit %(limit)s for update skip locked)
      delete from rollcall.uploads u using old where u.id = old.id"""
    for statement in (ledger, whole, uploads):
        if count := (await tx.execute(statement, {"age": age, "limit": limit})).rowcount:
            return count
    return 0
