"""End the server of an owner that was killed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from threading import Event

ORPHAN_SECONDS = 30.0


def pid_file(cluster: Path) -> tuple[int | None, str]:
    """The server's process id and state, from its postmaster.pid; None and "" where they are missing."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
        return int(lines[0]), lines[7].strip() if len(lines) > 7 else ""
    except (FileNotFoundError, IndexError, ValueError):
        return None, ""


def end(cluster: Path, interrupted: Event) -> None:
    """Wait for the server of an owner that was killed, and remove what a killed server left.

    The process id may belong to another process by now, so its command line is compared. Assumes that the caller holds
    the owner's lock. Leaves everything as it is when interrupted.
    """
    pid, _ = pid_file(cluster)
    for number in (signal.SIGINT, signal.SIGQUIT):
        until = time.monotonic() + ORPHAN_SECONDS
        if pid is not None and _serves(pid, cluster):
            os.kill(pid, number)
            while _serves(pid, cluster) and time.monotonic() < until:
                if interrupted.wait(0.02):
                    return
    (cluster / "postmaster.pid").unlink(missing_ok=True)


def _serves(pid: int, cluster: Path) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[0].endswith(b"postgres") and os.fsencode(cluster) in words
