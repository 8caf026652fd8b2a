"""Imports: what was wished, how far it is, and who works on it. The table is its own queue.

Every statement on `rollcall.imports` is a function here; `tx` comes first, and none of them opens or commits. Claim,
take, release, close, fail, cancel and retry are single statements (the last two one simple-query string): run on a
connection in autocommit, nobody can freeze between their halves. `attempt` fences: it only rises, and whoever works
under an older one finds no row. The reasons for each form are the holes that a prototype fell into; they are named
where they matter.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from rollcall.database import LOCK_CLASS, Connection

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})
LARGE_BYTES = 8 << 20
"""A worker runs one import above this size at a time, so that small ones never wait behind large ones."""
CRASHES_MAX = 4


@dataclass(frozen=True)
class Counts:
    """Committed Records by outcome; `read` is their sum."""

    read: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: int = 0
    duplicate: int = 0
    rejected: int = 0


@dataclass(frozen=True)
class Import:
    """One row. The counts come from the ledger until the state is final; `position` is the bytes read so far.

    `sha256`: of the whole stored file. `same_file_as`: the latest import before it of the same bytes for this Source.
    """

    id: UUID
    seq: int
    source: str
    upload_id: UUID
    bytes_total: int
    sha256: bytes | None
    same_file_as: UUID | None
    state: State
    options: dict[str, Any]
    plan: dict[str, Any] | None
    attempt: int
    crashes: int
    worker: int | None
    read: int
    created: int
    updated: int
    unchanged: int
    skipped: int
    duplicate: int
    rejected: int
    total: int | None
    error_code: str | None
    error_message: str | None
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int = 0
    ahead: int = 0

    @property
    def counts(self) -> Counts:
        return Counts(**{field.name: getattr(self, field.name) for field in fields(Counts)})


COPY_COUNTS: LiteralString = """read = p.read, created = p.created, updated = p.updated, unchanged = p.unchanged,
       skipped = p.skipped, duplicate = p.duplicate, rejected = p.rejected"""
SHOWN: LiteralString = """
select i.id, i.seq, i.source, i.upload_id, i.bytes_total, i.sha256, i.state, i.options, i.plan, i.attempt, i.crashes,
       i.worker,
       coalesce(p.read, i.read)::bigint as read, coalesce(p.created, i.created)::bigint as created,
       coalesce(p.updated, i.updated)::bigint as updated, coalesce(p.unchanged, i.unchanged)::bigint as unchanged,
       coalesce(p.skipped, i.skipped)::bigint as skipped, coalesce(p.duplicate, i.duplicate)::bigint as duplicate,
       coalesce(p.rejected, i.rejected)::bigint as rejected,
       i.total, i.error_code, i.error_message, i.created_by, i.created_at, i.started_at, i.finished_at,
       coalesce(p.position, case when i.total is null then 0 else i.bytes_total end)::bigint as position,
       case when i.state = 'queued' then (select count(*) from rollcall.imports e where e.source = i.source
             and (e.state = 'running' or e.state = 'queued' and e.seq < i.seq)) else 0 end as ahead,
       (select e.id from rollcall.imports e where e.source = i.source and e.sha256 = i.sha256 and e.seq < i.seq
         order by e.seq desc limit 1) as same_file_as
  from rollcall.imports i
  left join lateral rollcall.account(i.id) p on i.state in ('queued', 'running')
"""


def new_id() -> UUID:
    """A UUIDv7: in the order of the milliseconds they were made in, random beyond that."""
    value = time.time_ns() // 1_000_000 << 80 | secrets.randbits(80)
    return UUID(int=value & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)


async def create(
    tx: Connection,
    job_id: UUID,
    *,
    source: str,
    upload_id: UUID,
    bytes_total: int,
    options: dict[str, Any],
    sha256: bytes | None = None,
    created_by: str | None = None,
) -> None:
    """Queue one; with its Upload's end in the same transaction. Workers are told when it commits."""
    await tx.execute(
        """insert into rollcall.imports
             (id, source, upload_id, bytes_total, sha256, state, options, created_by, created_at)
           values (%s, %s, %s, %s, %s, 'queued', %s, %s, clock_timestamp())""",
        (job_id, source, upload_id, bytes_total, sha256, Jsonb(options), created_by),
    )
    await tx.execute("select pg_notify('rollcall', '')")


async def show(tx: Connection, job_id: UUID, sources: list[str] | None = None) -> Import | None:
    """As it stands now, if it is of one of these Sources; None: of all."""
    async with tx.cursor(row_factory=class_row(Import)) as cursor:
        await cursor.execute(
            SHOWN + " where i.id = %(id)s and (%(sources)s::text[] is null or i.source = any(%(sources)s))",
            {"id": job_id, "sources": sources},
        )
        return await cursor.fetchone()


async def page(
    tx: Connection,
    *,
    source: str | None,
    state: str | None,
    before: int | None,
    limit: int,
    sources: list[str] | None = None,
) -> list[Import]:
    """Newest first; `before` is the `seq` of the last one seen. `sources`: of these only; None: of all."""
    async with tx.cursor(row_factory=class_row(Import)) as cursor:
        await cursor.execute(
            SHOWN
            + """ where (%(source)s::text is null or i.source = %(source)s)
                    and (%(sources)s::text[] is null or i.source = any(%(sources)s))
                    and (%(state)s::text is null or i.state = %(state)s)
                    and (%(before)s::bigint is null or i.seq < %(before)s)
                  order by i.seq desc limit %(limit)s""",
            {"source": source, "sources": sources, "state": state, "before": before, "limit": limit},
        )
        return await cursor.fetchall()


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
        await tx.execute("select state, error_code, count(*) from rollcall.imports group by state, error_code")
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


async def claim(tx: Connection, worker: int, *, large: bool) -> Import | None:
    """Begin the first queued import whose turn it is; `large` admits those above LARGE_BYTES.

    Only the first open one of its Source is a candidate: otherwise a locked older one would be overtaken. A unique
    violation (an older import of the Source was retried at this moment) means: nothing now.
    """
    try:
        row = await (
            await tx.execute(
                """with pick as (
                     select i.id from rollcall.imports i
                      where i.state = 'queued' and (%(large)s or i.bytes_total <= %(size)s)
                        and not exists (select from rollcall.imports e where e.source = i.source
                                          and (e.state = 'running' or e.state = 'queued' and e.seq < i.seq))
                      order by i.seq for update of i skip locked limit 1)
                   update rollcall.imports i
                      set state = 'running', attempt = attempt + 1, worker = %(worker)s,
                          started_at = coalesce(started_at, clock_timestamp())
                     from pick where i.id = pick.id returning i.id, i.attempt""",
                {"worker": worker, "large": large, "size": LARGE_BYTES},
            )
        ).fetchone()
    except psycopg.errors.UniqueViolation:
        return None
    return await _won(tx, *row) if row else None


async def _won(tx: Connection, job_id: UUID, attempt: int) -> Import | None:
    """What was claimed or taken, if it still is: who was frozen before this look must not see another's attempt."""
    job = await show(tx, job_id)
    return job if job is not None and job.attempt == attempt else None


@dataclass(frozen=True)
class Held:
    """A running import that is not in one of my slots, and what is known of its holder."""

    id: UUID
    attempt: int
    crashes: int
    bytes_total: int
    free: bool
    locked: bool
    stale: bool
    restarted: bool
    beat: datetime | None


async def look(tx: Connection, worker: int, mine: list[str], stale_seconds: float) -> list[Held]:
    """Running imports that somebody else should be working on; `mine` lists `id:attempt` of my slots.

    `free`: nobody's, or mine without a slot (the answer to my claim was lost). `locked`: its holder's advisory lock is
    held. `stale`: its holder's beat stopped. `restarted`: Postgres came up after that beat.
    """
    async with tx.cursor(row_factory=class_row(Held)) as cursor:
        await cursor.execute(
            """select i.id, i.attempt, i.crashes, i.bytes_total,
                      i.worker is null or i.worker = %(me)s as free,
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


async def take(tx: Connection, worker: int, seen: Held, *, counted: bool) -> Import | None:
    """Take a running import over, if its attempt and its holder's beat are still those that were seen.

    `counted`: the holder died or froze, rather than let go. The fourth lost attempt in a row that committed no Share
    ends the import as CRASHED. Waits for frozen Lanes (55P03 after a second): end their sessions and call again.
    """
    row = await (
        await tx.execute(
            """update rollcall.imports i
                  set attempt = attempt + 1, crashes = z.crashes,
                      worker = case when z.crashes < %(limit)s then %(me)s end,
                      state = case when z.crashes < %(limit)s then 'running' else 'failed' end,
                      error_code = case when z.crashes >= %(limit)s then 'CRASHED' end,
                      error_message = case when z.crashes >= %(limit)s then
                          format('The worker died %%s times at this file, the last time after record %%s.',
                                 z.crashes, z.last) end,
                      finished_at = case when z.crashes >= %(limit)s then clock_timestamp() end,
                      """
            + COPY_COUNTS
            + """
                 from (select case when not %(counted)s then j.crashes
                                   when exists (select from rollcall.import_parts p
                                                 where p.import_id = j.id and p.attempt = j.attempt) then 1
                                   else j.crashes + 1 end as crashes,
                              (select coalesce(max(p.last), 0) from rollcall.import_parts p
                                where p.import_id = j.id) as last
                         from rollcall.imports j where j.id = %(id)s) z,
                      rollcall.account(%(id)s) p
                where i.id = %(id)s and i.attempt = %(seen)s and i.state = 'running'
                  and (select beat from rollcall.workers w where w.seq = i.worker) is not distinct from %(beat)s
            returning i.id, i.attempt""",
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
    """Write the Plan down, once; False when the import is no longer this attempt's."""
    cursor = await tx.execute(
        "update rollcall.imports set plan = %s where id = %s and attempt = %s and state = 'running' returning 1",
        (Jsonb(plan), job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def fence(tx: Connection, job: Import) -> bool:
    """The first statement of every Share: mine still? Holds the row until the transaction ends (FOR SHARE)."""
    cursor = await tx.execute(
        "select 1 from rollcall.imports where id = %s and attempt = %s and state = 'running' for share",
        (job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def close(tx: Connection, job: Import, total: int) -> bool:
    """Succeed, if the ledger's Records are as many as the reader counted; False otherwise (see `standing`)."""
    cursor = await tx.execute(
        "update rollcall.imports i set state = 'succeeded', worker = null, total = %(total)s, crashes = 0,"
        " finished_at = clock_timestamp(), "
        + COPY_COUNTS
        + """ from rollcall.account(%(id)s) p
             where i.id = %(id)s and i.attempt = %(attempt)s and i.state = 'running' and p.read = %(total)s
              returning pg_notify('rollcall', '')""",
        {"id": job.id, "attempt": job.attempt, "total": total},
    )
    return await cursor.fetchone() is not None


async def fail(tx: Connection, job: Import, code: str, message: str, *, total: int | None = None) -> bool:
    """End it with a reason; what is committed stays and is counted. False when it is no longer this attempt's."""
    cursor = await tx.execute(
        "update rollcall.imports i set state = 'failed', worker = null, error_code = %(code)s,"
        " error_message = %(message)s, total = %(total)s, finished_at = clock_timestamp(), "
        + COPY_COUNTS
        + """ from rollcall.account(%(id)s) p
             where i.id = %(id)s and i.attempt = %(attempt)s and i.state = 'running'
              returning pg_notify('rollcall', '')""",
        {"id": job.id, "attempt": job.attempt, "code": code, "message": message, "total": total},
    )
    return await cursor.fetchone() is not None


async def fail_check(tx: Connection, job: Import, code: str, message: str, *, rejected: int, total: int) -> bool:
    """End an import whose check pass found Rejects: they are counted, nothing else was tried."""
    cursor = await tx.execute(
        """update rollcall.imports set state = 'failed', worker = null, error_code = %s, error_message = %s,
                  total = %s, read = %s, rejected = %s, finished_at = clock_timestamp()
            where id = %s and attempt = %s and state = 'running' returning pg_notify('rollcall', '')""",
        (code, message, total, rejected, rejected, job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def release(tx: Connection, job: Import) -> None:
    """Let go without a verdict: still running, nobody's; the next worker goes on at once."""
    await tx.execute(
        """update rollcall.imports set worker = null where id = %s and attempt = %s and state = 'running'
           returning pg_notify('rollcall', '')""",
        (job.id, job.attempt),
    )


async def standing(tx: Connection, job_id: UUID) -> tuple[State, int] | None:
    """State and attempt, nothing else."""
    row = await (await tx.execute("select state, attempt from rollcall.imports where id = %s", (job_id,))).fetchone()
    return (row[0], row[1]) if row else None


async def cancel(tx: Connection, job_id: UUID) -> None:
    """End it now; what is committed stays and is counted. A final import is left as it is.

    One simple-query string: a single transaction with a snapshot for each statement. The first waits for Shares under
    way, so that the second counts them; one snapshot for both would miss them. After a second it gives up: 55P03, or
    57014 when it waited for one Lane after the other (where Shares overlap, no such wait is long, and none the last).
    """
    async with psycopg.AsyncClientCursor(tx) as cursor:
        await cursor.execute(
            "set local statement_timeout = '1s'; select 1 from rollcall.imports where id = %(id)s for update;"
            " update rollcall.imports i set state = 'cancelled', worker = null, finished_at = clock_timestamp(), "
            + COPY_COUNTS
            + " from rollcall.account(%(id)s) p where i.id = %(id)s"
            " and i.state in ('queued', 'running'); notify rollcall",
            {"id": job_id},
        )


async def retry(tx: Connection, job_id: UUID) -> bool:
    """Queue a failed or cancelled import again; False when it is neither, or its stored file was deleted.

    It goes on after what the ledger has, by the Plan it has. When that is nothing, a new Plan is made, and the Rejects
    of a check pass go. Locks first, as `cancel` does: a snapshot from before its end would miss the last Shares.
    """
    async with psycopg.AsyncClientCursor(tx) as cursor:
        await cursor.execute(
            """select 1 from rollcall.imports where id = %(id)s and state in ('failed', 'cancelled') for update;
               with again as (
                 update rollcall.imports i
                    set state = 'queued', crashes = 0, total = null, error_code = null, error_message = null,
                        started_at = null, finished_at = null, plan = case when p.begun then i.plan end
                   from (select exists (select from rollcall.import_parts where import_id = %(id)s) as begun) p
                  where i.id = %(id)s and i.state in ('failed', 'cancelled')
                    and exists (select from rollcall.segments s where s.upload_id = i.upload_id)
                 returning i.id, p.begun),
               forgotten as (
                 delete from rollcall.rejects r using again a where r.import_id = a.id and not a.begun)
               select pg_notify('rollcall', '') from again""",
            {"id": job_id},
        )
        cursor.nextset()
        return await cursor.fetchone() is not None
