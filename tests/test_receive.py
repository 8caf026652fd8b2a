"""Receiving: an import has all of its bytes, and a body that breaks off leaves nothing."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs

from rollcall import imports, liveness, receive, segment_writer, uploads
from rollcall.database import SENDER_LOCK_CLASS
from rollcall.errors import InvalidInput, StillArriving, StoreDown, TooManyRequests, UploadFailed
from rollcall.options import Options
from rollcall.pool import Pool
from rollcall.receive import Limits, begin, digest, finish, one_request
from rollcall.segment_writer import append, append_what_comes
from rollcall.storage import FileStore, open_segments
from rollcall.uploads import Incoming, Upload
from service import objects, rows, until

BODY = os.urandom(250_000)
SEGMENT = 100_000


@pytest.fixture
async def database(database_url: str) -> AsyncGenerator[Pool, None]:
    async with Pool(database_url) as database:
        yield database


async def pieces(data: bytes, size: int = 7_001) -> AsyncIterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def wish() -> tuple[str, Options]:
    return "crm", Options(on_duplicate="skip")


async def take(database: Pool, folder: Path, body: AsyncIterator[bytes], segment_bytes: int | None = None) -> UUID:
    store = FileStore(folder / "store")
    return await receive.receive(body, database=database, store=store, wish=wish, segment_bytes=segment_bytes)


def nothing_left(database_url: str, folder: Path) -> None:
    assert not rows(database_url, "select id from rollcall.uploads union all select id from rollcall.imports")
    assert not rows(database_url, "select key from rollcall.segments")
    assert not objects(folder)


@pytest.mark.parametrize(("segment_bytes", "lengths"), [(None, [250_000]), (SEGMENT, [100_000, 100_000, 50_000])])
async def test_receive_an_import_has_all_its_bytes(
    database: Pool, tmp_path: Path, segment_bytes: int | None, lengths: list[int]
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


async def test_receive_an_empty_body_is_none(database: Pool, database_url: str, tmp_path: Path) -> None:
    for segment_bytes in (None, SEGMENT):
        with pytest.raises(InvalidInput) as refused:
            await take(database, tmp_path, pieces(b""), segment_bytes)
        assert refused.value.issues == [{"path": ["body"], "code": "required", "message": "The body is empty."}]
    nothing_left(database_url, tmp_path)


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_receive_a_body_that_breaks_off_leaves_nothing(
    database: Pool, database_url: str, tmp_path: Path, segment_bytes: int | None
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        async for piece in pieces(BODY):
            yield piece
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await take(database, tmp_path, breaking(), segment_bytes)
    nothing_left(database_url, tmp_path)


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_receive_what_is_cancelled_leaves_nothing(
    database: Pool, database_url: str, tmp_path: Path, segment_bytes: int | None
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


async def test_receive_what_is_refused_at_the_end_leaves_nothing(
    database: Pool, database_url: str, tmp_path: Path
) -> None:
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


async def test_receive_a_segment_is_put_again_when_the_store_fails(
    database: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "RETRY_SECONDS", (0.02,) * 1000)
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


async def test_receive_a_store_that_stays_away_is_said(
    database: Pool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "RETRY_SECONDS", (0, 0))
    with pytest.raises(StoreDown):
        await take(database, tmp_path, failing_store(tmp_path), SEGMENT)
    assert not rows(database_url, "select id from rollcall.imports")


async def test_receive_a_complete_upload_is_never_dropped(database: Pool, database_url: str, tmp_path: Path) -> None:
    await take(database, tmp_path, pieces(BODY))
    [(upload_id,)] = rows(database_url, "select id from rollcall.uploads")
    async with database.transaction() as tx:
        assert await uploads.drop(tx, upload_id) is None
    assert len(rows(database_url, "select key from rollcall.segments")) == len(objects(tmp_path)) == 1


# Parts of it: an upload that comes in several requests


async def stored(database: Pool, folder: Path, upload_id: UUID, length: int) -> bytes:
    async with database.session() as tx:
        segments = await uploads.segments(tx, upload_id)
    with open_segments(FileStore(folder / "store"), segments, length) as stream:
        return stream.read()


async def resume(database: Pool, store: FileStore, upload_id: UUID) -> Upload:
    async with database.session() as tx:
        found = await uploads.resume(tx, upload_id)
    assert found is not None
    upload, unfinished = found
    await store.delete_many(unfinished)
    return upload


async def breaking(data: bytes) -> AsyncIterator[bytes]:
    async for piece in pieces(data):
        yield piece
    raise ConnectionResetError


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_receive_append_what_comes_keeps_the_bytes_of_a_body_that_breaks_off(
    database: Pool, database_url: str, tmp_path: Path, segment_bytes: int | None
) -> None:
    """And another process goes on after them; of an append that was killed nothing is in the way."""
    store = FileStore(tmp_path / "store")
    upload = (await begin(database, store, Incoming(name="a.csv"), pausable=True)).upload
    for at, end in ((0, 120_001), (120_001, 130_000), (130_000, 130_000), (130_000, 240_000)):
        assert upload.length == at
        with pytest.raises(ConnectionResetError):
            await append_what_comes(database, store, upload, breaking(BODY[at:end]), segment_bytes=segment_bytes)
        assert await stored(database, tmp_path, upload.id, end) == BODY[:end]
        async with database.session() as tx:
            await uploads.begin_segment(tx, upload.id, 240_000 + end, "killed")
        upload = await resume(database, store, upload.id)
    await append_what_comes(database, store, upload, pieces(BODY[240_000:]), segment_bytes=segment_bytes)
    assert upload.sha256 is None
    assert await digest(database, store, upload) == hashlib.sha256(BODY).digest()
    async with finish(database, upload):
        pass
    assert rows(database_url, "select state, length, name from rollcall.uploads") == [("complete", len(BODY), "a.csv")]
    assert len(rows(database_url, "select key from rollcall.segments")) == len(objects(tmp_path))
    with pytest.raises(UploadFailed):
        async with finish(database, upload):
            pass


@pytest.mark.parametrize("segment_bytes", [None, SEGMENT])
async def test_receive_append_what_comes_keeps_the_bytes_when_it_is_cancelled(
    database: Pool, tmp_path: Path, segment_bytes: int | None
) -> None:
    sent = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield BODY
        sent.set()
        await asyncio.Event().wait()

    store = FileStore(tmp_path / "store")
    upload = (await begin(database, store, Incoming(), pausable=True)).upload
    task = asyncio.create_task(append_what_comes(database, store, upload, stalling(), segment_bytes=segment_bytes))
    await sent.wait()
    for _ in range(3):  # servers do so, and event loops that end
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert upload.length == len(BODY)
    assert await stored(database, tmp_path, upload.id, len(BODY)) == BODY


async def test_receive_append_that_breaks_off_keeps_what_was_whole(database: Pool, tmp_path: Path) -> None:
    store = FileStore(tmp_path / "store")
    upload = (await begin(database, store, Incoming(), pausable=True)).upload
    with pytest.raises(ConnectionResetError):
        await append(database, store, upload, breaking(BODY), segment_bytes=SEGMENT)
    upload = await resume(database, store, upload.id)
    assert await stored(database, tmp_path, upload.id, upload.length) == BODY[: 2 * SEGMENT]
    assert len(objects(tmp_path)) == 2


async def test_receive_finish_notices_a_segment_that_is_not_there(
    database: Pool, database_url: str, tmp_path: Path
) -> None:
    store = FileStore(tmp_path / "store")
    upload = (await begin(database, store, Incoming())).upload
    await append(database, store, upload, pieces(BODY), segment_bytes=SEGMENT)
    with psycopg.connect(database_url) as connection:
        connection.execute('delete from rollcall.segments where "offset" = 200000')
    with pytest.raises(UploadFailed):
        async with finish(database, upload):
            pass


async def test_receive_begin_lets_a_paused_upload_keep_its_key_and_its_place(
    database: Pool, database_url: str, tmp_path: Path
) -> None:
    """Silence is the death of an upload of one request only."""
    store, incoming = FileStore(tmp_path / "store"), Incoming(idempotency_key="one")
    for pausable in (False, True):
        upload = (await begin(database, store, incoming, pausable=pausable)).upload
        with psycopg.connect(database_url) as connection:
            connection.execute("update rollcall.uploads set seen_at = seen_at - interval '23 hours'")
        if pausable:
            with pytest.raises(StillArriving):
                await begin(database, store, incoming)
            with pytest.raises(TooManyRequests):
                await begin(database, store, Incoming(), Limits(arriving=1, queued=10))
        else:
            await begin(database, store, Incoming(), Limits(arriving=1, queued=10))
            async with database.session() as tx:
                await uploads.drop(tx, upload.id)


async def test_receive_one_request_counts_before_its_first_byte(
    database: Pool, database_url: str, tmp_path: Path
) -> None:
    """Also one that is sent again, and will become no import."""
    store, limits = FileStore(tmp_path / "store"), Limits(arriving=1, queued=1)
    incoming = Incoming(idempotency_key="one")
    job_id = await receive.receive(
        pieces(BODY), database=database, store=store, wish=wish, segment_bytes=None, incoming=incoming
    )
    async with one_request(database, store, incoming, limits) as arrival:
        assert arrival.first is not None
        assert arrival.first.id == job_id
        for another in (incoming, Incoming()):
            with pytest.raises(TooManyRequests, match="1 uploads are arriving"):
                await begin(database, store, another, limits)
    assert len(rows(database_url, "select id from rollcall.uploads")) == 1
    with pytest.raises(TooManyRequests, match="queued"):
        await begin(database, store, Incoming(), limits)


async def test_receive_begin_waits_for_its_turn_in_a_burst(database: Pool, database_url: str, tmp_path: Path) -> None:
    """Others of the same sender may need longer than the second that is waited for other locks."""
    with psycopg.connect(database_url) as others:
        others.execute("select pg_advisory_xact_lock(%s, hashtext(''))", (SENDER_LOCK_CLASS,))
        store = FileStore(tmp_path / "store")
        burst = [asyncio.create_task(begin(database, store, Incoming())) for _ in range(5)]
        done, _ = await asyncio.wait(burst, timeout=1.5)
        assert not done
    await asyncio.gather(*burst)


async def test_receive_ids_are_uuid7_in_order_of_time() -> None:
    first = imports.new_id()
    await asyncio.sleep(0.002)
    second = imports.new_id()
    assert first < second
    assert (first.version, first.variant, first != imports.new_id()) == (7, "specified in RFC 4122", True)


async def test_receive_alive_says_it_of_all_uploads_in_one_statement(
    database: Pool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.1)
    store = FileStore(tmp_path / "store")
    async with AsyncExitStack() as stack:
        for _ in range(10):
            await stack.enter_async_context(one_request(database, store, Incoming()))
        written_by = "select count(*), count(distinct xmin::text) from rollcall.uploads"
        await until(lambda: rows(database_url, written_by) == [(10, 1)])
    nothing_left(database_url, tmp_path)


async def test_receive_touch_does_not_wait_for_a_locked_upload(
    database: Pool, database_url: str, tmp_path: Path
) -> None:
    first, second = [await begin(database, FileStore(tmp_path / "store"), Incoming()) for _ in range(2)]
    seen = f"select seen_at from rollcall.uploads where id = '{second.upload.id}'"
    before = rows(database_url, seen)
    with psycopg.connect(database_url) as other:
        other.execute("select from rollcall.uploads where id = %s for update", (first.upload.id,))
        async with asyncio.timeout(10), database.session() as tx:
            await uploads.touch(tx, [first.upload.id, second.upload.id])
    assert rows(database_url, seen) > before


async def test_receive_append_stores_shorter_segments_while_memory_is_short(
    database: Pool, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segment_writer, "HELD_BYTES_MAX", 100_000)
    read, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield BODY[:80_000]
        read.set()
        await go_on.wait()

    sending = asyncio.create_task(take(database, tmp_path, slow(), 1_000_000))
    await read.wait()
    lengths = "select length from rollcall.segments order by length"
    await take(database, tmp_path, pieces(BODY, 80_000), 1_000_000)
    assert rows(database_url, lengths) == [(10_000,), (80_000,), (80_000,), (80_000,)]
    go_on.set()
    await sending
    await take(database, tmp_path, pieces(BODY, 80_000), 1_000_000)  # the memory of both is free again
    assert (90_000,) in rows(database_url, lengths)
