"""The store: whole objects or none, and a stream that never ends well when a byte is wrong."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from rollcall import storage
from rollcall.errors import NoSpace, ObjectCorrupt, ObjectMissing, StoreDown
from rollcall.storage import BLOCK_BYTES, Segment, Store, new_key, whole
from service import until


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


def files(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


async def test_an_object_is_what_was_put(tmp_path: Path) -> None:
    store, key = Store(tmp_path / "store"), new_key()
    data, digest = bytes(range(256)) * (2 * BLOCK_BYTES // 256) + b"end", hashlib.sha256()
    pieces = [data[at : at + 65_537] for at in range(0, len(data), 65_537)]
    length, checksums = await store.put(key, chunks(*pieces), digest)
    assert (length, digest.digest()) == (len(data), hashlib.sha256(data).digest())
    sums = [zlib.crc32(block) for block in (data[:BLOCK_BYTES], data[BLOCK_BYTES : 2 * BLOCK_BYTES], b"end")]
    assert struct.unpack(">3I", checksums) == tuple(sums)
    assert (length, checksums) == await store.put(key, chunks(data))
    with store.open(key) as file:
        assert file.read() == data
    assert [path.name for path in files(tmp_path)] == [key]
    await store.delete(key)
    await store.delete(key)
    assert not files(tmp_path)
    with pytest.raises(ObjectMissing):
        store.open(key)


async def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * (BLOCK_BYTES + 1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await Store(tmp_path).put(new_key(), breaking())
    assert not files(tmp_path)


async def test_what_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * BLOCK_BYTES
            begun.set()
            await asyncio.sleep(0)

    task = asyncio.create_task(Store(tmp_path).put(new_key(), endless()))
    await begun.wait()
    assert files(tmp_path)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not files(tmp_path)


async def stalled(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    await asyncio.Event().wait()


@pytest.mark.parametrize("body", [chunks, stalled], ids=["whole", "while more is awaited"])
async def test_a_slow_disk_is_waited_for(tmp_path: Path, body: Callable[[bytes], AsyncIterator[bytes]]) -> None:
    """Nothing is closed under the hands of a thread that still writes: its number may be another file's by then."""
    key = new_key()
    (tmp_path / key[:2]).mkdir()
    os.mkfifo(tmp_path / "slow")
    (tmp_path / key[:2] / f"{key}.partial").symlink_to(tmp_path / "slow")
    disk = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    task = asyncio.create_task(Store(tmp_path).put(key, body(b"x" * BLOCK_BYTES)))
    await until(lambda: bool(select.select([disk], [], [], 0)[0]))
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=0.2)
    assert not done
    while not task.done():
        with suppress(BlockingIOError):
            os.read(disk, BLOCK_BYTES)
        await asyncio.sleep(0)
    os.close(disk)
    assert task.cancelled()
    assert not files(tmp_path)


@pytest.mark.parametrize("blocks", [0, 1, 3])
async def test_a_full_disk_says_so(tmp_path: Path, blocks: int) -> None:
    key = new_key()
    (tmp_path / key[:2]).mkdir()
    (tmp_path / key[:2] / f"{key}.partial").symlink_to("/dev/full")
    with pytest.raises(NoSpace):
        await Store(tmp_path).put(key, chunks(*[b"x" * BLOCK_BYTES] * blocks, b"x"))
    assert not files(tmp_path)


async def test_some_of_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = os.statvfs(tmp_path)
    store, room = Store(tmp_path / "store"), disk.f_bavail * disk.f_frsize
    await store.require(room // 2)
    with pytest.raises(NoSpace):
        await store.require(room * 2)
    monkeypatch.setattr(storage, "RESERVE_BYTES", room * 2)
    with pytest.raises(NoSpace):
        await store.put(new_key(), chunks(b"x"))
    with pytest.raises(NoSpace):
        await store.check()
    assert not files(tmp_path)


async def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    store = Store(tmp_path / "store")
    with pytest.raises(StoreDown):
        await store.check()
    with pytest.raises(StoreDown):
        await store.put(new_key(), chunks(b"x"))
    (tmp_path / "store").unlink()
    await store.check()
    assert not files(tmp_path)


async def segments_of(store: Store, *bodies: bytes) -> list[Segment]:
    segments, offset = [], 0
    for body in bodies:
        length, checksums = await store.put(key := new_key(), chunks(body))
        segments.append(Segment(key, offset, length, checksums))
        offset += length
    return segments


async def test_segments_are_one_stream(tmp_path: Path) -> None:
    store = Store(tmp_path)
    segments = await segments_of(store, b"a" * 3_000_000, b"b", b"c" * 70_000)
    with whole(store, segments) as stream:
        assert stream.read(2) == b"aa"
        assert stream.read() == b"a" * 2_999_998 + b"b" + b"c" * 70_000
        assert stream.read(1) == b""


@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer"])
async def test_of_a_damaged_segment_no_wrong_byte_is_handed_out(tmp_path: Path, damage: str) -> None:
    store, length = Store(tmp_path), 3 * BLOCK_BYTES + 5
    segments = await segments_of(store, b"a" * 100_000, b"b" * length)
    path = next(path for path in files(tmp_path) if path.name == segments[1].key)
    data = {"flipped": b"b" * (2 * BLOCK_BYTES) + b"c", "shorter": b"b" * 99_999, "longer": b"b" * length}[damage]
    path.write_bytes(data.ljust(length, b"b") if damage == "flipped" else data + b"b" * (damage == "longer"))
    pieces: list[bytes] = []
    with whole(store, segments) as stream, pytest.raises(ObjectCorrupt):
        pieces.extend(iter(lambda: stream.read(4096), b""))
    taken = b"".join(pieces)
    right = 100_000 + (2 * BLOCK_BYTES if damage == "flipped" else 0)
    assert taken == (b"a" * 100_000 + b"b" * length)[: len(taken)]
    assert right - 4096 < len(taken) <= right


async def test_a_missing_segment_is_noticed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    segments = await segments_of(store, b"a", b"b", b"c")
    with whole(store, [segments[0], segments[2]]) as stream, pytest.raises(ObjectMissing):
        stream.read()
    await store.delete(segments[1].key)
    with whole(store, segments) as stream, pytest.raises(ObjectMissing):
        stream.read()
