"""Receive one body: bytes arriving → Segments in the store → an Import that waits in the queue.

    announce   a Segment's row, committed before its object is written
    put        the object; durable
    keep       the row says so
    finish     one transaction: the Upload is complete and the Import exists

So an object without a row, or an Import without its bytes, cannot come about. A body that breaks off leaves nothing: no
Import, no row, no object (what an accident in the middle of that leaves is known by its row, and swept).

A request that carries a key of its own (Idempotency-Key) becomes one Import however often it is sent. The key stands on
the Upload; what was asked under it is the Import itself: source, options and the SHA-256 of the bytes. A twin that is
still arriving is waited for by the client, until it is not seen any more (SILENCE): then its place is taken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import structlog

from rollcall import imports, uploads
from rollcall.database import Connection, Database
from rollcall.errors import (
    DatabaseDown,
    IdempotencyMismatch,
    InvalidInput,
    RollcallError,
    StillArriving,
    StoreDown,
    TooManyRequests,
    Unavailable,
)
from rollcall.imports import Import
from rollcall.options import Options
from rollcall.storage import Segment, Store, new_key, write_segment
from rollcall.telemetry import RECEIVED_BYTES, SEGMENT_RETRIES
from rollcall.waiting import to_the_end

RETRY_SECONDS = (0, 3, 5, 10, 20)
"""Pauses before a Segment of a resumable upload is put once more: the brief's."""
SEEN_SECONDS = 5.0
"""How often an Upload that arrives is said to be alive."""
SILENCE = timedelta(seconds=20)
"""One that was not seen for so long does not count: its process is gone, or frozen."""
IDEMPOTENCY_KEY_LIFE = timedelta(hours=24)

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """How many Uploads of one sender may arrive, and how many of its Imports be queued, at a time."""

    arriving: int
    queued: int


async def receive(
    body: AsyncIterator[bytes],
    *,
    database: Database,
    store: Store,
    wish: Callable[[], tuple[str, Options]],
    segment_bytes: int | None,
    name: str | None = None,
    content_type: str | None = None,
    created_by: str | None = None,
    idempotency_key: str | None = None,
    limits: Limits | None = None,
) -> UUID:
    """Store the body and queue its Import; the Import's id.

    `wish`: the Source and the Options, asked for when the body is whole (a form may name them after the file).
    `segment_bytes` None: one Segment; else Segments of that size (each held in memory), each retried on its own.
    `name`, `content_type`: what the sender says about the file, for people only. `created_by`: the sender's API key by
    name; without keys, None is one sender. `idempotency_key`: of this sender, 1 to 255 characters; the same request
    under it is answered with the same Import. Raises TooManyRequests when the sender is beyond `limits`; StillArriving,
    IdempotencyMismatch; InvalidInput when the body is empty; what `body` and `wish` raise; DatabaseDown, StoreDown,
    NoSpace, UploadFailed. After any of them nothing is left.
    """
    upload_id = imports.new_id()
    async with database.transaction() as tx:
        await uploads.lock_sender(tx, created_by)
        first, dropped = await _first(tx, created_by, idempotency_key) if idempotency_key else (None, [])
        if first is None:
            await _admit(tx, created_by, limits)
            named = {"name": _printable(name), "content_type": _printable(content_type)}
            await uploads.create(tx, upload_id, **named, created_by=created_by, idempotency_key=idempotency_key)
    await store.delete_many(dropped)
    if first is not None:
        return await _again(body, wish, first)
    keys: list[str] = []
    try:
        async with _seen(database, upload_id):
            length, sha256 = await _bytes(database, store, upload_id, body, segment_bytes, keys)
            if not length:
                text = "The body is empty."
                raise InvalidInput(text, issues=[{"path": ["body"], "code": "required", "message": text}])
            source, options = wish()
            job_id = await _finish(database, upload_id, length, sha256, source, options, created_by)
    except BaseException:
        await to_the_end(_drop(database, store, upload_id, keys))
        raise
    RECEIVED_BYTES.inc(length)
    log.info("import.queued", import_id=str(job_id), bytes=length)
    return job_id


async def _first(tx: Connection, created_by: str | None, idempotency_key: str) -> tuple[Import | None, list[str]]:
    """The Import that this key stands for, if there is one, and the objects of an Upload that was given up for it.

    Raises StillArriving.
    """
    upload_id = await uploads.find_by_idempotency_key(tx, created_by, idempotency_key, IDEMPOTENCY_KEY_LIFE)
    if upload_id is None:
        return None, []
    if first := await imports.of_upload(tx, upload_id):
        return first, []
    dropped = await uploads.drop(tx, upload_id, silence=SILENCE)
    if dropped is None:
        raise StillArriving
    return None, dropped


async def _again(body: AsyncIterator[bytes], wish: Callable[[], tuple[str, Options]], first: Import) -> UUID:
    """Read a request that came before, to see that it is the same. Raises IdempotencyMismatch."""
    digest = hashlib.sha256()
    async for piece in body:
        await asyncio.to_thread(digest.update, piece)
    source, options = wish()
    if (source, options.to_json(), digest.digest()) != (first.source, first.options, first.sha256):
        raise IdempotencyMismatch
    return first.id


async def _admit(tx: Connection, created_by: str | None, limits: Limits | None) -> None:
    """What arrives will be queued, so its place in the queue is taken now: no file is refused once it was sent."""
    if limits is None:
        return
    arriving = await uploads.count_arriving(tx, created_by, SILENCE)
    if arriving >= limits.arriving:
        raise TooManyRequests(
            f"{arriving} uploads are arriving already (MAX_ARRIVING_UPLOADS). Send this one when one of them is done."
        )
    queued = await imports.count_queued(tx, created_by)
    if queued + arriving >= limits.queued:
        raise TooManyRequests(
            f"{queued + arriving} imports are queued already (MAX_QUEUED_IMPORTS). Send this one when one of them runs."
        )


@asynccontextmanager
async def _seen(database: Database, upload_id: UUID) -> AsyncGenerator[None, None]:
    """Say that it is alive, while the block runs."""

    async def say() -> None:
        while True:
            await asyncio.sleep(SEEN_SECONDS)
            with suppress(Unavailable):  # bytes are stored without it
                async with database.session() as tx:
                    await uploads.touch(tx, upload_id)

    saying = asyncio.create_task(say())
    try:
        yield
    finally:
        saying.cancel()
        await asyncio.gather(saying, return_exceptions=True)


async def _bytes(
    database: Database,
    store: Store,
    upload_id: UUID,
    body: AsyncIterator[bytes],
    segment_bytes: int | None,
    keys: list[str],
) -> tuple[int, bytes]:
    """Store them all; their length and SHA-256. `keys`: gets those of the objects, before they are written."""
    length, sha256 = 0, hashlib.sha256()
    async for segment_body in _segments(body, segment_bytes):
        keys.append(new_key())
        length += await _store(database, store, upload_id, length, keys[-1], segment_body, sha256)
    return length, sha256.digest()


SegmentBody = AsyncIterator[bytes] | bytes
"""A Segment on its way: a stream that can be read once, or bytes that can be put again."""


async def _segments(body: AsyncIterator[bytes], size: int | None) -> AsyncIterator[SegmentBody]:
    if size is None:
        yield body
        return
    held = bytearray()
    async for chunk in body:
        held += chunk
        while len(held) >= size:
            yield bytes(held[:size])
            del held[:size]
    if held:
        yield bytes(held)


async def _store(
    database: Database, store: Store, upload_id: UUID, offset: int, key: str, body: SegmentBody, digest: Any
) -> int:
    """Store a Segment; its length. `digest` takes in its bytes, once."""
    async with database.session() as tx:
        await uploads.begin_segment(tx, upload_id, offset, key)
    if isinstance(body, bytes):
        await asyncio.to_thread(digest.update, body)
        segment = await _put_again(store, key, offset, body)
    else:
        segment = await write_segment(store, key, offset, body, digest)
    if segment.length:
        async with database.session() as tx:
            await uploads.finish_segment(tx, upload_id, segment)
    return segment.length


async def _put_again(store: Store, key: str, offset: int, body: bytes) -> Segment:
    for seconds in RETRY_SECONDS:
        try:
            return await write_segment(store, key, offset, _once(body))
        except StoreDown:
            SEGMENT_RETRIES.inc()
            log.warning("segment.retry", seconds=seconds)
            await asyncio.sleep(seconds)
    return await write_segment(store, key, offset, _once(body))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _finish(
    database: Database,
    upload_id: UUID,
    length: int,
    sha256: bytes,
    source: str,
    options: Options,
    created_by: str | None,
) -> UUID:
    job_id = imports.new_id()
    try:
        async with database.transaction() as tx:
            await uploads.complete(tx, upload_id, length)
            await imports.create(
                tx,
                job_id,
                source=source,
                upload_id=upload_id,
                bytes_total=length,
                sha256=sha256,
                options=options.to_json(),
                created_by=created_by,
            )
    except DatabaseDown:
        # The answer to the COMMIT may be all that was lost.
        async with database.session() as tx:
            if await imports.state_and_attempt(tx, job_id) is None:
                raise
    return job_id


async def _drop(database: Database, store: Store, upload_id: UUID, keys: list[str]) -> None:
    try:
        async with database.transaction() as tx:
            complete = await uploads.drop(tx, upload_id) is None
        if not complete:
            await store.delete_many(keys)
    except RollcallError as error:
        log.warning("upload.left", upload_id=str(upload_id), code=error.code)


def _printable(text: str | None) -> str | None:
    """Fit for a `text` column: no NUL, no half characters."""
    return text and "".join(character for character in text if character.isprintable())[:255]
