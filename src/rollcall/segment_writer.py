"""Append a body to an Upload: bytes arriving → Segments in the store.

    begin_segment    a row, committed before the object is written
    put              the object; durable
    finish_segment   the row says so, with length and checksums

So an object without a row cannot come about, and the durable rows of an Upload are exactly the bytes that it has. A
body may break off: then its bytes are either left to whoever drops the Upload, or kept, to be gone on after.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import structlog

from rollcall import uploads
from rollcall.database import Database
from rollcall.errors import StoreDown
from rollcall.storage import Segment, Store, new_key, write_segment
from rollcall.telemetry import SEGMENT_RETRIES
from rollcall.uploads import Upload
from rollcall.waiting import ended

RETRY_SECONDS = (0, 3, 5, 10, 20)
"""Pauses before a Segment of a resumable upload is put once more: the brief's."""

log = structlog.get_logger()

SegmentBody = AsyncIterator[bytes] | bytes
"""A Segment on its way: a stream that can be read once, or bytes that can be put again."""


async def append(
    database: Database, store: Store, upload: Upload, body: AsyncIterator[bytes], *, segment_bytes: int | None
) -> None:
    """Store the body's bytes after those that the Upload has; `upload` then says how many it has.

    `segment_bytes` None: one Segment; else Segments of that size (each held in memory), each retried on its own.
    Raises what `body` raises; DatabaseDown, StoreDown, NoSpace; UploadFailed when the Upload was dropped meanwhile.
    After any of them the whole Segments before it are still there: `uploads.drop` removes them.
    """
    try:
        async for segment_body in _cut(body, segment_bytes):
            upload.keys.append(key := new_key())
            async with database.session() as tx:
                await uploads.begin_segment(tx, upload.id, upload.length, key)
            segment = await _put(store, key, upload, segment_body)
            if segment.length:
                async with database.session() as tx:
                    await uploads.finish_segment(tx, upload.id, segment)
                upload.length += segment.length
    except BaseException:
        upload.sha256 = None  # it may have taken in bytes that are not stored
        raise


async def append_what_comes(
    database: Database, store: Store, upload: Upload, body: AsyncIterator[bytes], *, segment_bytes: int | None
) -> None:
    """`append`, but the bytes of a body that breaks off are kept, and so are those of a call that is cancelled.

    Raises the same, after what has arrived is durable; what could not be stored is not kept.
    """
    prefix = _Prefix(body)
    appending = asyncio.ensure_future(append(database, store, upload, prefix.chunks(), segment_bytes=segment_bytes))
    try:
        await asyncio.shield(appending)
    except asyncio.CancelledError:
        prefix.stop(appending)
        await ended(appending)
        raise
    if prefix.error is not None:
        raise prefix.error


class _Prefix:
    """A body as far as it comes: where it breaks off, or is stopped, it ends; `error` says why it broke off."""

    def __init__(self, body: AsyncIterator[bytes]) -> None:
        self._body, self._stopped, self._waiting = body, False, False
        self.error: Exception | None = None

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        while not self._stopped:
            self._waiting = True
            try:
                chunk = await anext(self._body, None)
            except asyncio.CancelledError:
                if not self._stopped or (task := asyncio.current_task()) is None:
                    raise
                task.uncancel()
                return
            except Exception as error:
                self.error = error
                return
            finally:
                self._waiting = False
            if chunk is None:
                return
            yield chunk

    def stop(self, reader: asyncio.Future[None]) -> None:
        """Let it end now: `reader` waits for no more of it. What it has taken it may store."""
        self._stopped = True
        if self._waiting:
            reader.cancel()


async def _cut(body: AsyncIterator[bytes], size: int | None) -> AsyncGenerator[SegmentBody, None]:
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


async def _put(store: Store, key: str, upload: Upload, body: SegmentBody) -> Segment:
    """The stored Segment. The Upload's digest takes in its bytes, once."""
    if not isinstance(body, bytes):
        return await write_segment(store, key, upload.length, body, upload.sha256)
    if upload.sha256 is not None:
        await asyncio.to_thread(upload.sha256.update, body)
    for seconds in RETRY_SECONDS:
        try:
            return await write_segment(store, key, upload.length, _once(body))
        except StoreDown:
            SEGMENT_RETRIES.inc()
            log.warning("segment.retry", seconds=seconds)
            await asyncio.sleep(seconds)
    return await write_segment(store, key, upload.length, _once(body))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data
