"""What one attempt at an import works with, and how it talks to the database: `Attempt`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import BinaryIO, TypeVar

from rollcall import ledger
from rollcall.database import Connection, Dialler
from rollcall.imports import Import
from rollcall.loading.part_reader import open_parts
from rollcall.loading.retries import with_retries
from rollcall.options import Options
from rollcall.records import Part, Plan
from rollcall.storage import Segment, Store, open_segments

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Attempt:
    """One attempt: the import, its stored file, and with what it is worked on."""

    job: Import
    options: Options
    segments: list[Segment]
    database: Dialler
    store: Store
    draining: asyncio.Event
    rejects_max: int

    async def ask(self, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
        """Do work that is safe to do twice, until the database answers (`with_retries`)."""
        return await with_retries(self.database, self.job, work)

    async def positions(self, loaders: int) -> list[int]:
        """The last Record that each loader has committed."""
        return await self.ask(lambda tx: ledger.positions(tx, self.job.id, loaders))

    def open_file(self) -> BinaryIO:
        """The stored file, from its first byte (`open_segments`)."""
        return open_segments(self.store, self.segments, self.job.bytes_total)

    def parts(self, plan: Plan, *, after: int) -> AbstractAsyncContextManager[AsyncGenerator[Part, None]]:
        """The Parts of the file that end after this Record (`open_parts`)."""
        return open_parts(self.store, self.segments, self.job.bytes_total, plan, after=after, draining=self.draining)
