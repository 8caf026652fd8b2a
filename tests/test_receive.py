"""Receiving: an import has all of its bytes, and a body that breaks off leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from rollcall import imports, receive, uploads
from rollcall.database import Database
from rollcall.errors import InvalidInput, StoreDown
from rollcall.options import Options
from rollcall.storage import FileStore, open_segments
from service import objects, rows, until

BODY = os.urandom(250_000)
SEGMENT = 100_000


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Database, None]:
    async with Database(database_url) as database:
        yield database


async def pieces(data: bytes, size: int = 7_001) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def wish() -> tuple[str, Options]:
    return "crm", Options(on_duplicate="skip")


async def take(database: Database, folder: Path, body: AsyncIterator[bytes], segment_bytes: int | None = None) -> UUID:
    store = FileStore(folder / "store")
    return await receive.receive(body, database=database, store=store, wish=wish, segment_bytes=segment_bytes)


def nothing_left(database_url: str, folder: Path) -> None:
    assert not rows(database_url, "select id from rollcall.uploads union all select id from rollcall.imports")
    assert not rows(database_url, "select key from rollcall.segments")
    assert not objects(folder)


@pytest.mark.parametrize(("segment_bytes", "lengths"), [(None, [250_000]), (SEGMENT, [100_000, 100_000, 50_000])])
async def test_an_import_has_all_its_bytes(
    database: Database, tmp_path: Path, segment_bytes: int | None, lengths: list[int]
) -> None:
    job_id = await take(database, tmp_path, pieces(BODY), segment_bytes)
    async with database.session() as tx:
        job = await imports.show(tx, job_id)
        assert job is not None
        segments = await uploads.segments(tx, job.upload_id)
    assert (job.state, job.source, job.bytes_total) == ("queued", "crm", len(BODY))
    assert Options.from_json(job.options) == Options(on_duplicate="skip")
    assert [segment.length for segment in segments] == lengths
    assert job.sha256 == hashlib.sha256(BODY).digest()
    with open_segments(FileStore(tmp_path / "store"), segments, len(BODY)) as stream:
        assert stream.read() == BODY


async def test_an_empty_body_is_none(database: Database, database_url: str, tmp_path: Path) -> None:
    for segment_bytes in (None, SEGMENT):
        with pytest.raises(InvalidInput) as refused:
            await take(database, tmp_path, pieces(b""), segment_bytes)
        assert refused.value.issues == [{"path": ["body"], "code": "required", "message": "The body is empty."}]
    nothing_left(database_url, tmp_path)


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_a_body_that_breaks_off_leaves_nothing(
    database: Database, database_url: str, tmp_path: Path, segment_bytes: int | None
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces(BODY):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await take(database, tmp_path, breaking(), segment_bytes)
    nothing_left(database_url, tmp_path)


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_what_is_cancelled_leaves_nothing(
    database: Database, database_url: str, tmp_path: Path, segment_bytes: int | None
) -> None:
    async def stalling() -> AsyncIterator[bytes]:
        yield BODY * 5
        await asyncio.Event().wait()

    task = asyncio.create_task(take(database, tmp_path, stalling(), segment_bytes))
    await until(lambda: len(objects(tmp_path)) == (1 if segment_bytes is None else 12))
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # servers do so, and event loops that end
    with pytest.raises(asyncio.CancelledError):
        await task
    nothing_left(database_url, tmp_path)


async def test_what_is_refused_at_the_end_leaves_nothing(database: Database, database_url: str, tmp_path: Path) -> None:
    def no_wish() -> tuple[str, Options]:
        raise InvalidInput("No source.")

    with pytest.raises(InvalidInput):
        await receive.receive(
            pieces(BODY), database=database, store=FileStore(tmp_path / "store"), wish=no_wish, segment_bytes=None
        )
    nothing_left(database_url, tmp_path)


async def failing_store(folder: Path) -> AsyncIterator[bytes]:
    """A body; when its second Segment comes, the store is gone."""
    yield BODY[:SEGMENT]
    (folder / "store").rename(folder / "aside")
    (folder / "store").write_text("in the way")
    yield BODY[SEGMENT:]


async def test_a_segment_is_put_again_when_the_store_fails(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "RETRY_SECONDS", (0.02,) * 1000)
    with capture_logs() as logs:
        task = asyncio.create_task(take(database, tmp_path, failing_store(tmp_path), SEGMENT))
        await until(lambda: task.done() or any(line["event"] == "segment.retry" for line in logs))
    (tmp_path / "store").unlink()
    (tmp_path / "aside").rename(tmp_path / "store")
    job_id = await task
    async with database.session() as tx:
        job = await imports.show(tx, job_id)
        assert job is not None
        segments = await uploads.segments(tx, job.upload_id)
    with open_segments(FileStore(tmp_path / "store"), segments, len(BODY)) as stream:
        assert stream.read() == BODY


async def test_a_store_that_stays_away_is_said(
    database: Database, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receive, "RETRY_SECONDS", (0, 0))
    with pytest.raises(StoreDown):
        await take(database, tmp_path, failing_store(tmp_path), SEGMENT)
    assert not rows(database_url, "select id from rollcall.imports")


async def test_a_complete_upload_is_never_dropped(database: Database, database_url: str, tmp_path: Path) -> None:
    await take(database, tmp_path, pieces(BODY))
    [(upload_id,)] = rows(database_url, "select id from rollcall.uploads")
    async with database.transaction() as tx:
        assert await uploads.drop(tx, upload_id) is None
    assert len(rows(database_url, "select key from rollcall.segments")) == len(objects(tmp_path)) == 1


async def test_ids_are_uuid7_in_order_of_time() -> None:
    first = imports.new_id()
    await asyncio.sleep(0.002)
    second = imports.new_id()
    assert first < second
    assert (first.version, first.variant, first != imports.new_id()) == (7, "specified in RFC 4122", True)
