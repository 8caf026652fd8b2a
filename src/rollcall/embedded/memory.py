"""How much memory there is, and how much the server takes for its buffers. Linux, control groups v1 and v2."""

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
    """The value of `shared_buffers` on a machine with `memory` bytes.

    The index of emails should fit: every new contact reads and writes another page of it.
    """
    least, most = BUFFERS_MIB
    return f"{min(max(memory // BUFFERS_SHARE >> 20, least), most)}MB"


def available(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, or the limit of this process's control groups (a container, a systemd unit)."""
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
