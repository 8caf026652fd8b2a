"""Uploads and their Segments: which bytes arrived and under which keys they lie in the store.

A Segment's row (`pending`) is committed before its object is written, and turns `durable` after: an object without a
row, or a durable row without an object, can only be an accident, and is found.

An Upload that arrives in one request is alive while its process says so (`seen_at`). One that is `pausable` may be
silent: its sender comes again. Either is given up when nothing was heard of it for a day, however old it is.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from psycopg.rows import class_row

from rollcall.database import SENDER_LOCK_CLASS, Connection
from rollcall.errors import UploadFailed
from rollcall.storage import Segment

SENDER_LOCK_WAIT = "10s"


@dataclass(frozen=True)
class Incoming:
    """What a sender says about a file. `created_by`: its API key by name; without keys, None is one sender.

    `name`, `content_type`: of the file, for people only. `idempotency_key`: of this sender, 1 to 255 characters.
    """

    name: str | None = None
    content_type: str | None = None
    created_by: str | None = None
    idempotency_key: str | None = None


@dataclass
class Upload:
    """An Upload that this process appends to: its durable bytes are `length`.

    `sha256` (of hashlib) has taken in exactly those, or is None when another process stored some of them. `keys`: of
    all objects that this process may have written for it.
    """

    id: UUID
    length: int = 0
    sha256: Any = field(default_factory=hashlib.sha256)
    keys: list[str] = field(default_factory=list)
    complete: bool = False


async def create(tx: Connection, upload_id: UUID, incoming: Incoming, *, pausable: bool = False) -> None:
    """An Upload whose bytes begin to arrive. `pausable`: in several requests, with pauses of any length."""
    await tx.execute(
        """insert into rollcall.uploads
             (id, state, name, content_type, created_by, idempotency_key, pausable, created_at)
           values (%s, 'arriving', %s, %s, %s, %s, %s, clock_timestamp())""",
        (upload_id, *_file(incoming), incoming.created_by, incoming.idempotency_key, pausable),
    )


def _file(incoming: Incoming) -> list[str | None]:
    """Name and type, fit for a `text` column: no NUL, no lone surrogates."""
    return [text and "".join(filter(str.isprintable, text))[:255] for text in (incoming.name, incoming.content_type)]


async def resume(tx: Connection, upload_id: UUID) -> tuple[Upload, list[str]] | None:
    """An Upload to be appended to after its durable bytes, and the keys of Segments that were never finished.

    Their rows are gone with this statement: delete the objects when it is committed. None: it is complete, or dropped.
    Whoever calls this has made sure that nobody else appends to it.
    """
    row = await (
        await tx.execute(
            """with unfinished as (
                 delete from rollcall.segments where upload_id = %(id)s and state = 'pending' returning key)
               update rollcall.uploads u set seen_at = clock_timestamp()
                where id = %(id)s and state = 'arriving'
               returning (select coalesce(sum(length), 0)::bigint from rollcall.segments s
                           where s.upload_id = u.id and s.state = 'durable'), array(select key from unfinished)""",
            {"id": upload_id},
        )
    ).fetchone()
    if row is None:
        return None
    return Upload(upload_id, row[0], sha256=None if row[0] else hashlib.sha256()), row[1]


async def lock_sender(tx: Connection, created_by: str | None) -> None:
    """Until the transaction ends nobody else counts what this sender has under way.

    Bursts wait for each other here, longer than for other locks; so the transaction is kept short, and its COMMIT does
    not wait for the disk: what is written next, the first Segment's row, makes it durable too or is refused.
    """
    await tx.execute(
        """select set_config('lock_timeout', %s, true), set_config('synchronous_commit', 'off', true),
                  pg_advisory_xact_lock(%s, hashtext(%s))""",
        (SENDER_LOCK_WAIT, SENDER_LOCK_CLASS, created_by or ""),
    )


async def count_arriving(tx: Connection, created_by: str | None, silence: timedelta) -> int:
    """This sender's Uploads on their way, paused ones too; not those of one request, silent for `silence`."""
    row = await (
        await tx.execute(
            """select count(*) from rollcall.uploads where state = 'arriving' and created_by is not distinct from %s
                  and (pausable or seen_at > clock_timestamp() - %s)""",
            (created_by, silence),
        )
    ).fetchone()
    return int(row[0]) if row else 0


async def touch(tx: Connection, upload_id: UUID) -> None:
    """Its bytes still come."""
    await tx.execute("update rollcall.uploads set seen_at = clock_timestamp() where id = %s", (upload_id,))


async def find_by_idempotency_key(
    tx: Connection, created_by: str | None, idempotency_key: str, life: timedelta
) -> UUID | None:
    """The Upload to which this sender gave this key; one older than `life` loses it."""
    await tx.execute(
        """update rollcall.uploads set idempotency_key = null
            where idempotency_key = %(key)s and (created_by = %(by)s or %(by)s::text is null and created_by is null)
              and state = 'complete' and created_at < clock_timestamp() - %(life)s""",
        {"key": idempotency_key, "by": created_by, "life": life},
    )
    row = await (
        await tx.execute(
            """select id from rollcall.uploads where idempotency_key = %(key)s
                  and (created_by = %(by)s or %(by)s::text is null and created_by is null)""",  # by index, either way
            {"key": idempotency_key, "by": created_by},
        )
    ).fetchone()
    return row[0] if row else None


async def begin_segment(tx: Connection, upload_id: UUID, offset: int, key: str) -> None:
    """A Segment is about to be written under this key. Raises UploadFailed when the Upload was dropped."""
    cursor = await tx.execute(
        """insert into rollcall.segments (upload_id, "offset", key, state)
           select id, %s, %s, 'pending' from rollcall.uploads where id = %s for key share
           returning 1""",
        (offset, key, upload_id),
    )
    _require_row(await cursor.fetchone())


async def finish_segment(tx: Connection, upload_id: UUID, segment: Segment) -> None:
    """A Segment is whole and durable in the store. Raises UploadFailed when the Upload was dropped."""
    cursor = await tx.execute(
        """update rollcall.segments set state = 'durable', length = %s, checksums = %s
            where upload_id = %s and key = %s returning 1""",
        (segment.length, segment.checksums, upload_id, segment.key),
    )
    _require_row(await cursor.fetchone())


async def complete(tx: Connection, upload: Upload, file: Incoming) -> None:
    """All of it has arrived. `file`: its name and type, where only its body told them.

    Raises UploadFailed when the Upload was dropped, or when somebody else has completed it or appended to it.
    """
    name, content_type = _file(file)
    cursor = await tx.execute(
        """update rollcall.uploads u set state = 'complete', length = %(length)s, completed_at = clock_timestamp(),
                  name = coalesce(%(name)s, name), content_type = coalesce(%(type)s, content_type)
            where id = %(id)s and state = 'arriving' and %(length)s = (select coalesce(sum(length), 0)
                  from rollcall.segments s where s.upload_id = u.id and s.state = 'durable')
           returning 1""",
        {"id": upload.id, "length": upload.length, "name": name, "type": content_type},
    )
    _require_row(await cursor.fetchone())


def _require_row(row: object) -> None:
    if row is None:
        raise UploadFailed("The upload was given up while it stood still; nothing was imported. Send it again.")


async def drop(tx: Connection, upload_id: UUID, *, silence: timedelta | None = None) -> list[str] | None:
    """Forget an Upload that never became whole; the keys its Segments may lie under.

    With `silence`, only one of a single request whose process has not been heard of for that long. None: it is
    complete, or alive, and was not touched.
    """
    rows = await (
        await tx.execute(
            """with gone as (delete from rollcall.uploads where id = %(id)s and state = 'arriving'
                   and (%(silence)s::interval is null
                        or not pausable and seen_at < clock_timestamp() - %(silence)s) returning id)
               select s.key from rollcall.segments s join gone on gone.id = s.upload_id""",
            {"id": upload_id, "silence": silence},
        )
    ).fetchall()
    if await (await tx.execute("select from rollcall.uploads where id = %s", (upload_id,))).fetchone() is not None:
        return None
    return [key for (key,) in rows]


async def segments(tx: Connection, upload_id: UUID) -> list[Segment]:
    """The durable Segments in the order of the file."""
    async with tx.cursor(row_factory=class_row(Segment)) as cursor:
        await cursor.execute(
            """select key, "offset", length, checksums from rollcall.segments
                where upload_id = %s and state = 'durable' order by "offset" """,
            (upload_id,),
        )
        return await cursor.fetchall()


async def expire(tx: Connection, age: timedelta, *, limit: int) -> list[str]:
    """Forget the Segments of Uploads (at most `limit`) of which every import is final for `age`; their keys.

    Two statements of one transaction. The first locks Upload and imports: an import that is queued again (`retry` locks
    it), or made of the Upload meanwhile (its foreign key locks the Upload), comes first, or finds no file and is
    refused. The second sees what came first.
    """
    locked = await (
        await tx.execute(
            """select i.id, u.id from rollcall.uploads u join rollcall.imports i on i.upload_id = u.id
                where u.id in (select distinct s.upload_id from rollcall.segments s
                                where exists (select from rollcall.imports e where e.upload_id = s.upload_id)
                                  and not exists (select from rollcall.imports e where e.upload_id = s.upload_id
                                                     and (e.finished_at is null
                                                          or e.finished_at >= clock_timestamp() - %s))
                                limit %s)
                  for update of u, i skip locked""",
            (age, limit),
        )
    ).fetchall()
    rows = await (
        await tx.execute(
            """delete from rollcall.segments s
                where s.upload_id = any(%(uploads)s)
                  and not exists (select from rollcall.imports i where i.upload_id = s.upload_id
                                     and (i.id <> all(%(imports)s) or i.finished_at is null
                                          or i.finished_at >= clock_timestamp() - %(age)s))
               returning s.key""",
            {"age": age, "imports": [row[0] for row in locked], "uploads": list({row[1] for row in locked})},
        )
    ).fetchall()
    return [key for (key,) in rows]


async def abandon(tx: Connection, age: timedelta, *, limit: int) -> list[str]:
    """Forget Uploads (at most `limit`) that never became whole and were not heard of for `age`; their keys."""
    rows = await (
        await tx.execute(
            """with old as materialized (
                 select id from rollcall.uploads where state = 'arriving' and seen_at < clock_timestamp() - %s
                  limit %s for update skip locked),
               gone as (delete from rollcall.uploads u using old where u.id = old.id returning u.id)
               select s.key from rollcall.segments s join gone on gone.id = s.upload_id""",
            (age, limit),
        )
    ).fetchall()
    return [key for (key,) in rows]


async def orphans(tx: Connection, keys: list[str]) -> list[str]:
    """Those keys under which no Segment lies, or is about to."""
    rows = await (
        await tx.execute("select key from unnest(%s::text[]) key except select key from rollcall.segments", (keys,))
    ).fetchall()
    return [key for (key,) in rows]
