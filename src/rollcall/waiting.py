"""Wait for a thread or a clean-up to its end, even when the caller is cancelled meanwhile.

Servers and event loops that stop cancel more than once, so one `asyncio.shield` is not enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `work` in a thread. A cancelled caller gets its CancelledError only after the thread has ended, so it may
    close or delete what the thread used."""
    return await to_the_end(asyncio.to_thread(work, *args, **kwargs))


async def to_the_end(work: Awaitable[T]) -> T:
    """Await `work` without ever cancelling it. A cancelled caller waits for its end, then gets its CancelledError."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise


async def ended(task: asyncio.Future[T]) -> None:
    """Wait until `task` is done, whatever its outcome and however often the caller is cancelled. Raises nothing."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # otherwise asyncio logs "exception was never retrieved"
