"""A small disk of one's own: a tmpfs. Mounting is for root, or for who may sudo without a password."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(folder: Path, size: str, *, owner: int) -> Iterator[Path]:
    """An empty disk of `size` (as mount has it: `4m`) at `folder`, which is made."""
    folder.mkdir(parents=True)
    root = [] if os.geteuid() == 0 else ["sudo", "-n"]
    options = f"size={size},uid={owner},mode=0700"
    mounted = subprocess.run(
        [*root, "mount", "-t", "tmpfs", "-o", options, "rollcall", str(folder)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*root, "umount", "--lazy", str(folder)], check=True)
        folder.rmdir()
