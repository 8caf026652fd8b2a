"""Sweep: delete what nobody needs any more, and what an accident left behind.

    stored files     of which every import is final for longer than RETENTION; then retry says: send it again
    rejects          of imports that are final for longer than REJECTS_RETENTION; they stay counted
    uploads          that never became whole and of which nothing was heard for a day
    workers          silent for a day, with no import in hand
    objects          a day old that no row knows

Rows go first, then objects: what a crash leaves between the two is an object that no row knows. Every worker sweeps,
one at a time. Assumes that the store belongs to this database alone.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from rollcall import rejects, uploads, workers
from rollcall.database import SWEEP_LOCK, Connection, Database, lock_alone
from rollcall.storage import Store, is_key

UPLOAD_LIFE = timedelta(hours=24)
"""How long an upload may be silent; an object that is younger may still be about to get its row."""
WORKER_LIFE = timedelta(hours=24)
UPLOADS_AT_ONCE = 100
REJECTS_AT_ONCE = 10_000

log = structlog.get_logger()


async def sweep(database: Database, store: Store, *, retention: timedelta, rejects_retention: timedelta) -> None:
    """Once over everything; nothing while another one is at it. Raises StoreDown and what psycopg raises."""
    async with await database.connect("rollcall:sweep") as tx:
        if not await lock_alone(tx, SWEEP_LOCK):
            return
        done = {"workers": await workers.delete_dead(tx, WORKER_LIFE), "rejects": 0}
        while count := await rejects.expire(tx, rejects_retention, limit=REJECTS_AT_ONCE):
            done["rejects"] += count
        done["files"] = await _delete(store, lambda: _expire(tx, retention))
        done["abandoned"] = await _delete(store, lambda: uploads.abandon(tx, UPLOAD_LIFE, limit=UPLOADS_AT_ONCE))
        done["unknown"] = await _delete_unknown(tx, store)
    if any(done.values()):
        log.info("sweep.done", **done)


async def _expire(tx: Connection, retention: timedelta) -> list[str]:
    async with tx.transaction():
        return await uploads.expire(tx, retention, limit=UPLOADS_AT_ONCE)


async def _delete(store: Store, forget: Callable[[], Awaitable[list[str]]]) -> int:
    """Delete the objects of batch after batch of rows that are gone; how many."""
    count = 0
    while keys := await forget():
        await store.delete_many(keys)
        count += len(keys)
    return count


async def _delete_unknown(tx: Connection, store: Store) -> int:
    count = 0
    async for keys in store.list(older_than=UPLOAD_LIFE):
        unknown = await uploads.orphans(tx, [key for key in keys if is_key(key)])
        await store.delete_many(unknown)
        count += len(unknown)
    return count
