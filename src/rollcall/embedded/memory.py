"""How much memory there is, and what of it the server takes for its buffers. Linux, control groups of both versions."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

BUFFERS_SHARE = 8
"""The rest is for whoever else is there, and for the system's own cache of the same files."""
BUFFERS_MIB = (128, 4096)

GROUPS = {"": ("sys/fs/cgroup", "memory.max"), "memory": ("sys/fs/cgroup/memory", "memory.limit_in_bytes")}
"""By controller, as /proc names it: where its groups are, and the file with the limit."""


def shared_buffers(memory: int) -> str:
    """The server's setting, for so many bytes of memory.

    The index of addresses should fit: of every contact that is new, another page of it is read and written.
    """
    least, most = BUFFERS_MIB
    return f"{min(max(memory // BUFFERS_SHARE >> 20, least), most)}MB"


def available(root: Path = Path("/")) -> int:
    """Bytes: the machine's, or what the control groups of this process (a container, a unit) are limited to."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            for folder, name in (GROUPS[each] for each in controllers.split(",") if each in GROUPS):
                group = root / folder / path.lstrip("/")
                for each in (group, *group.parents):
                    with suppress(OSError, ValueError):  # no such file; "max"
                        found.append(int((each / name).read_text()))
    return min(found)
