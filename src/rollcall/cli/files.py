"""Files that commands read from standard input, and files that they write: whole, or not at all."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

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
    """A file that gets its name when it is whole. Until then it lies beside it, and is deleted when it breaks off."""

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] = tempfile.NamedTemporaryFile(dir=folder, prefix=".rollcall-")  # noqa: SIM115
        self._folder = folder
        self.write = self._file.write

    def __enter__(self) -> NewFile:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(FileNotFoundError):
            self._file.close()

    def name(self, names: Iterator[str]) -> Path:
        """Give it the first of the names that is free. Raises FileExistsError when none is."""
        self._file.flush()
        for name in names:
            path = self._folder / name
            with suppress(FileExistsError):
                path.hardlink_to(self._file.name)
                return path
        raise FileExistsError(17, "File exists", str(path))
