"""The store: immutable objects under random keys, in a directory. What it acknowledges is durable.

    store.put(key, chunks)        a whole object or none; on the disk before it returns
    store.open(key)               one object
    whole(store, segments)        an Upload's Segments as one binary stream, of which no wrong byte is ever handed out

An object has a checksum for every block: what has to be right is known before it is used, however long an object is.

Writing is asynchronous (the disk works in threads), reading is not: readers run in threads anyway. Assumes one local
file system. Knows no table.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import secrets
import time
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, ParamSpec, TypeVar, cast

from rollcall.errors import NoSpace, ObjectCorrupt, ObjectMissing, StoreDown

BLOCK_BYTES = 1 << 20
"""What is written, read and checked at a time; a body arrives in pieces of 64 to 256 KiB."""
CHECKSUM_BYTES = 4
RESERVE_BYTES = 64 << 20
"""What the store leaves free: an embedded Postgres beside it stops when its disk is full."""

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Segment:
    """One object: a stretch of an Upload's bytes, `length` bytes from `offset` on.

    `checksums`: the CRC-32 of each of its blocks, four bytes each. Against accidents; who may write here is trusted.
    """

    key: str
    offset: int
    length: int
    checksums: bytes


def new_key() -> str:
    """A key that nobody can guess and no file name is part of."""
    return secrets.token_hex(20)


class Store:
    """Objects in the folder `root`, which is made when the first one comes."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def put(self, key: str, chunks: AsyncIterator[bytes], digest: Any = None) -> tuple[int, bytes]:
        """Store the chunks as one object; its length and its checksums. An object of that key is replaced.

        `digest` (of hashlib) takes in what is written, in the same thread. On any exception, one of `chunks` or a
        cancellation too, nothing is left. Raises NoSpace, StoreDown.
        """
        path, partial = self._path(key), self._partial(key)
        checksums, length, held = bytearray(), 0, bytearray()
        file = await _in_thread(self._create, partial)
        writing: asyncio.Task[bytes] | None = None  # while the next block arrives
        try:
            async for chunk in chunks:
                held += chunk
                if blocks := len(held) // BLOCK_BYTES * BLOCK_BYTES:
                    checksums += await writing if writing else b""
                    writing = asyncio.create_task(_in_thread(_write, file, held[:blocks], digest))
                    length += blocks
                    del held[:blocks]
            checksums += await writing if writing else b""
            checksums += await _in_thread(_write, file, held, digest)
            await _in_thread(_finish, file, partial, path)
        except BaseException:
            if writing:
                await _ended(writing)
            await _in_thread(_abandon, file, partial, path)
            raise
        return length + len(held), bytes(checksums)

    def open(self, key: str) -> BinaryIO:
        """An object, from its first byte. Raises ObjectMissing, StoreDown."""
        try:
            return self._path(key).open("rb", buffering=0)
        except FileNotFoundError as error:
            raise ObjectMissing from error
        except OSError as error:
            raise StoreDown from error

    async def delete(self, key: str) -> None:
        """Remove an object and what an interrupted `put` may have left of it; absent is fine."""
        await _in_thread(self._path(key).unlink, missing_ok=True)
        await _in_thread(self._partial(key).unlink, missing_ok=True)

    async def keys(self, *, older_than: timedelta) -> AsyncGenerator[list[str], None]:
        """The keys of all objects, half-written ones too, that were last written so long ago; a folder's at a time."""
        before = time.time() - older_than.total_seconds()
        for folder in await _in_thread(_entries, self._root):
            if found := await _in_thread(_old, folder, before):
                yield found

    async def require(self, count: int) -> None:
        """Raises NoSpace when there is no room for so many bytes more; StoreDown."""
        await _in_thread(self._require, count)

    async def check(self) -> None:
        """Write something, for `/health`. Raises NoSpace, StoreDown."""
        await _in_thread(self._try)

    def _path(self, key: str) -> Path:
        return self._root / key[:2] / key

    def _partial(self, key: str) -> Path:
        return self._path(key).with_suffix(".partial")

    def _create(self, partial: Path) -> BinaryIO:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not partial.parent.exists():
            partial.parent.mkdir(exist_ok=True, mode=0o700)
            _sync_directory(self._root)
        return partial.open("wb", buffering=0)

    def _require(self, count: int) -> None:
        self._root.mkdir(parents=True, exist_ok=True, mode=0o700)
        _leave_room(self._root, count)

    def _try(self) -> None:
        partial = self._partial(new_key())
        file = self._create(partial)
        try:
            _write(file, bytearray(b"rollcall"), None)
        finally:
            _abandon(file, partial)


def _leave_room(place: Path | int, count: int) -> None:
    disk = os.statvfs(place)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < count + RESERVE_BYTES:  # some network disks tell nothing
        raise NoSpace


def _write(file: BinaryIO, data: bytearray, digest: Any) -> bytes:
    """The checksums of what was written. `data` begins with a block."""
    _leave_room(file.fileno(), len(data))
    if digest is not None:
        digest.update(data)
    view = rest = memoryview(data)
    while rest:  # a raw file may take less than it is given
        rest = rest[file.write(rest) :]
    return b"".join(_checksum(view[at : at + BLOCK_BYTES]) for at in range(0, len(view), BLOCK_BYTES))


def _checksum(block: bytes | memoryview) -> bytes:
    return zlib.crc32(block).to_bytes(CHECKSUM_BYTES, "big")


def _finish(file: BinaryIO, partial: Path, path: Path) -> None:
    os.fdatasync(file.fileno())
    file.close()
    partial.rename(path)
    _sync_directory(path.parent)


def _abandon(file: BinaryIO, *paths: Path) -> None:
    file.close()
    for path in paths:
        path.unlink(missing_ok=True)


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


async def _ended(work: asyncio.Future[T]) -> None:
    """Wait for it, whatever becomes of it and of who waits: servers that stop cancel more than once."""
    while not work.done():
        with suppress(asyncio.CancelledError):
            await asyncio.wait([work])
    if not work.cancelled():
        work.exception()


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Work of the disk; what the disk says becomes NoSpace or StoreDown.

    A caller that is cancelled waits for the thread all the same: nothing is closed or removed under its hands.
    """
    thread = asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs))
    try:
        return await asyncio.shield(thread)
    except asyncio.CancelledError:
        await _ended(thread)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace from error
        raise StoreDown from error


def whole(store: Store, segments: Sequence[Segment]) -> BinaryIO:
    """An Upload from its first byte to its last. A byte is handed out only when the checksum of its block is right.

    Reading raises ObjectCorrupt, ObjectMissing, StoreDown.
    """
    return cast(BinaryIO, io.BufferedReader(_Whole(_blocks(store, segments)), BLOCK_BYTES))


def _blocks(store: Store, segments: Sequence[Segment]) -> Generator[bytes, None, None]:
    offset = 0
    for segment in segments:
        if segment.offset != offset:
            raise ObjectMissing
        with store.open(segment.key) as file:
            if os.fstat(file.fileno()).st_size != segment.length:
                raise ObjectCorrupt
            for number in range(-(-segment.length // BLOCK_BYTES)):
                block = _read(file, min(BLOCK_BYTES, segment.length - number * BLOCK_BYTES))
                if _checksum(block) != segment.checksums[CHECKSUM_BYTES * number : CHECKSUM_BYTES * (number + 1)]:
                    raise ObjectCorrupt
                yield block
        offset += segment.length


def _read(file: BinaryIO, size: int) -> bytes:
    """So many bytes, fewer at the file's end."""
    try:
        block = file.read(size)
        while len(block) < size and (more := file.read(size - len(block))):
            block += more
    except OSError as error:
        raise StoreDown from error
    return block


class _Whole(io.RawIOBase):
    """Blocks as a stream."""

    def __init__(self, blocks: Generator[bytes, None, None]) -> None:
        self._blocks, self._block = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        self._block = self._block or memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def close(self) -> None:
        self._blocks.close()
        super().close()
