"""The private folders of the server's socket and of its data."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from pathlib import Path

from rollcall.embedded.programs import Ids
from rollcall.errors import EmbeddedFailed


def socket_dir(home: Path) -> Path:
    """`home`/run; or a folder in /tmp if that is too long for a socket's path, or not plain ASCII."""
    folder = home / "run"
    if re.fullmatch(r"[\w./-]{1,90}", str(folder), re.ASCII):
        return folder
    return Path("/tmp") / f"rollcall-{hashlib.sha256(str(home).encode()).hexdigest()[:16]}"  # noqa: S108  private


def make_private(folder: Path, ids: Ids) -> None:
    """Make a folder that only its owner may enter: a user who reaches the socket is superuser.

    Raises EmbeddedFailed when another user has made it first, as in /tmp.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (os.geteuid(), ids[0]):
        raise EmbeddedFailed(f"{folder} belongs to somebody else. Remove it, or choose another data directory.")
    folder.chmod(0o700)
    os.chown(folder, *ids)
