"""Read a stored file's Parts in a thread, one ahead of those who load them: parsing runs beside loading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, asynccontextmanager

from rollcall import storage
from rollcall.errors import Draining
from rollcall.records import Part, Plan, parts
from rollcall.storage import Segment, Store


@asynccontextmanager
async def reading(
    store: Store, segments: list[Segment], plan: Plan, *, after: int, draining: asyncio.Event
) -> AsyncGenerator[AsyncGenerator[Part, None], None]:
    """The Parts that end after Record `after`. Iterating raises Unreadable, StoreDown, and Draining once it is set."""
    with storage.whole(store, segments) as stream:
        async with aclosing(_ahead(parts(stream, plan, after=after), draining)) as coming:
            yield coming


async def _ahead(source: Iterator[Part], draining: asyncio.Event) -> AsyncGenerator[Part, None]:
    coming = asyncio.create_task(asyncio.to_thread(next, source, None))
    try:
        while (part := await asyncio.shield(coming)) is not None:
            coming = asyncio.create_task(asyncio.to_thread(next, source, None))
            yield part
            if draining.is_set():
                raise Draining
    finally:
        await asyncio.wait([coming])  # the thread has to leave the stream before it is closed
        coming.exception()
