"""What a worker runs beside what: small imports never wait behind large ones, nor one sender behind another.

    one large import      above LARGE_BYTES, or found to be so by what is read of it, however small it is stored
    four fifths at most   of the slots for imports above SMALL_BYTES, and for those of one API key

Decides only. Who claims, runs and gives back is the worker.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from rollcall.imports import LARGE_BYTES, SMALL_BYTES, Import

FEWEST = 4
"""Of fewer slots than these none is kept free."""
LARGE_ROWS_BYTES = 2 * LARGE_BYTES
"""What the Records of a text of LARGE_BYTES take as columns, roughly."""


@dataclass(eq=False)
class Slot:
    """An attempt under way. `stop` makes it give its import back; `read`: bytes of its Records so far, as columns."""

    job: Import
    large: bool
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    read: int = 0
    task: asyncio.Task[None] | None = None

    def grown(self, count: int) -> bool:
        """Count what was read; True at the moment when it turns out to be large."""
        self.read += count
        grown = not self.large and self.read > LARGE_ROWS_BYTES
        self.large = self.large or grown
        return grown


def admitted(slots: Collection[Slot], count: int) -> tuple[int | None, list[str]]:
    """How many bytes the next import may have (None: any), and whose it may not be, with `count` slots in all."""
    most = count - max(1, count // 5) if count >= FEWEST else count
    senders = Counter(slot.job.created_by for slot in slots if slot.job.created_by is not None)
    full = [name for name, running in senders.items() if running >= most]
    if sum(slot.job.bytes_total > SMALL_BYTES for slot in slots) >= most:
        return SMALL_BYTES, full
    return (LARGE_BYTES if any(slot.large for slot in slots) else None), full
