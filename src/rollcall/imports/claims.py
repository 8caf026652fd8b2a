"""Which attempt an import belongs to: claim, list stalled ones, take over, freeze the Plan, fence, release."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from rollcall.database import LOCK_CLASS, Connection
from rollcall.imports.closing import END, LEDGER
from rollcall.imports.table import Import, show

LARGE_BYTES = 8 << 20
"""A worker runs one import above this size at a time, so that small ones never wait behind large ones."""
SMALL_BYTES = 256 << 10
"""A worker keeps some slots for imports up to this size."""
CRASHES_MAX = 4


async def claim(
    tx: Connection, worker: int, *, bytes_max: int | None = None, without: Sequence[str] = ()
) -> Import | None:
    """Claim the first queued import of up to `bytes_max` bytes, but none of the senders named in `without`; or None.

    Only the first open import of a Source is a candidate: otherwise a newer one could overtake an older one that is
    locked. None, too, after a unique violation: an older import of the Source was retried at this moment.
    """
    try:
        row = await (
            await tx.execute(
                """with pick as (
                     select i.id from rollcall.imports i
                      where i.state = 'queued' and (%(most)s::bigint is null or i.bytes_total <= %(most)s)
                        and coalesce(i.created_by <> all(%(without)s::text[]), true)
                        and not exists (select from rollcall.imports e where e.source = i.source
                                          and (e.state = 'running' or e.state = 'queued' and e.seq < i.seq))
                      order by i.seq for update of i skip locked limit 1)
                   update rollcall.imports i
                      set state = 'running', attempt = attempt + 1, worker = %(worker)s,
                          started_at = coalesce(started_at, clock_timestamp())
                     from pick where i.id = pick.id returning i.id, i.attempt""",
                {"worker": worker, "most": bytes_max, "without": list(without)},
            )
        ).fetchone()
    except psycopg.errors.UniqueViolation:
        return None
    return await _won(tx, *row) if row else None


async def _won(tx: Connection, job_id: UUID, attempt: int) -> Import | None:
    """The claimed import, or None if another attempt has begun: this process may have been frozen in between."""
    job = await show(tx, job_id)
    return job if job is not None and job.attempt == attempt else None


@dataclass(frozen=True)
class Stalled:
    """A running import that is in none of this worker's slots, and what is known of its worker."""

    id: UUID
    attempt: int
    crashes: int
    bytes_total: int
    released: bool
    locked: bool
    stale: bool
    restarted: bool
    beat: datetime | None


async def list_stalled(tx: Connection, worker: int, mine: list[str], stale_seconds: float) -> list[Stalled]:
    """Running imports of other workers, and of none. `mine`: `id:attempt` of this worker's slots.

    `released`: no worker has it; or this one has, without a slot, because the answer to its claim was lost. `locked`:
    its worker's advisory lock is held. `stale`: its worker's last beat is older than `stale_seconds`. `restarted`:
    Postgres started after that beat.
    """
    async with tx.cursor(row_factory=class_row(Stalled)) as cursor:
        await cursor.execute(
            """select i.id, i.attempt, i.crashes, i.bytes_total,
                      i.worker is null or i.worker = %(me)s as released,
                      exists (select from pg_locks l where l.locktype = 'advisory' and l.granted
                                and l.database = (select oid from pg_database where datname = current_database())
                                and l.classid = %(class)s::bigint::oid and l.objid = i.worker::bigint::oid
                                and l.objsubid = 2) as locked,
                      coalesce(w.beat < clock_timestamp() - make_interval(secs => %(stale)s), false) as stale,
                      coalesce(w.beat < pg_postmaster_start_time(), false) as restarted, w.beat
                 from rollcall.imports i left join rollcall.workers w on w.seq = i.worker
                where i.state = 'running'
                  and (i.worker is distinct from %(me)s or not (i.id || ':' || i.attempt) = any(%(mine)s::text[]))
                order by i.seq""",
            {"me": worker, "class": LOCK_CLASS, "stale": stale_seconds, "mine": mine},
        )
        return await cursor.fetchall()


LOST: LiteralString = """
with z as (
  select j.attempt + 1 as attempt, case when not %(counted)s then j.crashes
                    when exists (select from rollcall.import_parts p
                                  where p.import_id = j.id and p.attempt = j.attempt) then 1
                    else j.crashes + 1 end as crashes,
         (select coalesce(max(p.last), 0) from rollcall.import_parts p where p.import_id = j.id) as last
    from rollcall.imports j where j.id = %(id)s),
crashed as ("""
"""An attempt is lost. `z.crashes`: attempts lost in a row without a batch; CRASHES_MAX of them end the import."""
CRASHED: LiteralString = """(
  select 'failed' as state, z.attempt, z.crashes, null::bigint as total, 'CRASHED' as code,
         format('The worker was lost %%s times at this file, the last time after record %%s.', z.crashes, z.last)
         as message from z where z.crashes >= %(limit)s) e"""
SEEN: LiteralString = """
                where i.id = %(id)s and i.attempt = %(seen)s and i.state = 'running'
                  and (select beat from rollcall.workers w where w.seq = i.worker) is not distinct from %(beat)s"""


async def take_over(tx: Connection, worker: int, seen: Stalled, *, counted: bool) -> Import | None:
    """Begin the next attempt at a stalled import, if its attempt and its worker's beat are still those in `seen`.

    `counted`: the worker died or froze; it did not release the import. The fourth such attempt in a row that committed
    no batch ends the import as CRASHED. Raises LockNotAvailable (55P03) after a second when frozen loaders hold the
    row: end their sessions and call again.
    """
    take: LiteralString = (
        LOST
        + END
        + LEDGER
        + CRASHED
        + SEEN
        + """
               returning i.id, i.attempt),
             taken as (
               update rollcall.imports i set attempt = i.attempt + 1, crashes = z.crashes, worker = %(me)s from z"""
        + SEEN
        + """
                  and z.crashes < %(limit)s returning i.id, i.attempt)
             select * from crashed union all select * from taken"""
    )
    row = await (
        await tx.execute(
            take,
            {
                "me": worker,
                "id": seen.id,
                "seen": seen.attempt,
                "beat": seen.beat,
                "counted": counted,
                "limit": CRASHES_MAX,
            },
        )
    ).fetchone()
    return await _won(tx, *row) if row else None


async def freeze(tx: Connection, job: Import, plan: dict[str, Any]) -> bool:
    """Write the Plan onto the import; False when another attempt has begun, or the import has ended."""
    cursor = await tx.execute(
        "update rollcall.imports set plan = %s where id = %s and attempt = %s and state = 'running' returning 1",
        (Jsonb(plan), job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def fence(tx: Connection, job: Import) -> bool:
    """The first statement of every batch: False when another attempt has begun, or the import has ended.

    FOR SHARE holds the row until the transaction ends, so a take-over waits for the batch.
    """
    cursor = await tx.execute(
        "select 1 from rollcall.imports where id = %s and attempt = %s and state = 'running' for share",
        (job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def release(
    tx: Connection, job: Import, code: str | None = None, message: str | None = None, *, counted: bool = False
) -> None:
    """Give a running import back; the next worker takes it over at once.

    `code`, `message`: why; shown until an attempt commits a batch. `counted`: counts as a crash. The worker that takes
    it over after the fourth crash in a row without a batch ends the import.
    """
    await tx.execute(
        """update rollcall.imports i set worker = null, error_code = %s, error_message = %s,
                  crashes = case when not %s or i.worker is null then crashes
                                 when exists (select from rollcall.import_parts p
                                               where p.import_id = i.id and p.attempt = i.attempt) then 1
                                 else crashes + 1 end
            where id = %s and attempt = %s and state = 'running' returning pg_notify('rollcall', '')""",
        (code, message, counted, job.id, job.attempt),
    )
