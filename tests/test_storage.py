"""The stores: one suite that each of them passes, the checksums above them, and what is particular to local files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import pytest

from memory_store import MemoryStore
from rollcall.errors import NoSpace, ObjectCorrupt, ObjectMissing, StoreDown
from rollcall.storage import (
    BLOCK_BYTES,
    FileStore,
    Segment,
    Store,
    files,
    is_key,
    new_key,
    open_segments,
    open_store,
    write_segment,
)
from service import until

LONG_AGO, NOW = timedelta(hours=1), timedelta(0)


@pytest.fixture(params=["files", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return FileStore(tmp_path / "store") if request.param == "files" else MemoryStore()


async def chunks(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece


async def put(store: Store, *data: bytes) -> str:
    await store.put(key := new_key(), chunks(*data))
    return key


async def listed(store: Store, older_than: timedelta = NOW) -> set[str]:
    return {key async for keys in store.list(older_than=older_than) for key in keys}


def stored(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file()]


# Every store


async def test_store_put_stores_one_object(store: Store) -> None:
    data = [os.urandom(BLOCK_BYTES), os.urandom(2 * BLOCK_BYTES), b"end"]
    key = await put(store, *data)
    with store.open_range(key) as file:
        assert file.read() == b"".join(data)
    assert store.size(key) == 3 * BLOCK_BYTES + 3
    await store.put(key, chunks(b"another"))
    with store.open_range(key) as file:
        assert file.read() == b"another"
    assert store.size(await put(store)) == 0


async def test_store_open_range_reads_a_stretch(store: Store) -> None:
    key = await put(store, bytes(range(100)))
    for start, length in ((0, None), (10, None), (10, 20), (90, 50), (100, 1), (0, 0)):
        with store.open_range(key, start, length) as file:
            pieces = list(iter(lambda file=file: file.read(7), b""))  # type: ignore[misc]
        assert b"".join(pieces) == bytes(range(100))[start : None if length is None else start + length]


async def test_store_missing_object_is_said_to_be_missing(store: Store) -> None:
    gone = await put(store, b"x")
    await store.delete_many([gone, new_key()])
    await store.delete_many([])
    for key in (gone, new_key()):
        with pytest.raises(ObjectMissing):
            store.open_range(key)
        with pytest.raises(ObjectMissing):
            store.size(key)


async def test_store_list_finds_objects_by_age(store: Store) -> None:
    assert await listed(store) == set()
    keys = {await put(store, b"x") for _ in range(3)}
    assert await listed(store) == keys
    assert await listed(store, LONG_AGO) == set()
    await store.delete_many(gone := list(keys)[:2])
    assert await listed(store) == keys - set(gone)


async def test_store_put_that_breaks_off_leaves_nothing(store: Store) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * (BLOCK_BYTES + 1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await store.put(new_key(), breaking())
    assert await listed(store) == set()


async def test_store_put_that_is_cancelled_leaves_nothing(store: Store) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * BLOCK_BYTES
            begun.set()
            await asyncio.sleep(0)

    task = asyncio.create_task(store.put(new_key(), endless()))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await listed(store) == set()


async def test_store_require_and_check_know_the_room(store: Store) -> None:
    await store.require(1000)
    await store.check()
    assert await listed(store) == set()
    with pytest.raises(NoSpace):
        await store.require(1 << 60)


# Checksums above every store


async def segments_of(store: Store, *bodies: bytes) -> list[Segment]:
    segments, offset = [], 0
    for body in bodies:
        segments.append(await write_segment(store, new_key(), offset, chunks(body)))
        offset += len(body)
    return segments


async def test_store_write_segment_takes_checksums_of_each_block(store: Store) -> None:
    data, digest = bytes(range(256)) * (2 * BLOCK_BYTES // 256) + b"end", hashlib.sha256()
    pieces = [data[at : at + 65_537] for at in range(0, len(data), 65_537)]
    segment = await write_segment(store, key := new_key(), 7, chunks(*pieces), digest)
    assert (segment.key, segment.offset, segment.length) == (key, 7, len(data))
    assert digest.digest() == hashlib.sha256(data).digest()
    sums = [zlib.crc32(block) for block in (data[:BLOCK_BYTES], data[BLOCK_BYTES : 2 * BLOCK_BYTES], b"end")]
    assert struct.unpack(">3I", segment.checksums) == tuple(sums)
    assert segment == await write_segment(store, key, 7, chunks(data))
    assert (await write_segment(store, new_key(), 0, chunks())).length == 0


async def test_store_write_segment_that_breaks_off_leaves_nothing(store: Store) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield b"x" * (BLOCK_BYTES + 1)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await write_segment(store, new_key(), 0, breaking())
    assert await listed(store) == set()


async def test_store_open_segments_is_one_stream(store: Store) -> None:
    segments = await segments_of(store, b"a" * 3_000_000, b"b", b"c" * 70_000)
    with open_segments(store, segments, 3_070_001) as stream:
        assert stream.read(2) == b"aa"
        assert stream.read() == b"a" * 2_999_998 + b"b" + b"c" * 70_000
        assert stream.read(1) == b""


@pytest.mark.parametrize("damage", ["flipped", "shorter", "longer"])
async def test_store_open_segments_hands_out_no_wrong_byte(store: Store, damage: str) -> None:
    length = 3 * BLOCK_BYTES + 5
    segments = await segments_of(store, b"a" * 100_000, b"b" * length)
    data = {
        "flipped": b"b" * (2 * BLOCK_BYTES) + b"c" + b"b" * (length - 2 * BLOCK_BYTES - 1),
        "shorter": b"b" * 99_999,
        "longer": b"b" * (length + 1),
    }[damage]
    await store.put(segments[1].key, chunks(data))
    pieces: list[bytes] = []
    with open_segments(store, segments, 100_000 + length) as stream, pytest.raises(ObjectCorrupt):
        pieces.extend(iter(lambda: stream.read(4096), b""))
    taken = b"".join(pieces)
    right = 100_000 + (2 * BLOCK_BYTES if damage == "flipped" else 0)
    assert taken == (b"a" * 100_000 + b"b" * length)[: len(taken)]
    assert right - 4096 < len(taken) <= right


@pytest.mark.parametrize("left", [[1, 2], [0, 2], [0, 1], [0], []], ids=["first", "middle", "last", "two", "all"])
async def test_store_open_segments_notices_a_segment_that_is_not_listed(store: Store, left: list[int]) -> None:
    segments = await segments_of(store, b"a", b"b", b"c")
    with open_segments(store, [segments[at] for at in left], 3) as stream, pytest.raises(ObjectMissing):
        stream.read()


async def test_store_open_segments_notices_a_segment_that_is_gone(store: Store) -> None:
    segments = await segments_of(store, b"a", b"b", b"c")
    await store.delete_many([segments[1].key])
    with open_segments(store, segments, 3) as stream, pytest.raises(ObjectMissing):
        stream.read()


def test_store_is_key_knows_our_own_keys() -> None:
    assert is_key(new_key())
    for name in (
        "",
        "rollcall-store",
        new_key()[1:],
        new_key() + "0",
        new_key()[1:] + "g",
        new_key().upper()[:-1] + "A",
    ):
        assert not is_key(name)


# Local files


async def test_store_open_store_keeps_files_in_the_data_directory(tmp_path: Path) -> None:
    key = await put(open_store(tmp_path / "not" / "there"), b"x")
    assert stored(tmp_path) == [tmp_path / "not" / "there" / "store" / key[:2] / key]


async def test_store_file_store_syncs_every_folder_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash of the machine takes back no folder above an object that was acknowledged: whoever made it."""
    synced: set[int] = set()
    fsync = os.fsync

    def noted(handle: int) -> None:
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    root = tmp_path / "data" / "store"
    key = await put(FileStore(root), b"x")
    chain = [root / key[:2], root, root.parent, tmp_path]
    assert {path.stat().st_ino for path in chain} <= synced

    synced.clear()  # another process finds the folders there, and cannot know whether they were synced
    second = FileStore(root)
    await second.put(key, chunks(b"y"))
    assert {path.stat().st_ino for path in chain[:-1]} <= synced

    synced.clear()
    await second.put(key, chunks(b"z"))
    assert synced == {(root / key[:2]).stat().st_ino}


async def stalled(*data: bytes) -> AsyncIterator[bytes]:
    for piece in data:
        yield piece
    await asyncio.Event().wait()


@pytest.mark.parametrize("body", [chunks, stalled], ids=["whole", "while more is awaited"])
async def test_store_file_store_waits_for_a_slow_disk(
    tmp_path: Path, body: Callable[[bytes], AsyncIterator[bytes]]
) -> None:
    """Nothing is closed under the hands of a thread that still writes: its number may be another file's by then."""
    key = new_key()
    (tmp_path / key[:2]).mkdir()
    os.mkfifo(tmp_path / "slow")
    (tmp_path / key[:2] / f"{key}.partial").symlink_to(tmp_path / "slow")
    disk = os.open(tmp_path / "slow", os.O_RDONLY | os.O_NONBLOCK)
    task = asyncio.create_task(FileStore(tmp_path).put(key, body(b"x" * BLOCK_BYTES)))
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
    assert not stored(tmp_path)


@pytest.mark.parametrize("blocks", [0, 1, 3])
async def test_store_file_store_says_that_the_disk_is_full(tmp_path: Path, blocks: int) -> None:
    key = new_key()
    (tmp_path / key[:2]).mkdir()
    (tmp_path / key[:2] / f"{key}.partial").symlink_to("/dev/full")
    with pytest.raises(NoSpace):
        await FileStore(tmp_path).put(key, chunks(*[b"x" * BLOCK_BYTES] * blocks, b"x"))
    assert not stored(tmp_path)


async def test_store_file_store_leaves_some_of_the_disk_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = os.statvfs(tmp_path)
    store, room = FileStore(tmp_path / "store"), disk.f_bavail * disk.f_frsize
    await store.require(room // 2)
    with pytest.raises(NoSpace):
        await store.require(room * 2)
    monkeypatch.setattr(files, "RESERVE_BYTES", room * 2)
    with pytest.raises(NoSpace):
        await store.put(new_key(), chunks(b"x"))
    with pytest.raises(NoSpace):
        await store.check()
    assert not stored(tmp_path)


async def test_store_file_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("in the way")
    store = FileStore(tmp_path / "store")
    with pytest.raises(StoreDown):
        await store.check()
    with pytest.raises(StoreDown):
        await store.put(new_key(), chunks(b"x"))
    (tmp_path / "store").unlink()
    await store.check()
    assert not stored(tmp_path)


async def test_store_file_store_leaves_its_reserve_free(tmp_path: Path) -> None:
    disk = os.statvfs(tmp_path)
    store = FileStore(tmp_path / "store", reserve=2 * disk.f_blocks * disk.f_frsize)
    for refused in (store.require(1), store.check(), put(store, b"x")):
        with pytest.raises(NoSpace):
            await refused
