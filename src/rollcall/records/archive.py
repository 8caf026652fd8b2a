"""Compressed files: what they are, and their bytes.

Assumes a stream that is read once, from its first byte. One level only: an archive in an archive is refused. Memory is
bounded whatever the ratio is, and time too: what unpacks to very much more than it is, is a bomb. How long a Record may
be is the formats' business. Names inside the archive are ignored.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from rollcall import errors
from rollcall.records.plan import Compression

UNPACKED_BYTES_ANY = 64 << 20
UNPACKED_RATIO_MAX = 500
"""A file may unpack to so many bytes, and to so many times its own. Lists of people stay far below: text that a person
wrote shrinks to a tenth or a thirtieth."""


class Stored(io.RawIOBase):
    """A stream that counts what is read from it; `head` was read from it before."""

    def __init__(self, stream: BinaryIO, head: bytes = b"") -> None:
        self._stream, self._head, self.position = stream, head, 0

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
        else:
            data = self._stream.read(size)
        self.position += len(data)
        return data


def detect(head: bytes) -> Compression:
    """Tell by the first four bytes. A zstd file may begin with a skippable frame."""
    if head.startswith(b"\x1f\x8b"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] >> 4 == 5):
        return "zstd"
    return "none"


def unpack(stream: Stored, compression: Compression, block: int = 1 << 20) -> Iterator[bytes]:
    """Yield the decoded bytes in blocks of at most `block` bytes. All members and frames count, not just the first.

    Raises ArchiveTruncated, ArchiveCorrupt (bad checksum, bytes after the end, a zstd window over 128 MiB),
    ArchiveTooLarge and NestedArchive; what the stream raises passes through.
    """
    if compression == "none":
        yield from iter(lambda: stream.read(block), b"")
        return
    length = 0
    for data in (_gzip if compression == "gzip" else _zstd)(cast(BinaryIO, stream), block):
        if not length and detect(data) != "none":
            raise errors.NestedArchive
        length += len(data)
        if length > max(UNPACKED_BYTES_ANY, UNPACKED_RATIO_MAX * stream.position):
            raise errors.ArchiveTooLarge
        yield data


def _gzip(stream: BinaryIO, block: int) -> Iterator[bytes]:
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as archive:
            yield from iter(lambda: archive.read(block), b"")
    except EOFError as fault:
        raise errors.ArchiveTruncated from fault
    except (gzip.BadGzipFile, zlib.error) as fault:
        raise errors.ArchiveCorrupt("The gzip file is damaged, or other bytes stand after its end.") from fault


def _zstd(stream: BinaryIO, block: int) -> Iterator[bytes]:
    # Arrow's reader, because python-zstandard's readers stop at a cut without a word (and after the first frame), and
    # its decompressobj cannot bound what one step returns. Arrow has only OSError, so its words decide.
    try:
        archive = pa.CompressedInputStream(pa.PythonFile(cast(io.IOBase, stream), mode="r"), "zstd")
        yield from iter(lambda: archive.read(block), b"")
    except OSError as fault:
        match str(fault):
            case words if "Truncated compressed stream" in words:
                raise errors.ArchiveTruncated from fault
            case words if "too much memory" in words:
                raise errors.ArchiveCorrupt(
                    "The zstd file needs a window of more than 128 MiB. Compress it without --long or --ultra."
                ) from fault
            case words if "ZSTD" in words:
                raise errors.ArchiveCorrupt("The zstd file is damaged, or other bytes stand after its end.") from fault
        raise
