"""What an import is, and the statements that anybody may say: create, show, list."""

from __future__ import annotations

import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Literal, LiteralString
from uuid import UUID

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from rollcall.database import Connection

State = Literal["queued", "running", "succeeded", "failed", "cancelled"]
FINAL: frozenset[State] = frozenset({"succeeded", "failed", "cancelled"})


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
class Progress:
    """What changes while an import runs. `position`: bytes read; `ahead`: imports of its source that come first."""

    id: UUID
    state: State
    attempt: int
    total: int | None
    planned: bool
    read: int
    created: int
    updated: int
    unchanged: int
    skipped: int
    duplicate: int
    rejected: int
    error_code: str | None
    position: int
    ahead: int


@dataclass(frozen=True)
class Import:
    """One row. The counts come from the ledger until the state is final; `position` is the bytes read so far.

    `file_name`: as its sender named it, if at all. `sha256`: of the whole stored file. `same_file_as`: the latest
    import before it of the same bytes for this Source.
    `error_code`, `error_message`: why it failed; of a running one, why it was let go, until something is committed.
    """

    id: UUID
    seq: int
    source: str
    upload_id: UUID
    file_name: str | None
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
    by_code: dict[str, int]
    total: int | None
    error_code: str | None
    error_message: str | None
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    position: int = 0
    ahead: int = 0
    planned: bool = False

    @property
    def progress(self) -> Progress:
        return Progress(**{field.name: getattr(self, field.name) for field in fields(Progress)})

    @property
    def counts(self) -> Counts:
        return Counts(**{field.name: getattr(self, field.name) for field in fields(Counts)})

    @property
    def pace(self) -> tuple[float | None, int | None]:
        """Records a second since it began, and seconds that the rest of its bytes will take; None when not known."""
        if self.started_at is None:
            return None, None
        seconds = ((self.finished_at or datetime.now(UTC)) - self.started_at).total_seconds()
        if seconds <= 0:
            return None, None
        running = self.state == "running" and self.position > 0
        eta = round(seconds * (self.bytes_total - self.position) / self.position) if running else None
        return round(self.read / seconds, 1), eta


FIGURES: LiteralString = """
       i.id, i.state, i.attempt, i.total, i.plan is not null as planned,
       coalesce(p.read, i.read)::bigint as read, coalesce(p.created, i.created)::bigint as created,
       coalesce(p.updated, i.updated)::bigint as updated, coalesce(p.unchanged, i.unchanged)::bigint as unchanged,
       coalesce(p.skipped, i.skipped)::bigint as skipped, coalesce(p.duplicate, i.duplicate)::bigint as duplicate,
       coalesce(p.rejected, i.rejected)::bigint as rejected,
       case when w.waits then i.error_code end as error_code,
       case when p.position is not null then p.position when i.total is not null then i.bytes_total
            else coalesce((select max(d.position) from rollcall.import_parts d where d.import_id = i.id), 0)
        end::bigint as position,
       case when i.state = 'queued' then (select count(*) from rollcall.imports e where e.source = i.source
             and (e.state = 'running' or e.state = 'queued' and e.seq < i.seq)) else 0 end as ahead
"""
"""What changes while an import runs: the members of Progress."""
REST: LiteralString = """
       i.seq, i.source, i.upload_id, i.bytes_total, i.sha256, i.crashes, i.worker,
       coalesce(p.by_code, i.by_code) as by_code, i.created_by, i.created_at, i.started_at, i.finished_at,
       (select left(u.name, 255) from rollcall.uploads u where u.id = i.upload_id) as file_name,
       (select e.id from rollcall.imports e where e.source = i.source and e.sha256 = i.sha256 and e.seq < i.seq
         order by e.seq desc limit 1) as same_file_as
"""
FROM: LiteralString = """
  from rollcall.imports i
  left join lateral rollcall.account(i.id) p on i.state in ('queued', 'running')
  cross join lateral (select i.state <> 'running' or not exists (select from rollcall.import_parts d
                         where d.import_id = i.id and d.attempt = i.attempt) as waits) w
"""
SHOWN: LiteralString = f"""
select {FIGURES}, {REST}, i.options, i.plan, case when w.waits then i.error_message end as error_message {FROM}"""
OUTLINE: LiteralString = f"""
select {FIGURES}, {REST},
       (select coalesce(jsonb_object_agg(m.key, case when octet_length(m.value::text) <= %(bytes)s then m.value end),
                        '{{}}') from jsonb_each(i.options) m) as options,
       (select jsonb_object_agg(m.key, case when octet_length(m.value::text) <= %(bytes)s then m.value end)
          from jsonb_each(i.plan) m) as plan,
       case when w.waits then left(i.error_message, 2000) end as error_message {FROM}"""
"""As SHOWN, but bounded: a member of `options` or `plan` that is longer than `bytes` is null."""


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


async def outline(tx: Connection, job_ids: Collection[UUID], *, member_bytes: int) -> list[Import]:
    """Some imports as they stand now, for people. Members of `options` and `plan` above `member_bytes` are None."""
    async with tx.cursor(row_factory=class_row(Import)) as cursor:
        await cursor.execute(OUTLINE + " where i.id = any(%(ids)s)", {"ids": list(job_ids), "bytes": member_bytes})
        return await cursor.fetchall()


async def progress(tx: Connection, job_ids: Collection[UUID]) -> list[Progress]:
    """How far these imports are; those that are gone are left out."""
    async with tx.cursor(row_factory=class_row(Progress)) as cursor:
        await cursor.execute("select " + FIGURES + FROM + " where i.id = any(%s)", (list(job_ids),))
        return await cursor.fetchall()


async def of_upload(tx: Connection, upload_id: UUID) -> Import | None:
    """The first one that was made of this Upload, as it stands now."""
    async with tx.cursor(row_factory=class_row(Import)) as cursor:
        await cursor.execute(SHOWN + " where i.upload_id = %s order by i.seq limit 1", (upload_id,))
        return await cursor.fetchone()


async def page(
    tx: Connection,
    *,
    source: str | None,
    state: str | None,
    before: int | None,
    limit: int,
    member_bytes: int,
    sources: list[str] | None = None,
) -> list[Import]:
    """Newest first; `before` is the `seq` of the last one seen. `sources`: of these only; None: of all.

    Members of `options` and `plan` above `member_bytes` are None.
    """
    async with tx.cursor(row_factory=class_row(Import)) as cursor:
        await cursor.execute(
            OUTLINE
            + """ where (%(source)s::text is null or i.source = %(source)s)
                    and (%(sources)s::text[] is null or i.source = any(%(sources)s))
                    and (%(state)s::text is null or i.state = %(state)s)
                    and (%(before)s::bigint is null or i.seq < %(before)s)
                  order by i.seq desc limit %(limit)s""",
            {
                "source": source,
                "sources": sources,
                "state": state,
                "before": before,
                "limit": limit,
                "bytes": member_bytes,
            },
        )
        return await cursor.fetchall()


async def state_and_attempt(tx: Connection, job_id: UUID) -> tuple[State, int] | None:
    """State and attempt, nothing else."""
    row = await (await tx.execute("select state, attempt from rollcall.imports where id = %s", (job_id,))).fetchone()
    return (row[0], row[1]) if row else None
