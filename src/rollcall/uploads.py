"""Uploads and their Segments: which bytes arrived and under which keys they lie in the store.

A Segment's row (`pending`) is committed before its object is written, and turns `durable` after: an object without a
row, or a durable row without an object, can only be an accident, and is found.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from psycopg.rows import class_row

from rollcall.database import SENDER_LOCK_CLASS, Connection
from rollcall.errors import UploadFailed
from rollcall.storage import Segment


async def create(
    tx: Connection,
    upload_id: UUID,
    *,
    name: str | None,
    content_type: str | None,
    created_by: str | None = None,
    idempotency_key: str | None = None,
) -> None:
    """An Upload whose bytes begin to arrive; `name` is what the sender calls the file, for people only."""
    await tx.execute(
        """insert into rollcall.uploads (id, state, name, content_type, created_by, idempotency_key, created_at)
           values (%s, 'arriving', %s, %s, %s, %s, clock_timestamp())""",
        (upload_id, name, content_type, created_by, idempotency_key),
    )


async def lock_sender(tx: Connection, created_by: str | None) -> None:
    """Until the transaction ends nobody else counts what this sender has under way."""
    await tx.execute("select pg_advisory_xact_lock(%s, hashtext(%s))", (SENDER_LOCK_CLASS, created_by or ""))


async def count_arriving(tx: Connection, created_by: str | None, silence: timedelta) -> int:
    """This sender's Uploads on their way; without those not seen for so long, whose process is gone."""
    row = await (
        await tx.execute(
            """select count(*) from rollcall.uploads where state = 'arriving' and created_by is not distinct from %s
                  and seen_at > clock_timestamp() - %s""",
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
            where created_by is not distinct from %s and idempotency_key = %s and state = 'complete'
              and created_at < clock_timestamp() - %s""",
        (created_by, idempotency_key, life),
    )
    row = await (
        await tx.execute(
            "select id from rollcall.uploads where created_by is not distinct from %s and idempotency_key = %s",
            (created_by, idempotency_key),
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
            where upload_id = %s and "offset" = %s returning 1""",
        (segment.length, segment.checksums, upload_id, segment.offset),
    )
    _require_row(await cursor.fetchone())


async def complete(tx: Connection, upload_id: UUID, length: int) -> None:
    """All of it has arrived. Raises UploadFailed when the Upload was dropped."""
    cursor = await tx.execute(
        """update rollcall.uploads set state = 'complete', length = %s, completed_at = clock_timestamp()
            where id = %s returning 1""",
        (length, upload_id),
    )
    _require_row(await cursor.fetchone())


def _require_row(row: object) -> None:
    if row is None:
        raise UploadFailed("The upload was given up while it stood still; nothing was imported. Send it again.")


async def drop(tx: Connection, upload_id: UUID, *, silence: timedelta | None = None) -> list[str] | None:
    """Forget an Upload that never became whole, if it was not seen for so long; the keys its Segments may lie under.

    None: it is complete, or was seen, and was not touched.
    """
    rows = await (
        await tx.execute(
            """with gone as (delete from rollcall.uploads where id = %(id)s and state = 'arriving'
                   and (%(silence)s::interval is null or seen_at < clock_timestamp() - %(silence)s) returning id)
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
    """Forget the Segments of imports (at most `limit`) that are final for so long; the keys they lie under.

    Locks the imports, as retry does: one that is queued again keeps its file, or has none and is refused.
    """
    rows = await (
        await tx.execute(
            """with old as materialized (
                 select i.upload_id from rollcall.imports i
                  where i.state in ('succeeded', 'failed', 'cancelled') and i.finished_at < clock_timestamp() - %s
                    and i.upload_id in (select upload_id from rollcall.segments)
                  limit %s for update of i skip locked)
               delete from rollcall.segments s using old where s.upload_id = old.upload_id returning s.key""",
            (age, limit),
        )
    ).fetchall()
    return [key for (key,) in rows]


async def abandon(tx: Connection, age: timedelta, *, limit: int) -> list[str]:
    """Forget Uploads (at most `limit`) that began so long ago and never became whole; the keys they may lie under."""
    rows = await (
        await tx.execute(
            """with old as materialized (
                 select id from rollcall.uploads where state = 'arriving' and created_at < clock_timestamp() - %s
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
