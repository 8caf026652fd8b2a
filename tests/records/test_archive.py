"""Compressed files: whole ones are read whole, others are refused by name, and none takes more memory than a block."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pytest

from rollcall.errors import ArchiveCorrupt, ArchiveTooLarge, ArchiveTruncated, NestedArchive, Unreadable
from rollcall.records.archive import UNPACKED_BYTES_ANY, UNPACKED_RATIO_MAX, Stored, detect, unpack
from rollcall.records.plan import Compression

TEXT = b"".join(b"%d,person%d@example.com\n" % (number, number * number) for number in range(2_000))
SKIPPABLE = b"\x5e\x2a\x4d\x18\x04\0\0\0skip"


COMPRESS: dict[Compression, Callable[[bytes], bytes]] = {
    "none": bytes,
    "gzip": gzip.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
}
BOTH = pytest.mark.parametrize("compression", ["gzip", "zstd"])


def read(data: bytes, compression: Compression | None = None, block: int = 1 << 20) -> bytes:
    return b"".join(unpack(Stored(io.BytesIO(data)), compression or detect(data), block))


@pytest.mark.parametrize(
    ("head", "compression"),
    [
        (gzip.compress(b"", mtime=0), "gzip"),
        (pa.compress(b"", "zstd", asbytes=True), "zstd"),
        (SKIPPABLE, "zstd"),
        (b"\x4f" + SKIPPABLE[1:], "none"),
        (b"\x60" + SKIPPABLE[1:], "none"),
        (b"name,email", "none"),
        (b"\x28\xb5", "none"),
        (b"", "none"),
    ],
)
def test_unpack_the_first_bytes_tell_the_compression(head: bytes, compression: Compression) -> None:
    assert detect(head) == compression


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("block", [1, 1000, 1 << 20])
def test_unpack_what_was_compressed_comes_back_in_blocks(compression: Compression, block: int) -> None:
    text = TEXT[:3_000] if block == 1 else TEXT
    blocks = list(unpack(Stored(io.BytesIO(COMPRESS[compression](text))), compression, block))
    assert b"".join(blocks) == text
    assert {len(each) for each in blocks[:-1]} <= {block}


@BOTH
def test_unpack_every_member_is_read(compression: Compression) -> None:
    compress = COMPRESS[compression]
    assert read(compress(TEXT) + compress(b"") + compress(b"end")) == TEXT + b"end"


def test_unpack_skippable_frames_and_zero_padding_are_passed_over() -> None:
    assert read(SKIPPABLE + COMPRESS["zstd"](b"one") + SKIPPABLE + COMPRESS["zstd"](b"two") + SKIPPABLE) == b"onetwo"
    assert read(gzip.compress(b"one") + bytes(512) + gzip.compress(b"two") + bytes(10_000)) == b"onetwo"


@BOTH
def test_unpack_a_file_cut_anywhere_is_truncated(compression: Compression) -> None:
    whole = COMPRESS[compression](TEXT[:5_000])
    for cut in [*range(2, 40), *range(40, len(whole) - 20, 97), *range(len(whole) - 20, len(whole))]:
        with pytest.raises(ArchiveTruncated):
            read(whole[:cut], compression)
        with pytest.raises((ArchiveTruncated, ArchiveCorrupt)):  # one byte of a header is garbage
            read(whole + whole[:cut], compression)


@BOTH
@pytest.mark.parametrize("garbage", [b"x", b"\x1fx", b"garbage that is longer than a header", b"\n"])
def test_unpack_bytes_after_the_end_are_refused(compression: Compression, garbage: bytes) -> None:
    whole = COMPRESS[compression](TEXT)
    with pytest.raises(Unreadable):
        read(whole + garbage, compression)


def test_unpack_a_damaged_gzip_file_is_never_read_as_another() -> None:
    whole = gzip.compress(TEXT, mtime=0)
    for place in random.Random(4).sample(range(10, len(whole)), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        with pytest.raises((ArchiveCorrupt, ArchiveTruncated)):
            read(bytes(damaged))


@pytest.mark.parametrize("outer", ["gzip", "zstd"])
@pytest.mark.parametrize("inner", ["gzip", "zstd"])
def test_unpack_an_archive_in_an_archive_is_refused(outer: Compression, inner: Compression) -> None:
    with pytest.raises(NestedArchive):
        read(COMPRESS[outer](COMPRESS[inner](TEXT)))


def test_unpack_a_bomb_takes_no_more_memory_than_a_block_and_ends_soon() -> None:
    deflate = zlib.compressobj(9, wbits=31)
    bomb = b"".join(deflate.compress(bytes(1 << 20)) for _ in range(200)) + deflate.flush()
    lengths: list[int] = []
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveTooLarge):
            lengths.extend(map(len, unpack(Stored(io.BytesIO(bomb)), "gzip")))
        assert tracemalloc.get_traced_memory()[1] < 5 << 20
    finally:
        tracemalloc.stop()
    assert sum(lengths) == max(UNPACKED_BYTES_ANY, UNPACKED_RATIO_MAX * (128 << 10))  # gzip reads so much ahead


def test_unpack_a_high_ratio_alone_is_no_bomb() -> None:
    assert len(read(gzip.compress(bytes(UNPACKED_BYTES_ANY)))) == UNPACKED_BYTES_ANY


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
def test_unpack_what_the_stream_raises_passes_through(compression: Compression) -> None:
    class Broken(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError):
        list(unpack(Stored(cast(BinaryIO, Broken())), compression))


def test_unpack_hostile_archives(corpora: Path) -> None:
    folder = corpora / "hostile"
    lines = (folder / "expectations.jsonl").read_text().splitlines()
    expected = {each["file"]: each["expect"] for each in map(json.loads, lines) if "file" in each}
    names = [name for name in expected if name.startswith(("gz_", "zst_"))]
    assert len(names) == 18
    for name in names:
        data = (folder / name).read_bytes()
        size, kind = 0, None
        try:
            for block in unpack(Stored(io.BytesIO(data)), detect(data)):
                assert len(block) <= 1 << 20
                size += len(block)
        except Unreadable as fault:
            kind = type(fault)
        refused = next((error for part, error in REFUSED.items() if part in name), None)
        assert kind is refused, name
        if not refused:
            assert size == SIZES.get(name, 26_791), name


REFUSED = {
    "bomb": ArchiveTooLarge,
    "truncated": ArchiveTruncated,
    "crc_bad": ArchiveCorrupt,
    "garbage": ArchiveCorrupt,
    "gz_in_gz": NestedArchive,
    "window_2g": ArchiveCorrupt,
}
SIZES = {
    "gz_ratio_500k_dups.csv.gz": 10_000_011,
}
