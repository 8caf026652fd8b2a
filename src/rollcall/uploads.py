"""Uploads and their Segments: which bytes arrived and under which keys they lie in the store.

A Segment's row (`pending`) is committed before its object is written, and turns `durable` after: an object without a
row, or a durable row without an object, can only be an accident, and is found.
"""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID

from psycopg.rows import class_row

from rollcall.database import SENDER_LOCK_CLASS, Connection
from rollcall.storage import Segment


async def create(
    tx: Connection, upload_id: UUID, *, name: str | None, content_type: str | None, created_by: str | None = None
) -> None:
    """An Upload whose bytes begin to arrive; `name` is what the sender calls the file, for people only."""
    await tx.execute(
        """insert into rollcall.uploads (id, state, name, content_type, created_by, created_at)
           values (%s, 'arriving', %s, %s, %s, clock_timestamp())""",
        (upload_id, name, content_type, created_by),
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


async def see(tx: Connection, upload_id: UUID) -> None:
    """Its bytes still come."""
    await tx.execute("update rollcall.uploads set seen_at = clock_timestamp() where id = %s", (upload_id,))


async def announce(tx: Connection, upload_id: UUID, offset: int, key: str) -> None:
    """A Segment is about to be written under this key."""
    await tx.execute(
        """insert into rollcall.segments (upload_id, "offset", key, state) values (%s, %s, %s, 'pending')""",
        (upload_id, offset, key),
    )


async def keep(tx: Connection, upload_id: UUID, segment: Segment) -> None:
    """A Segment is whole and durable in the store."""
    await tx.execute(
        """update rollcall.segments set state = 'durable', length = %s, sha256 = %s
            where upload_id = %s and "offset" = %s""",
        (segment.length, segment.sha256, upload_id, segment.offset),
    )


async def complete(tx: Connection, upload_id: UUID, length: int) -> None:
    """All of it has arrived."""
    await tx.execute(
        """update rollcall.uploads set state = 'complete', length = %s, completed_at = clock_timestamp()
            where id = %s""",
        (length, upload_id),
    )


async def drop(tx: Connection, upload_id: UUID) -> list[str]:
    """Forget an Upload that never became whole; the keys its Segments may lie under. A complete one is not touched."""
    rows = await (
        await tx.execute(
            """with gone as (delete from rollcall.uploads where id = %s and state = 'arriving' returning id)
               select s.key from rollcall.segments s join gone on gone.id = s.upload_id""",
            (upload_id,),
        )
    ).fetchall()
    return [key for (key,) in rows]


async def segments(tx: Connection, upload_id: UUID) -> list[Segment]:
    """The durable Segments in the order of the file."""
    async with tx.cursor(row_factory=class_row(Segment)) as cursor:
        await cursor.execute(
            """select key, "offset", length, sha256 from rollcall.segments
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


async def unknown(tx: Connection, keys: list[str]) -> list[str]:
    """Those keys under which no Segment lies, or is about to."""
    rows = await (
        await tx.execute("select key from unnest(%s::text[]) key except select key from rollcall.segments", (keys,))
    ).fetchall()
    return [key for (key,) in rows]
