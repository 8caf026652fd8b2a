"""Files that commands read from standard input, and files that they write: whole, or not at all."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STDIN = Path("-")


@contextmanager
def readable(file: Path) -> Generator[Path, None, None]:
    """The file itself; for `-` a copy of standard input, which can be sent again when its answer is lost."""
    if file != STDIN:
        yield file
        return
    with tempfile.TemporaryDirectory(prefix="rollcall-") as folder:
        copy = Path(folder) / "stdin"
        with copy.open("xb") as out:
            shutil.copyfileobj(sys.stdin.buffer, out)
        yield copy


class NewFile:
    """A file that gets its name when it is whole. Until then it has a hidden one in the same folder, and is deleted
    when its writing breaks off.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._temporary = folder, folder / f".rollcall-{secrets.token_hex(8)}"
        self._file = self._temporary.open("xb")  # not tempfile's, whose mode ignores the umask
        self.write = self._file.write

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        finally:
            self._temporary.unlink(missing_ok=True)

    def name(self, names: Iterator[str]) -> Path:
        """Give it the first of the names that is free. Raises FileExistsError when none is."""
        self._file.close()
        for name in names:
            path = self._folder / name
            with suppress(FileExistsError):
                path.open("xb").close()  # takes the name from everybody else; a hard link is not to be had everywhere
                try:
                    self._temporary.replace(path)
                except BaseException:
                    path.unlink()
                    raise
                return path
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
