"""Receive one body: bytes arriving → Segments in the store → an Import that waits in the queue.

    announce   a Segment's row, committed before its object is written
    put        the object; durable
    keep       the row says so
    finish     one transaction: the Upload is complete and the Import exists

So an object without a row, or an Import without its bytes, cannot come about. A body that breaks off leaves nothing: no
Import, no row, no object (what an accident in the middle of that leaves is known by its row, and swept).
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

import structlog

from rollcall import imports, uploads
from rollcall.database import Connection, Database
from rollcall.errors import DatabaseDown, InvalidInput, RollcallError, StoreDown, TooManyRequests
from rollcall.options import Options
from rollcall.storage import Segment, Store, new_key
from rollcall.telemetry import RECEIVED_BYTES, SEGMENT_RETRIES

RETRY_SECONDS = (0, 3, 5, 10, 20)
"""Pauses before a Segment of a resumable upload is put once more: the brief's."""
SEEN_SECONDS = 20.0
"""How often an Upload whose bytes come is said to be alive."""
SILENCE = timedelta(minutes=2)
"""One that was not seen for so long is not counted: its process is gone (a body that stands still ends sooner)."""

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
    limits: Limits | None = None,
) -> UUID:
    """Store the body and queue its Import; the Import's id.

    `wish`: the Source and the Options, asked for when the body is whole (a form may name them after the file).
    `segment_bytes` None: one Segment; else Segments of that size (each held in memory), each retried on its own.
    `name`, `content_type`: what the sender says about the file, for people only. `created_by`: the sender's API key by
    name; without keys, None is one sender. Raises TooManyRequests when the sender is beyond `limits`; InvalidInput when
    the body is empty; what `body` and `wish` raise; DatabaseDown, StoreDown, NoSpace. After any of them nothing is
    left.
    """
    upload_id = imports.new_id()
    async with database.transaction() as tx:
        if limits:
            await _admit(tx, created_by, limits)
        await uploads.create(
            tx, upload_id, name=_printable(name), content_type=_printable(content_type), created_by=created_by
        )
    try:
        length, sha256 = 0, hashlib.sha256()
        async for segment_body in _segments(_seen(body, database, upload_id), segment_bytes):
            segment = await _store(database, store, upload_id, length, segment_body)
            length += segment.length
            if isinstance(segment_body, bytes):
                await asyncio.to_thread(sha256.update, segment_body)
        if not length:
            raise InvalidInput(
                "The body is empty.", issues=[{"path": ["body"], "code": "required", "message": "The body is empty."}]
            )
        source, options = wish()
        whole = segment.sha256 if segment.length == length else sha256.digest()
        job_id = await _finish(database, upload_id, length, whole, source, options, created_by)
    except BaseException:
        await _shielded(_drop(database, store, upload_id))
        raise
    RECEIVED_BYTES.inc(length)
    log.info("import.queued", import_id=str(job_id), bytes=length)
    return job_id


async def _admit(tx: Connection, created_by: str | None, limits: Limits) -> None:
    """What arrives will be queued, so its place in the queue is taken now: no file is refused once it was sent."""
    await uploads.lock_sender(tx, created_by)
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


async def _seen(body: AsyncIterator[bytes], database: Database, upload_id: UUID) -> AsyncIterator[bytes]:
    said = time.monotonic()
    async for chunk in body:
        yield chunk
        if time.monotonic() - said > SEEN_SECONDS:
            with suppress(DatabaseDown):  # bytes are stored without it
                async with database.session() as tx:
                    await uploads.see(tx, upload_id)
            said = time.monotonic()


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


async def _store(database: Database, store: Store, upload_id: UUID, offset: int, body: SegmentBody) -> Segment:
    key = new_key()
    async with database.session() as tx:
        await uploads.announce(tx, upload_id, offset, key)
    length, sha256 = await (_put_again(store, key, body) if isinstance(body, bytes) else store.put(key, body))
    segment = Segment(key, offset, length, sha256)
    if length:
        async with database.session() as tx:
            await uploads.keep(tx, upload_id, segment)
    return segment


async def _put_again(store: Store, key: str, body: bytes) -> tuple[int, bytes]:
    for seconds in RETRY_SECONDS:
        try:
            return await store.put(key, _once(body))
        except StoreDown:
            SEGMENT_RETRIES.inc()
            log.warning("segment.retry", seconds=seconds)
            await asyncio.sleep(seconds)
    return await store.put(key, _once(body))


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
            if await imports.standing(tx, job_id) is None:
                raise
    return job_id


async def _drop(database: Database, store: Store, upload_id: UUID) -> None:
    try:
        async with database.transaction() as tx:
            keys = await uploads.drop(tx, upload_id)
        for key in keys:
            await store.delete(key)
    except RollcallError as error:
        log.warning("upload.left", upload_id=str(upload_id), code=error.code)


async def _shielded(work: Coroutine[None, None, None]) -> None:
    """Wait for it to its end, even when the caller is cancelled meanwhile."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _printable(text: str | None) -> str | None:
    """Fit for a `text` column: no NUL, no half characters."""
    return text and "".join(character for character in text if character.isprintable())[:255]
