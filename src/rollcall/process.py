"""How a worker's process keeps memory, and how it tells systemd that it is alive. Linux, glibc."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import suppress

import pyarrow as pa

MALLOPT_ARENA_MAX, MALLOPT_MMAP_THRESHOLD, MALLOPT_TRIM_THRESHOLD = -8, -3, -1
LARGE_BLOCK_BYTES, KEPT_BYTES = 2 << 20, 16 << 20


def share_memory() -> None:
    """Make Arrow use malloc, with two arenas for all threads, and malloc return large blocks to the system at once.

    With the defaults each thread keeps freed memory that others could use, and memory fragments: measured, half of the
    worker's memory. Returning smaller blocks as well would cost time.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MALLOPT_ARENA_MAX, 2)
        mallopt(MALLOPT_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(MALLOPT_TRIM_THRESHOLD, KEPT_BYTES)  # setting M_MMAP_THRESHOLD stops its adjustment: 128 KiB


def tell_systemd(state: str) -> None:
    """Send `state` by the protocol of sd_notify(3), for `WatchdogSec=`. Does nothing if systemd did not start us."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.sendto(state.encode(), address.replace("@", "\0", 1))
