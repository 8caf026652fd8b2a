"""Checksums above every store: what is read is what was written, or an exception. No wrong byte is ever handed out.

An object is checked MiB by MiB, so what has to be right is known before it is used, however long the object is.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Sequence
from contextlib import aclosing
from typing import Any, BinaryIO

from rollcall.errors import ObjectCorrupt, ObjectMissing, StoreDown
from rollcall.storage.store import Segment, Store
from rollcall.waiting import in_thread

BLOCK_BYTES = 1 << 20
"""What is checked, and written or read, at a time; a body arrives in pieces of 64 to 256 KiB."""
CHECKSUM_BYTES = 4
HELD_BYTES = 16 << 20
"""What all the bodies that are being written hold together, as far as INLINE_BYTES for each allows."""
_writing = 0
INLINE_BYTES = 64 << 10
"""Checksums of less than this cost less than a thread does."""


async def write_segment(
    store: Store, key: str, offset: int, chunks: AsyncIterator[bytes], digest: Any = None
) -> Segment:
    """Store the chunks as the object `key`: the Segment from byte `offset` of an Upload on.

    `digest` (of hashlib) takes in the same bytes. On any exception, from `chunks` or a cancellation too, no object is
    left. Raises NoSpace, StoreDown.
    """
    global _writing
    taken = _Checksums(digest)

    async def checked() -> AsyncGenerator[bytearray, None]:
        async for blocks in _regrouped(chunks):
            if len(blocks) > INLINE_BYTES:
                await in_thread(taken.update, blocks)
            else:
                taken.update(blocks)
            yield blocks

    _writing += 1
    try:
        async with aclosing(checked()) as blocks:
            await store.put(key, blocks)
    finally:
        _writing -= 1
    return Segment(key, offset, taken.length, taken.finish())


async def _regrouped(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytearray, None]:
    """The same bytes in larger pieces: up to a block, less when so many arrive that their blocks would fill the memory.
    Slow ones hold what they brought until it is enough."""
    held = bytearray()
    async for chunk in chunks:
        held += chunk
        if len(held) >= max(INLINE_BYTES, min(BLOCK_BYTES, HELD_BYTES // _writing)):
            yield held
            held = bytearray()
    if held:
        yield held


class _Checksums:
    """The CRC-32 of each block of the bytes taken in, and their digest."""

    def __init__(self, digest: Any) -> None:
        self.length = 0
        self._digest, self._checksum, self._checksums = digest, 0, bytearray()

    def update(self, piece: bytearray) -> None:
        if self._digest is not None:
            self._digest.update(piece)
        view = memoryview(piece)
        while view:
            room = BLOCK_BYTES - self.length % BLOCK_BYTES
            self._checksum = zlib.crc32(view[:room], self._checksum)
            self.length += len(view[:room])
            if self.length % BLOCK_BYTES == 0:
                self._end()
            view = view[room:]

    def finish(self) -> bytes:
        if self.length % BLOCK_BYTES:
            self._end()
        return bytes(self._checksums)

    def _end(self) -> None:
        self._checksums += self._checksum.to_bytes(CHECKSUM_BYTES, "big")
        self._checksum = 0


def _checksum(block: bytes | memoryview) -> bytes:
    return zlib.crc32(block).to_bytes(CHECKSUM_BYTES, "big")


def open_segments(store: Store, segments: Sequence[Segment], bytes_total: int) -> io.BufferedReader:
    """An Upload of `bytes_total` bytes, from its first byte to its last; its Segments in their order.

    A byte is handed out only when the checksum of its MiB is right, and the end only when all bytes were there.
    Reading raises ObjectCorrupt, ObjectMissing, StoreDown.
    """
    return io.BufferedReader(_SegmentStream(_blocks(store, segments, bytes_total)), BLOCK_BYTES)


def _blocks(store: Store, segments: Sequence[Segment], bytes_total: int) -> Generator[bytes, None, None]:
    offset = 0
    for segment in segments:
        if segment.offset != offset:
            raise ObjectMissing
        with store.open_range(segment.key) as file:
            if store.size(segment.key) != segment.length:
                raise ObjectCorrupt
            for number in range(-(-segment.length // BLOCK_BYTES)):
                block = _read(file, min(BLOCK_BYTES, segment.length - number * BLOCK_BYTES))
                if _checksum(block) != segment.checksums[CHECKSUM_BYTES * number : CHECKSUM_BYTES * (number + 1)]:
                    raise ObjectCorrupt
                yield block
        offset += segment.length
    if offset != bytes_total:  # a Segment's row is gone from the end, or the Upload is not the Import's
        raise ObjectMissing


def _read(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file."""
    try:
        block = file.read(size)
        while len(block) < size and (more := file.read(size - len(block))):
            block += more
    except OSError as error:
        raise StoreDown from error
    return block


class _SegmentStream(io.RawIOBase):
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
