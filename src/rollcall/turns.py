"""A sender's requests to begin an upload take turns in this process, before any of them takes a connection.

The database makes them wait for each other too (`uploads.lock_sender`, for the sake of other processes), but there each
waits with a connection of the pool in its hand: a burst of one sender would leave none to anybody else.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

from rollcall.errors import Busy

TURN_SECONDS = 10.0
"""How long a request waits for its turn: as long as the database lets it wait for other processes."""
_turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
"""The lock of each sender, for as long as one of its requests has it or waits for it."""


@asynccontextmanager
async def turn(sender: str | None) -> AsyncGenerator[None, None]:
    """Inside the block this request is the only one of its sender. Raises Busy when those before it take too long."""
    lock = _turns.setdefault(sender or "", asyncio.Lock())
    try:
        async with asyncio.timeout(TURN_SECONDS):
            await lock.acquire()
    except TimeoutError as error:
        raise Busy from error
    try:
        yield
    finally:
        lock.release()
