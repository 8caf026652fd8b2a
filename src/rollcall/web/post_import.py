"""POST /import: a JSON body, a form or the file itself, by its Content-Type; each becomes an Import.

What the head of a request shows to be wrong is refused before its body is read, and so is one for which there is no
room. A body that ends too early, or comes too slowly, leaves nothing behind.

A type decides only between those three: any other one, or none, is a file if a Source is named, as `curl -T` and
`curl --data-binary` send it. What the file is, its bytes say.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, cast
from uuid import UUID

from fastapi import APIRouter, Request, Response
from multipart import parse_options_header

from rollcall.errors import InvalidInput, NoSpace, UnsupportedMediaType, UploadFailed
from rollcall.keys import Caller
from rollcall.options import CHOICES, SOURCE_LENGTH_MAX, Options
from rollcall.receive import Arrival, become_import, one_request
from rollcall.uploads import Incoming
from rollcall.web import CallerDep, Service, ServiceDep, envelope
from rollcall.web.admission import SPOOL_BYTES, allow
from rollcall.web.body import content_length, paced_body
from rollcall.web.form import Form
from rollcall.web.import_request import (
    IDEMPOTENCY_KEY_LENGTH_MAX,
    ImportRequest,
    headers_of,
    idempotency_key_of,
    parse_request,
    query_of,
)
from rollcall.web.members import Members
from rollcall.web.responses import PROBLEMS, Answer, issue

JSON_BYTES_MAX = 16 << 20
"""A JSON body up to this size is judged before it is stored."""
INLINE_BYTES = 64 << 10
"""What is looked at in less time than a thread takes to begin."""
READ_BYTES = 256 << 10
FILE_TYPES = (
    "application/octet-stream",
    "text/csv",
    "application/csv",
    "text/x-csv",
    "text/comma-separated-values",
    "text/tab-separated-values",
    "text/plain",
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/gzip",
    "application/x-gzip",
    "application/zstd",
    "application/vnd.ms-excel",  # what Windows calls a .csv
)
"""Those that are described; others are taken too."""
NO_FILES = ("multipart/", "message/")
"""Types of bodies that wrap others: whoever sends one does not mean its bytes."""

_SOURCE = {"type": "string", "minLength": 1, "maxLength": SOURCE_LENGTH_MAX, "examples": ["crm"]}
_OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"type": "string", "enum": list(choices)} for name, choices in CHOICES.items()},
    "mapping": {"type": "string", "examples": ['{"email": "E-Mail", "name": ["First", "Last"]}']},
    "maxRejects": {"type": "string", "examples": ["100", "5%"]},
}
_CONTACT = {
    "type": "object",
    "required": ["name", "email"],
    "properties": {"name": {"type": "string"}, "email": {"type": "string"}},
    "additionalProperties": True,
}
_ASKED = {"source": _SOURCE, "useResumable": {"type": "boolean", "default": False}, **_OPTIONS}
_FILE = {"type": "string", "format": "binary"}
_ENVELOPE = {**_ASKED, "data": {"type": "array", "minItems": 1, "items": _CONTACT}}
REQUEST = {
    "parameters": [
        *({"name": name, "in": "query", "schema": schema} for name, schema in _ASKED.items()),
        {"name": "X-Source", "in": "header", "schema": _SOURCE, "description": "For a file as the body."},
        {"name": "X-Use-Resumable", "in": "header", "schema": {"type": "boolean"}},
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_LENGTH_MAX},
            "description": "For 24 hours, the same request under the same key becomes one import.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["source", "data"], "properties": _ENVELOPE}},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["source", "file"], "properties": {**_ASKED, "file": _FILE}}
            },
            **{file_type: {"schema": _FILE} for file_type in FILE_TYPES},
        },
    },
}

router = APIRouter(tags=["imports"])


class Accepted(Answer):
    """Every byte is durable, and the import waits for its turn."""

    job_id: UUID


@dataclass(frozen=True)
class PendingImport:
    """One request, its body not yet read. `given`: what its query and its headers say."""

    request: Request
    service: Service
    caller: Caller
    given: dict[str, str]
    idempotency_key: str | None
    body: AsyncIterator[bytes]


@router.post("/import", summary="Import contacts", responses=PROBLEMS, openapi_extra=REQUEST)
async def post(request: Request, response: Response, service: ServiceDep, caller: CallerDep) -> Accepted:
    """A list of contacts, a form with a file, or the file itself. Options may stand in the query in every case."""
    given = headers_of(request.headers) | query_of(request.scope["query_string"])
    allow(caller, given)
    length = content_length(request, service.body_bytes_max)
    body = paced_body(request, service.body_bytes_max)
    pending = PendingImport(request, service, caller, given, idempotency_key_of(request.headers), body)
    await service.store.require(length)
    job_id = await _take(pending)
    response.headers["Location"] = f"/imports/{job_id}"
    return Accepted(job_id=job_id)


async def _take(pending: PendingImport) -> UUID:
    content_type, parameters = parse_options_header(pending.request.headers.get("content-type", ""))
    if content_type == "application/json":
        async with _arriving(pending) as arrival:
            return await _json(pending, arrival)
    if content_type == "multipart/form-data":
        async with _arriving(pending) as arrival:
            return await _form(pending, arrival, parameters.get("boundary", ""))
    if content_type.startswith(NO_FILES):
        raise UnsupportedMediaType(
            "Send application/json, multipart/form-data, or a file as application/octet-stream or with its own type."
        )
    asked = parse_request(pending.given)
    async with _arriving(pending) as arrival:
        file = Incoming(content_type=content_type or None)
        return await _receive(pending, arrival, pending.body, lambda: asked, asked.resumable, file)


def _arriving(pending: PendingImport) -> AbstractAsyncContextManager[Arrival]:
    """Its Upload: entered before a byte of the body is awaited, so that every byte counts for its sender."""
    service, sender = pending.service, pending.caller.name
    incoming = Incoming(created_by=sender, idempotency_key=pending.idempotency_key)
    return one_request(service.database, service.store, incoming, service.limits_of(sender))


async def _json(pending: PendingImport, arrival: Arrival) -> UUID:
    members, length = Members(), 0
    spool_dir = str(pending.service.spool_dir) if pending.service.spool_dir else None
    # Bodies that wait for their rest, or for a judge, must not fill the memory.
    with SpooledTemporaryFile(max_size=SPOOL_BYTES, dir=spool_dir) as spool:
        beginning = cast(BinaryIO, spool)
        async for chunk in pending.body:
            await _inline_or_thread(len(chunk), _take_in, beginning, members, chunk)
            length += len(chunk)
            if length > JSON_BYTES_MAX:
                break
        if length > JSON_BYTES_MAX:
            asked = envelope.parse_head(members, pending.given)
            allow(pending.caller, {"source": asked.source})
            rest: AsyncIterator[bytes] = _watched(pending.body, members)
        else:
            asked = await asyncio.to_thread(envelope.parse_whole, members, pending.given, beginning)
            allow(pending.caller, {"source": asked.source})
            await _judge(pending, beginning, asked.options)
            rest = pending.body
        body = _chain(beginning, rest)
        file = Incoming(content_type="application/json")
        return await _receive(pending, arrival, body, lambda: asked, asked.resumable, file)


def _take_in(beginning: BinaryIO, members: Members, chunk: bytes) -> None:
    try:
        beginning.write(chunk)
    except OSError as error:
        raise NoSpace from error
    members.feed(chunk)


async def _judge(pending: PendingImport, body: BinaryIO, options: Options) -> None:
    """Piece by piece, each in its turn with those of other requests; for nobody, once the client has left."""
    judging = envelope.judge(body, options)
    while True:
        async with pending.service.cpu_slots:
            if await asyncio.to_thread(next, judging, judging) is judging:
                return
        if await pending.request.is_disconnected():
            raise UploadFailed


async def _form(pending: PendingImport, arrival: Arrival, boundary: str) -> UUID:
    if not boundary:
        text = "The Content-Type of a form names its boundary."
        raise InvalidInput(text, issues=[issue("boundary", "required", text)])
    form = Form(boundary, pending.body)

    def asked() -> ImportRequest:
        return parse_request(form.fields | pending.given)

    part = await form.file()
    allow(pending.caller, form.fields | pending.given)
    early = parse_request({"source": "may follow"} | form.fields | pending.given)
    file = Incoming(part.name, part.content_type)
    return await _receive(pending, arrival, form.rest(), asked, early.resumable, file)


async def _receive(
    pending: PendingImport,
    arrival: Arrival,
    body: AsyncIterator[bytes],
    asked: Callable[[], ImportRequest],
    resumable: bool,
    file: Incoming,
) -> UUID:
    def found() -> tuple[str, Options]:
        request = asked()
        allow(pending.caller, {"source": request.source})
        return request.source, request.options

    segment_bytes = pending.service.segment_bytes if resumable else None
    return await become_import(arrival, body, found, segment_bytes=segment_bytes, file=file)


async def _watched(body: AsyncIterator[bytes], members: Members) -> AsyncGenerator[bytes, None]:
    """The rest of a long JSON body. Raises InvalidInput at its end for an option that stands there."""
    held = bytearray()
    async for chunk in body:
        held += chunk
        if len(held) >= READ_BYTES:
            await asyncio.to_thread(members.feed, bytes(held))
            held.clear()
        yield chunk
    await asyncio.to_thread(members.feed, bytes(held))
    envelope.check_tail(members)


async def _chain(beginning: BinaryIO, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What was spooled, and the rest."""
    beginning.seek(0)
    while block := await asyncio.to_thread(beginning.read, READ_BYTES):
        yield block
    async for chunk in rest:
        yield chunk


async def _inline_or_thread(size: int, function: Callable[..., Any], *given: Any) -> Any:
    return function(*given) if size <= INLINE_BYTES else await asyncio.to_thread(function, *given)
