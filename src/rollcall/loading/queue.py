"""queued rows: what the Parts have for one loader, and where they wait until they become a batch.

A batch takes what waits, up to a limit. So it grows while the reader is ahead of the loader: the more rows a loader
brings at a time, the more of them lie side by side in the index, and the less each of them costs. Memory: per loader
one batch and one queued rows. Nothing is loaded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from rollcall.loading.partition import Deal
from rollcall.records import Part

BATCH_ROWS, BATCH_BYTES = 50_000, 16 << 20
"""No more queued rows become a batch than have its part of so many Contacts and, with the Rejects, of so many bytes;
but always one. What all loaders together may have, so that memory does not grow with their number."""


@dataclass(frozen=True)
class QueuedRows:
    """What a Part has for one loader: its Contacts; for loader 0 the Part's Rejects as well."""

    first: int
    last: int
    position: int
    contacts: pa.Table
    rejects: pa.Table


class LoaderQueue:
    """Those of one of so many `loaders`, in file order."""

    def __init__(self, *, loaders: int) -> None:
        self._loaders = loaders
        self._waiting, self._ended = list[QueuedRows](), False
        self._changed = asyncio.Condition()

    async def put(self, portion: QueuedRows) -> None:
        """Let it wait."""
        async with self._changed:
            self._waiting.append(portion)
            self._changed.notify_all()

    async def end(self) -> None:
        """There are no more."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def wait_for_room(self) -> None:
        """Returns when no more waits than will become one batch."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._count_fitting() == len(self._waiting))

    async def take(self) -> list[QueuedRows]:
        """Those of the next batch; none at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            count = self._count_fitting()
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._changed.notify_all()
        return taken

    def _count_fitting(self) -> int:
        """How many of those that wait will become one batch."""
        rows = np.cumsum([each.contacts.num_rows for each in self._waiting])
        size = np.cumsum([each.contacts.nbytes + each.rejects.nbytes for each in self._waiting])
        fit = np.count_nonzero((rows <= BATCH_ROWS // self._loaders) & (size <= BATCH_BYTES // self._loaders))
        return max(int(fit), min(1, len(self._waiting)))


async def distribute(part: Part, deal: Deal, loaders: Sequence[LoaderQueue]) -> None:
    """Deal a Part to the loaders; returns when there is room for the next one."""
    dealt = [part.contacts] if len(loaders) == 1 else await asyncio.to_thread(deal, part.contacts)
    for number, (portions, contacts) in enumerate(zip(loaders, dealt, strict=True)):
        rejects = part.rejects if number == 0 else part.rejects.slice(0, 0)
        await portions.put(QueuedRows(part.first, part.last, part.position, contacts, rejects))
    for portions in loaders:
        await portions.wait_for_room()
