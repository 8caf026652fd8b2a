"""Receive a file: an Upload begins, its bytes are appended, it is complete; and an Import waits in the queue.

    begin      admit the sender, and make the Upload's row: before the first byte is awaited, so every byte counts
    append     its bytes (`segment_writer`)
    finish     one transaction: the Upload is complete, and what its caller adds to that
    drop       or it leaves nothing: no row, no object (what a crash leaves is known by its row, and swept)

Upload and Import are apart: nothing above knows an Import, but for the limits. `receive` is all of it for a body that
is one request and becomes one Import; `one_request` and `become_import` are its two halves, for a door that looks at
the body before it can say what it is.

A request with an Idempotency-Key becomes one Import however often it is sent. The key stands on the Upload; what was
asked under it is the Import itself: source, options and the SHA-256 of the bytes. Repeated ones are read to compare
them; they are Uploads too, without the key, and never complete. The client waits for a twin that still arrives, until
nothing has been heard of it for SILENCE: then its place is taken.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
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
    TooManyRequests,
    Unavailable,
)
from rollcall.imports import Import
from rollcall.options import Options
from rollcall.segment_writer import append
from rollcall.storage import Store, open_segments
from rollcall.telemetry import RECEIVED_BYTES
from rollcall.uploads import Incoming, Upload
from rollcall.waiting import in_thread, to_the_end

SEEN_SECONDS = 5.0
"""How often an Upload that arrives is said to be alive."""
SILENCE = timedelta(seconds=20)
"""An Upload of one request that was not heard of for this long does not count: its process is gone, or frozen."""
IDEMPOTENCY_KEY_LIFE = timedelta(hours=24)

log = structlog.get_logger()


@dataclass(frozen=True)
class Limits:
    """How many Uploads of one sender may arrive, and how many of its Imports be queued, at a time."""

    arriving: int
    queued: int


@dataclass(frozen=True)
class Arrival:
    """One request's body on its way into an Upload. `first`: the Import of an earlier request with the same key."""

    database: Database
    store: Store
    upload: Upload
    created_by: str | None = None
    first: Import | None = None


async def receive(
    body: AsyncIterator[bytes],
    *,
    database: Database,
    store: Store,
    wish: Callable[[], tuple[str, Options]],
    segment_bytes: int | None,
    incoming: Incoming | None = None,
    limits: Limits | None = None,
) -> UUID:
    """Store the body and queue its Import; the Import's id. Raises what `one_request` and `become_import` raise."""
    async with one_request(database, store, incoming or Incoming(), limits) as arrival:
        return await become_import(arrival, body, wish, segment_bytes=segment_bytes)


@asynccontextmanager
async def one_request(
    database: Database, store: Store, incoming: Incoming, limits: Limits | None = None
) -> AsyncGenerator[Arrival, None]:
    """An Upload of one request: it counts and is alive as long as the block runs; if it is not complete then, nothing
    is left of it. Raises TooManyRequests when the sender is beyond `limits`; StillArriving; DatabaseDown, StoreDown.
    """
    arrival = await begin(database, store, incoming, limits)
    try:
        async with _alive(database, arrival.upload.id):
            yield arrival
    finally:
        if not arrival.upload.complete:
            await to_the_end(drop(database, store, arrival.upload))


async def begin(
    database: Database, store: Store, incoming: Incoming, limits: Limits | None = None, *, pausable: bool = False
) -> Arrival:
    """The Upload's row, made before a byte of it is awaited. Raises TooManyRequests, StillArriving, DatabaseDown.

    `pausable`: it comes in several requests, and silence between them is no death (`uploads.resume`).
    """
    upload, first, dropped = Upload(imports.new_id()), None, list[str]()
    async with database.transaction() as tx:
        await uploads.lock_sender(tx, incoming.created_by)
        if incoming.idempotency_key is not None:
            first, dropped = await _first(tx, incoming.created_by, incoming.idempotency_key)
        if limits is not None:
            await _admit(tx, incoming.created_by, limits, queues=first is None)
        if first is not None:
            incoming = Incoming(created_by=incoming.created_by)
        await uploads.create(tx, upload.id, incoming, pausable=pausable)
    await store.delete_many(dropped)
    return Arrival(database, store, upload, incoming.created_by, first)


async def become_import(
    arrival: Arrival,
    body: AsyncIterator[bytes],
    wish: Callable[[], tuple[str, Options]],
    *,
    segment_bytes: int | None,
    file: Incoming | None = None,
) -> UUID:
    """Store the body and queue its Import; the Import's id, or that of the earlier request with this key.

    `wish`: the Source and the Options, asked for when the body is whole (a form may name them after the file).
    `segment_bytes` as in `append`. `file`: its name and type, where only the body told them. Raises
    IdempotencyMismatch; InvalidInput when the body is empty; what `body` and `wish` raise; DatabaseDown, StoreDown,
    NoSpace, UploadFailed.
    """
    if arrival.first is not None:
        return await _again(body, wish, arrival.first)
    upload = arrival.upload
    await append(arrival.database, arrival.store, upload, body, segment_bytes=segment_bytes)
    if not upload.length:
        text = "The body is empty."
        raise InvalidInput(text, issues=[{"path": ["body"], "code": "required", "message": text}])
    source, options = wish()
    job_id, sha256 = imports.new_id(), await digest(arrival.database, arrival.store, upload)
    try:
        async with finish(arrival.database, upload, file) as tx:
            await imports.create(
                tx,
                job_id,
                source=source,
                upload_id=upload.id,
                bytes_total=upload.length,
                sha256=sha256,
                options=options.to_json(),
                created_by=arrival.created_by,
            )
    except DatabaseDown:
        # The answer to the COMMIT may be all that was lost.
        async with arrival.database.session() as tx:
            if await imports.state_and_attempt(tx, job_id) is None:
                raise
    upload.complete = True
    RECEIVED_BYTES.inc(upload.length)
    log.info("import.queued", import_id=str(job_id), bytes=upload.length)
    return job_id


@asynccontextmanager
async def finish(database: Database, upload: Upload, file: Incoming | None = None) -> AsyncGenerator[Connection, None]:
    """The transaction in which the Upload becomes complete; what the block adds to it commits with it, or nothing does.

    Raises UploadFailed when the Upload was dropped, or is complete already; DatabaseDown.
    """
    async with database.transaction() as tx:
        await uploads.complete(tx, upload, file or Incoming())
        yield tx


async def digest(database: Database, store: Store, upload: Upload) -> bytes:
    """The SHA-256 of all its bytes, however they were cut: as it was taken while they arrived, in this process.

    Where others have stored some of them, they are read again: the state of a hash outlives no process. Raises
    DatabaseDown, StoreDown, ObjectMissing, ObjectCorrupt.
    """
    if upload.sha256 is None:
        async with database.session() as tx:
            segments = await uploads.segments(tx, upload.id)
        with open_segments(store, segments, upload.length) as stream:
            upload.sha256 = await in_thread(hashlib.file_digest, stream, "sha256")
    taken: bytes = upload.sha256.digest()
    return taken


async def drop(database: Database, store: Store, upload: Upload) -> None:
    """Leave nothing of an Upload that is not complete; a complete one is not touched. Logs what it could not do."""
    try:
        async with database.transaction() as tx:
            keys = await uploads.drop(tx, upload.id)
        if keys is not None:
            await store.delete_many({*keys, *upload.keys})
    except RollcallError as error:
        log.warning("upload.left", upload_id=str(upload.id), code=error.code)


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
    sha256 = hashlib.sha256()
    async for piece in body:
        await asyncio.to_thread(sha256.update, piece)
    source, options = wish()
    if (source, options.to_json(), sha256.digest()) != (first.source, first.options, first.sha256):
        raise IdempotencyMismatch
    return first.id


async def _admit(tx: Connection, created_by: str | None, limits: Limits, *, queues: bool) -> None:
    """What `queues` takes its place in the queue now: no file is refused once it was sent. Others may have to wait."""
    arriving = await uploads.count_arriving(tx, created_by, SILENCE)
    if arriving >= limits.arriving:
        raise TooManyRequests(
            f"{arriving} uploads are arriving already (MAX_ARRIVING_UPLOADS). Send this one when one of them is done."
        )
    queued = await imports.count_queued(tx, created_by) if queues else 0
    if queued + arriving >= limits.queued and queues:
        raise TooManyRequests(
            f"{queued + arriving} imports are queued already (MAX_QUEUED_IMPORTS). Send this one when one of them runs."
        )


@asynccontextmanager
async def _alive(database: Database, upload_id: UUID) -> AsyncGenerator[None, None]:
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
