"""How much of a disk the server's WAL may take, and how much others leave free on that disk.

A Postgres that cannot write its WAL stops, and does not start until there is space again. It also needs space for the
contacts, temporary files and its log.
"""

from __future__ import annotations

import os
from pathlib import Path

WAL_BYTES = (128 << 20, 8 << 30)
WAL_SHARE = 10
"""Of the whole disk, so that a small one is not filled by WAL alone."""
GROWTH_BYTES = (64 << 20, 2 << 30)
GROWTH_SHARE = 50


def max_wal(size: int) -> int:
    """Bytes of WAL between two checkpoints, on a disk of `size` bytes: a tenth of it, 128 MiB to 8 GiB."""
    return _between(size // WAL_SHARE if size else WAL_BYTES[1], WAL_BYTES)


def reserve(size: int) -> int:
    """Bytes to leave free beside an embedded server, on a disk of `size` bytes: its WAL and a fiftieth of the disk.

    Never more than a quarter of the disk.
    """
    return min(max_wal(size) + _between(size // GROWTH_SHARE, GROWTH_BYTES), size // 4)


def size_of(folder: Path) -> int:
    """Bytes of the disk on which the folder is, or will be; 0 where that cannot be told, as on some network disks."""
    try:
        while not folder.exists():
            folder = folder.parent
        disk = os.statvfs(folder)
    except OSError:
        return 0
    return disk.f_blocks * disk.f_frsize


def _between(count: int, bounds: tuple[int, int]) -> int:
    least, most = bounds
    return min(max(count, least), most)
