"""An attempt that stands still is ended: whatever the reason, nothing loops or waits for ever.

It progresses while bytes are read, Parts come or batches are committed. A database or a store that is away is given up
before (`retries`). What cannot be ended, such as a thread that does not return, is left alone: it holds its slot's
thread until the process ends.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from rollcall import liveness
from rollcall.errors import NoProgress
from rollcall.telemetry import Timings, timings

LOOKS = 10
"""Looks in that time."""

_left: set[asyncio.Task[None]] = set()
"""Of what could not be ended; a task that nobody holds may vanish."""


async def while_it_progresses(work: Coroutine[Any, Any, None]) -> None:
    """Do the work. Raises NoProgress, what it raises, and CancelledError once it has ended."""
    task, seen, since = asyncio.ensure_future(work), _reached(timings()), time.monotonic()
    try:
        while not (await asyncio.wait([task], timeout=liveness.NO_PROGRESS_SECONDS / LOOKS))[0]:
            if (now := _reached(timings())) != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= liveness.NO_PROGRESS_SECONDS:
                raise NoProgress
    except NoProgress:
        task.cancel()
        _left.add(task)
        task.add_done_callback(_forget)
        raise
    except asyncio.CancelledError:
        task.cancel()
        await asyncio.wait([task])
        raise
    task.result()


def _forget(task: asyncio.Task[None]) -> None:
    _left.discard(task)
    if not task.cancelled():
        task.exception()


def _reached(of: Timings) -> tuple[float, ...]:
    return of.last, of.bytes, of.reads, of.stages["commit"]
