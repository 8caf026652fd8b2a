"""Wait for work that may not be left alone: a thread, or a clean-up, that goes on when its caller is cancelled.

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
    """Run `work` in a thread. A caller that is cancelled gets its CancelledError only when the thread has ended, so it
    may close or remove what the thread was using."""
    return await to_the_end(asyncio.to_thread(work, *args, **kwargs))


async def to_the_end(work: Awaitable[T]) -> T:
    """Await `work`, which itself is never cancelled; a caller that is cancelled meanwhile waits for its end."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await ended(task)
        raise


async def ended(task: asyncio.Future[T]) -> None:
    """Wait until `task` is done, whatever its outcome and however often the caller is cancelled meanwhile."""
    while not task.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if not task.cancelled():
        task.exception()  # seen: asyncio logs no "exception was never retrieved"
