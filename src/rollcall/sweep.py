"""Sweep: delete what nobody needs any more, and what an accident left behind.

    stored files     of which every import is final for longer than RETENTION; then retry says: send it again
    rejects          of imports that are final for longer than REJECTS_RETENTION; they stay counted
    imports          that are final for longer than IMPORTS_RETENTION, with their ledger and upload; and revoked keys
    uploads          that never became whole and of which nothing was heard for a day
    workers          silent for a day, with no import in hand
    objects          a day old that no row knows

Rows go first, then objects: what a crash leaves between the two is an object that no row knows. Every worker sweeps,
one at a time. Times are told by the database's clock. When it says that more than an hour passed between two sweeps, it
may have been set forward: one hour is believed, and what was there before is kept for the rest of its time. Assumes
that the store belongs to this database alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from itertools import pairwise

import structlog

from rollcall import imports, keys, rejects, uploads, workers
from rollcall.database import SWEEP_LOCK, Connection, Dialler, lock_alone
from rollcall.storage import Store, is_key

UPLOAD_LIFE = timedelta(hours=24)
"""How long an upload may be silent; an object that is younger may still be about to get its row."""
WORKER_LIFE = timedelta(hours=24)
BELIEVED = timedelta(hours=1)
"""What can have passed between two sweeps at most; workers sweep every few minutes."""
UPLOADS_AT_ONCE = 100
REJECTS_AT_ONCE = 10_000
IMPORTS_AT_ONCE = 1_000
ENDS_AT_ONCE = 50_000

Span = tuple[datetime, datetime]

log = structlog.get_logger()


async def sweep(
    database: Dialler,
    store: Store,
    *,
    retention: timedelta,
    rejects_retention: timedelta,
    imports_retention: timedelta,
) -> None:
    """Once over everything; nothing while another one is at it. Raises StoreDown and what psycopg raises."""
    async with await database.connect("rollcall:sweep") as tx:
        if not await lock_alone(tx, SWEEP_LOCK):
            return
        spans = await _note(tx)
        imports_age, files_age, rejects_age, upload_age = (
            _believed(age, spans)
            for age in (
                imports_retention,
                min(retention, imports_retention),
                min(rejects_retention, imports_retention),
                UPLOAD_LIFE,
            )
        )
        done = {"workers": await workers.delete_dead(tx, WORKER_LIFE), "rejects": 0, "imports": 0}
        while count := await rejects.expire(tx, rejects_age, limit=REJECTS_AT_ONCE):
            done["rejects"] += count
        done["files"] = await _delete(store, lambda: _expire(tx, files_age))
        while count := await imports.expire(tx, imports_age, limit=IMPORTS_AT_ONCE):
            done["imports"] += count
        done["keys"] = await keys.expire(tx, imports_age)
        await imports.sum_up(tx, limit=ENDS_AT_ONCE)
        done["abandoned"] = await _delete(store, lambda: uploads.abandon(tx, upload_age, limit=UPLOADS_AT_ONCE))
        done["unknown"] = await _delete_unknown(tx, store)
    if any(done.values()):
        log.info("sweep.done", **done)


async def _expire(tx: Connection, retention: timedelta) -> list[str]:
    async with tx.transaction():
        return await uploads.expire(tx, retention, limit=UPLOADS_AT_ONCE)


async def _note(tx: Connection) -> list[Span]:
    """Write down that a sweep begins; the spans of time in which sweeps followed within an hour, latest first.

    Spans that begin in the future are forgotten: the clock was set forward, and is set back.
    """
    async with tx.transaction():
        await tx.execute("delete from rollcall.sweeps where began > clock_timestamp()")
        kept = await tx.execute(
            """update rollcall.sweeps set seen = clock_timestamp()
                where began = (select max(began) from rollcall.sweeps) and seen > clock_timestamp() - %s""",
            (BELIEVED,),
        )
        if not kept.rowcount:
            await tx.execute("insert into rollcall.sweeps select now, now from clock_timestamp() now")
        return await (await tx.execute("select began, seen from rollcall.sweeps order by began desc")).fetchall()


def _believed(age: timedelta, spans: list[Span]) -> timedelta:
    """What the clock says of something that was there for `age`, if only an hour passed between two spans.

    Something that began in the latest span is just that old.
    """
    now = spans[0][1]
    for (began, _), (_, seen) in pairwise(spans):
        if now - began < age:
            age += began - seen - BELIEVED
    return age


async def _delete(store: Store, forget: Callable[[], Awaitable[list[str]]]) -> int:
    """Delete the objects of batch after batch of rows that are gone; how many."""
    count = 0
    while keys := await forget():
        await store.delete_many(keys)
        count += len(keys)
    return count


async def _delete_unknown(tx: Connection, store: Store) -> int:
    count = 0
    async for found in store.list(older_than=UPLOAD_LIFE):
        unknown = await uploads.orphans(tx, [key for key in found if is_key(key)])
        await store.delete_many(unknown)
        count += len(unknown)
    return count
