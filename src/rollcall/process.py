"""What a worker asks of its process and says to its supervisor: how memory is kept, that it is alive. Linux, glibc."""

from __future__ import annotations

import ctypes
import os
import socket
from contextlib import suppress

import pyarrow as pa

MALLOPT_ARENA_MAX, MALLOPT_MMAP_THRESHOLD, MALLOPT_TRIM_THRESHOLD = -8, -3, -1
LARGE_BLOCK_BYTES, KEPT_BYTES = 2 << 20, 16 << 20


def share_memory() -> None:
    """Arrow takes its memory from malloc; malloc has two arenas for all threads, and gives large blocks back at once.

    As they come, each thread keeps what others could use, and what was freed lies between what was not: half of the
    worker's memory. Smaller blocks given back would cost it time.
    """
    pa.set_memory_pool(pa.system_memory_pool())
    with suppress(AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(MALLOPT_ARENA_MAX, 2)
        mallopt(MALLOPT_MMAP_THRESHOLD, LARGE_BLOCK_BYTES)
        mallopt(MALLOPT_TRIM_THRESHOLD, KEPT_BYTES)  # with the other one set, it would stay at 128 KiB


def tell_systemd(state: str) -> None:
    """By the protocol of sd_notify(3), for `WatchdogSec=`. Nobody listens if systemd did not start this process."""
    if address := os.environ.get("NOTIFY_SOCKET"):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as telling:
            telling.sendto(state.encode(), address.replace("@", "\0", 1))
