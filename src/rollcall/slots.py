"""Which imports a worker runs together: small ones never wait behind large ones, nor one sender behind another.

    one large import      above LARGE_BYTES, or as soon as more than that is read of it, unpacked
    four fifths at most   of the slots for imports above SMALL_BYTES, and for those of one API key

Only decides. The worker claims, runs and releases.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from rollcall.imports import LARGE_BYTES, SMALL_BYTES, Import

FEWEST = 4
"""A worker with fewer slots keeps none free."""
LARGE_ROWS_BYTES = 2 * LARGE_BYTES
"""Roughly the memory that the Records of LARGE_BYTES of text take as columns."""


@dataclass(eq=False)
class Slot:
    """A running attempt. `stop` makes it release its import. `read`: bytes of its Records so far, as columns."""

    job: Import
    large: bool
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    read: int = 0
    task: asyncio.Task[None] | None = None

    def grown(self, count: int) -> bool:
        """Add to `read`; True once, when the import turns out to be large."""
        self.read += count
        grown = not self.large and self.read > LARGE_ROWS_BYTES
        self.large = self.large or grown
        return grown


def admitted(slots: Collection[Slot], count: int) -> tuple[int | None, list[str]]:
    """What a worker with `count` slots may claim next: up to how many bytes (None: any), and not of which senders."""
    most = count - max(1, count // 5) if count >= FEWEST else count
    senders = Counter(slot.job.created_by for slot in slots if slot.job.created_by is not None)
    full = [name for name, running in senders.items() if running >= most]
    if sum(slot.job.bytes_total > SMALL_BYTES for slot in slots) >= most:
        return SMALL_BYTES, full
    return (LARGE_BYTES if any(slot.large for slot in slots) else None), full
