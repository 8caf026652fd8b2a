"""Objects as files below a folder of one local file system: written aside, synced, renamed. Knows no table."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar, cast

from rollcall import waiting
from rollcall.errors import NoSpace, ObjectMissing, StoreDown

RESERVE_BYTES = 64 << 20
"""What the store leaves free at least, whoever else is on the disk."""

P = ParamSpec("P")
T = TypeVar("T")


class FileStore:
    """Objects in the folder `root`, which is made when the first one comes; a folder below it for each 256th of them.

    A Store (`store.Store` says what each method does). An object of one key is never written by two at a time.
    `reserve`: bytes of the disk to leave free, if that is more than RESERVE_BYTES.
    """

    def __init__(self, root: Path, *, reserve: int = 0) -> None:
        self._root, self._reserve = root, reserve
        self._durable: set[Path] = set()
        """Folders of which this process has seen the entry in their parent synced."""

    async def put(self, key: str, blocks: AsyncIterator[bytes | bytearray]) -> None:
        path, partial = self._path(key), self._partial(key)
        file = await _in_thread(self._create, partial)
        writing: asyncio.Task[None] | None = None  # while the next block arrives
        try:
            async for block in blocks:
                if writing:
                    await writing
                writing = asyncio.create_task(_in_thread(self._write, file, block))
            if writing:
                await writing
            await _in_thread(_finish, file, partial, path)
        except BaseException:
            if writing:
                await waiting.ended(writing)
            await _in_thread(_abandon, file, partial, path)
            raise

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        try:
            return cast(BinaryIO, _Range(self._path(key), start, length))
        except OSError as error:
            raise _failure(error) from error

    def size(self, key: str) -> int:
        try:
            return self._path(key).stat().st_size
        except OSError as error:
            raise _failure(error) from error

    async def delete_many(self, keys: Iterable[str]) -> None:
        await _in_thread(_remove, [path for key in keys for path in (self._path(key), self._partial(key))])

    async def list(self, *, older_than: timedelta) -> AsyncGenerator[list[str], None]:
        before = time.time() - older_than.total_seconds()
        for folder in await _in_thread(_entries, self._root):
            if found := await _in_thread(_old, folder, before):
                yield found

    async def require(self, count: int) -> None:
        await _in_thread(self._require, count)

    async def owner(self) -> str | None:
        return await _in_thread(self._owner)

    async def claim(self, identity: str) -> None:
        await _in_thread(self._claim, identity)

    async def check(self) -> None:
        await _in_thread(self._try)

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key

    def _partial(self, key: str) -> Path:
        return self._path(key).with_suffix(".partial")

    def _create(self, partial: Path) -> BinaryIO:
        self._make(self._root)
        self._make(partial.parent)
        return partial.open("wb", buffering=0)

    def _make(self, folder: Path) -> None:
        """Make the folder, if need be, and see to it that a crash of the machine does not take it away.

        Another process may have made it a moment ago and not synced it yet: whoever puts something in syncs it once.
        """
        made = _make_directory(folder)
        if made or folder not in self._durable:
            _sync_directory(folder.parent)
            self._durable.add(folder)

    @property
    def _marker(self) -> Path:
        """Beside the objects, so that a copy of their folder is nobody's yet."""
        return self._root.with_name(f"{self._root.name}.database")

    def _owner(self) -> str | None:
        with suppress(FileNotFoundError, NotADirectoryError):
            return self._marker.read_text(encoding="ascii", errors="replace").strip()
        return None

    def _claim(self, identity: str) -> None:
        self._make(self._root)
        written = self._marker.with_name(f"{self._marker.name}.{secrets.token_hex(8)}")
        try:
            with written.open("x", encoding="ascii") as file:
                file.write(f"{identity}\n")
                file.flush()
                os.fsync(file.fileno())
            _link(written, self._marker)
        finally:
            written.unlink(missing_ok=True)
        _sync_directory(self._marker.parent)

    def _require(self, count: int) -> None:
        self._make(self._root)
        self._leave_room(self._root, count)

    def _try(self) -> None:
        """Nothing is written: this is asked several times a second."""
        self._require(0)
        if not os.access(self._root, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, "not writable")

    def _leave_room(self, place: Path | int, count: int) -> None:
        disk, reserve = os.statvfs(place), max(RESERVE_BYTES, self._reserve)
        if disk.f_blocks and disk.f_bavail * disk.f_frsize < count + reserve:  # some network disks tell nothing
            raise NoSpace

    def _write(self, file: BinaryIO, data: bytes | bytearray) -> None:
        self._leave_room(file.fileno(), len(data))
        rest = memoryview(data)
        while rest:  # a raw file may take less than it is given
            rest = rest[file.write(rest) :]


class _Range(io.FileIO):
    """A file from `start` on, for `length` bytes or to its end. Only `read` knows where the range ends."""

    def __init__(self, path: Path, start: int, length: int | None) -> None:
        super().__init__(path)
        self._left = length
        if start:
            self.seek(start)

    def read(self, size: int | None = -1, /) -> bytes:
        if self._left is None:
            return super().read(size)
        data = super().read(self._left if size is None or size < 0 else min(size, self._left))
        self._left -= len(data)
        return data


def _failure(error: OSError) -> ObjectMissing | StoreDown:
    return ObjectMissing() if isinstance(error, FileNotFoundError) else StoreDown()


def _finish(file: BinaryIO, partial: Path, path: Path) -> None:
    os.fdatasync(file.fileno())
    file.close()
    partial.rename(path)
    _sync_directory(path.parent)


def _abandon(file: BinaryIO, *paths: Path) -> None:
    file.close()
    _remove(paths)


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def _link(written: Path, path: Path) -> None:
    """Give a whole file its name, unless something has that name."""
    try:
        path.hardlink_to(written)
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
            raise
        if not path.exists():  # a file system without hard links
            written.rename(path)


def _make_directory(folder: Path) -> bool:
    """Whether it was not there. Parents that are missing are made and synced too."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return False
    except FileNotFoundError:
        if _make_directory(folder.parent):
            _sync_directory(folder.parent.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
    return True


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _entries(folder: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError):
        return list(folder.iterdir())
    return []


def _old(folder: Path, before: float) -> list[str]:
    found = set()
    for path in _entries(folder):
        with suppress(FileNotFoundError):  # deleted, or whole, just now
            if path.stat().st_mtime < before:
                found.add(path.stem)
    return list(found)


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work of the disk; what the disk says becomes NoSpace or StoreDown."""
    try:
        return await waiting.in_thread(work, *args, **kwargs)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace from error
        raise StoreDown from error
