"""Portions: what the Parts have for one Lane, and where they wait until they become a Share.

A Share takes what waits, up to a limit. So it grows while the reader is ahead of the Lane: the more rows a Lane brings
at a time, the more of them lie side by side in the index, and the less each of them costs. Memory: per Lane one Share
and one Portion. Nothing is loaded here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from rollcall.records import Part, deal

ROWS, BYTES = 50_000, 16 << 20
"""No more Portions become a Share than have its part of so many Contacts and, with the Rejects, of so many bytes; but
always one. What all Lanes together may have, so that memory does not grow with their number."""


@dataclass(frozen=True)
class Portion:
    """What a Part has for one Lane: its Contacts; for Lane 0 the Part's Rejects as well."""

    first: int
    last: int
    position: int
    contacts: pa.Table
    rejects: pa.Table

    def after(self, record: int) -> Portion:
        """Its Records behind this one."""
        behind = pc.field("record") > record
        return replace(self, contacts=self.contacts.filter(behind), rejects=self.rejects.filter(behind))


class Portions:
    """Those of one of so many `lanes`, in file order. Records up to number `after` are loaded already."""

    def __init__(self, *, after: int, lanes: int) -> None:
        self._after, self._lanes = after, lanes
        self._waiting, self._ended = list[Portion](), False
        self._changed = asyncio.Condition()

    async def put(self, portion: Portion) -> None:
        """Let it wait."""
        if portion.first <= self._after:
            portion = portion.after(self._after)
        if portion.last > self._after:
            async with self._changed:
                self._waiting.append(portion)
                self._changed.notify_all()

    async def end(self) -> None:
        """There are no more."""
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def room(self) -> None:
        """Returns when no more waits than will become one Share."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._fitting() == len(self._waiting))

    async def take(self) -> list[Portion]:
        """Those of the next Share; none at the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._waiting or self._ended)
            count = self._fitting()
            taken, self._waiting = self._waiting[:count], self._waiting[count:]
            self._changed.notify_all()
        return taken

    def _fitting(self) -> int:
        """How many of those that wait will become one Share."""
        rows = np.cumsum([each.contacts.num_rows for each in self._waiting])
        size = np.cumsum([each.contacts.nbytes + each.rejects.nbytes for each in self._waiting])
        fit = np.count_nonzero((rows <= ROWS // self._lanes) & (size <= BYTES // self._lanes))
        return max(int(fit), min(1, len(self._waiting)))


async def give(part: Part, begins: Sequence[str], lanes: Sequence[Portions]) -> None:
    """Deal a Part to the Lanes, which begin there; returns when there is room for the next one."""
    dealt = [part.contacts] if len(lanes) == 1 else await asyncio.to_thread(deal, part.contacts, begins)
    for number, (portions, contacts) in enumerate(zip(lanes, dealt, strict=True)):
        rejects = part.rejects if number == 0 else part.rejects.slice(0, 0)
        await portions.put(Portion(part.first, part.last, part.position, contacts, rejects))
    for portions in lanes:
        await portions.room()
