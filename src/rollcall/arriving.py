"""Say that the Uploads which arrive in this process are alive: one statement for all of them, however many they are.

One statement each would be a hundred a second for 500 slow clients, and an honest one would wait behind them for a
connection to the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

from rollcall import liveness, uploads
from rollcall.errors import Unavailable
from rollcall.pool import Pool

_ARRIVING: dict[Pool, tuple[set[UUID], asyncio.Task[None]]] = {}


@asynccontextmanager
async def alive(database: Pool, upload_id: UUID) -> AsyncGenerator[None, None]:
    """Say that this Upload is alive while the block runs. A database that is down is no error here."""
    if database not in _ARRIVING:
        started = set[UUID]()
        _ARRIVING[database] = started, asyncio.create_task(_say(database, started))
    arriving, saying = _ARRIVING[database]
    arriving.add(upload_id)
    try:
        yield
    finally:
        arriving.discard(upload_id)
        if not arriving:
            del _ARRIVING[database]
            saying.cancel()
            await asyncio.gather(saying, return_exceptions=True)


async def _say(database: Pool, arriving: set[UUID]) -> None:
    while True:
        await asyncio.sleep(liveness.BEAT_SECONDS)
        with suppress(Unavailable):  # bytes are stored without it
            async with database.session() as tx:
                await uploads.touch(tx, arriving)
