"""Read a stored file's Parts, each in a thread: parsing runs beside the loading of those before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from contextvars import ContextVar
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc

from rollcall.errors import Draining, ObjectCorrupt
from rollcall.records import Part, Plan, parts
from rollcall.storage import Segment, Store, open_segments
from rollcall.telemetry import add_seconds, timings
from rollcall.waiting import in_thread

REREAD_PART_RECORDS = 5_000
"""Records of a Part for those who only want its Rejects: a third of the memory, and little more time."""


PART_READ: ContextVar[Callable[[int], None]] = ContextVar("part_read")
"""Whom this task tells of every Part that is read: how many bytes it takes as columns."""


@asynccontextmanager
async def open_parts(
    store: Store, segments: list[Segment], bytes_total: int, plan: Plan, *, after: int, draining: asyncio.Event
) -> AsyncGenerator[AsyncGenerator[Part, None], None]:
    """The Parts that end after Record `after`. Iterating raises Unreadable, StoreDown, and Draining once it is set."""
    timings().after = timings().last = after
    with open_segments(store, segments, bytes_total) as stream:
        timed = _TimedStream(stream, draining if after else None)
        source = parts(cast(BinaryIO, timed), plan, after=after)
        async with aclosing(_read_parts(source, timed, draining)) as coming:
            yield coming


async def _read_parts(
    source: Iterator[Part], timed: _TimedStream, draining: asyncio.Event
) -> AsyncGenerator[Part, None]:
    while (part := await in_thread(_next_part, source, timed)) is not None:
        timings().last, timings().bytes = part.last, part.position
        timed.draining = None  # from here on, what was read is loaded first
        if read := PART_READ.get(None):
            read(part.contacts.nbytes + part.rejects.nbytes)
        yield part
        if draining.is_set():
            raise Draining


async def reread_rejects(
    store: Store, segments: list[Segment], bytes_total: int, plan: Plan, *, until: int, cpu_slots: asyncio.Semaphore
) -> AsyncGenerator[pa.Table, None]:
    """The Rejects among the first `until` Records, as they were found when the file was loaded, Part by Part.

    Nothing is read ahead, Parts are small, and each is read in its `cpu_slots`: many takers, slow ones too, need little
    memory. Raises Unreadable, StoreDown.
    """
    with open_segments(store, segments, bytes_total) as stream:
        source, reached = parts(stream, plan, part_records=REREAD_PART_RECORDS), 0
        while reached < until:
            async with cpu_slots:
                reached, found = await in_thread(_next_rejects, source, until)
            yield found


def _next_rejects(source: Iterator[Part], until: int) -> tuple[int, pa.Table]:
    part = next(source, None)
    if part is None:
        raise ObjectCorrupt
    return part.last, part.rejects.filter(pc.less_equal(part.rejects["record"], pa.scalar(until)))


class _TimedStream:
    """A stream that knows how many seconds were spent on reading it; while `draining` is given, that may stop it.

    An import that goes on late in a long file first reads past what is loaded: it must not hear of a drain only then.
    """

    def __init__(self, stream: BinaryIO, draining: asyncio.Event | None) -> None:
        self._stream, self.draining, self.seconds = stream, draining, 0.0

    def read(self, size: int = -1, /) -> bytes:
        if self.draining is not None and self.draining.is_set():
            raise Draining
        began = time.perf_counter()
        timings().reads += 1
        try:
            return self._stream.read(size)
        finally:
            self.seconds += time.perf_counter() - began


def _next_part(source: Iterator[Part], timed: _TimedStream) -> Part | None:
    """The next Part; what of its time is neither the store's nor the rules' is the parser's."""
    began, stored, part = time.perf_counter(), timed.seconds, None
    try:
        part = next(source, None)
        return part
    finally:
        store, rules = timed.seconds - stored, part.rules_seconds if part else 0.0
        add_seconds("store", store)
        add_seconds("rules", rules)
        add_seconds("parse", time.perf_counter() - began - store - rules)
