"""POST /import: a JSON body, a form or the file itself, by its Content-Type; each becomes an Import.

What the head of a request shows to be wrong is refused before its body is read, and so is one for which there is no
room. A body that ends too early, or comes too slowly, leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from multipart import parse_options_header

from rollcall.errors import Busy, Forbidden, InvalidInput, UnsupportedMediaType
from rollcall.keys import Caller
from rollcall.options import CHOICES, NAMES, Options
from rollcall.receive import Arrival, become_import, one_request
from rollcall.uploads import Incoming
from rollcall.web import BODIES_MAX, CallerDep, Service, ServiceDep, envelope
from rollcall.web.body import content_length, paced_body
from rollcall.web.envelope import SOURCE_LENGTH_MAX, ImportRequest
from rollcall.web.form import Form
from rollcall.web.responses import PROBLEMS, Answer, issue

JSON_BYTES_MAX = 16 << 20
"""A JSON body up to this size is judged before it is stored."""
PLACE_SECONDS = 5.0
"""How long a request waits for its turn before it is told to come again."""
IDEMPOTENCY_KEY_LENGTH = 255
GIVEN = ("source", "useResumable", *NAMES)
FILE_TYPES = (
    "application/octet-stream",
    "text/csv",
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
_WISH = {"source": _SOURCE, "useResumable": {"type": "boolean", "default": False}, **_OPTIONS}
_FILE = {"type": "string", "format": "binary"}
_ENVELOPE = {**_WISH, "data": {"type": "array", "minItems": 1, "items": _CONTACT}}
REQUEST = {
    "parameters": [
        *({"name": name, "in": "query", "schema": schema} for name, schema in _WISH.items()),
        {"name": "X-Source", "in": "header", "schema": _SOURCE, "description": "For a file as the body."},
        {"name": "X-Use-Resumable", "in": "header", "schema": {"type": "boolean"}},
        {
            "name": "Idempotency-Key",
            "in": "header",
            "schema": {"type": "string", "minLength": 1, "maxLength": IDEMPOTENCY_KEY_LENGTH},
            "description": "For 24 hours, the same request under the same key becomes one import.",
        },
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "object", "required": ["source", "data"], "properties": _ENVELOPE}},
            "multipart/form-data": {
                "schema": {"type": "object", "required": ["source", "file"], "properties": {**_WISH, "file": _FILE}}
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
    """One request, its body not yet read."""

    service: Service
    caller: Caller
    query: dict[str, str]
    idempotency_key: str | None
    body: AsyncIterator[bytes]


@router.post("/import", summary="Import contacts", responses=PROBLEMS, openapi_extra=REQUEST)
async def post(request: Request, response: Response, service: ServiceDep, caller: CallerDep) -> Accepted:
    """A list of contacts, a form with a file, or the file itself. Options may stand in the query in every case."""
    pending = PendingImport(
        service, caller, _query(request), _idempotency_key(request), paced_body(request, service.body_bytes_max)
    )
    _allow(caller, pending.query)
    async with _place(service):
        await service.store.require(content_length(request, service.body_bytes_max))
        job_id = await _take(request, pending)
    response.headers["Location"] = f"/imports/{job_id}"
    return Accepted(job_id=job_id)


@asynccontextmanager
async def _place(service: Service) -> AsyncGenerator[None, None]:
    """One of the places for bodies. Raises Busy when none gets free soon."""
    try:
        async with asyncio.timeout(PLACE_SECONDS):
            await service.bodies.acquire()
    except TimeoutError as error:
        raise Busy(f"{BODIES_MAX} requests are arriving. Send this one again in a moment.") from error
    try:
        yield
    finally:
        service.bodies.release()


async def _take(request: Request, pending: PendingImport) -> UUID:
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    if content_type == "application/json":
        return await _json(pending)
    if content_type == "multipart/form-data":
        return await _form(pending, parameters.get("boundary", ""))
    if content_type in FILE_TYPES:
        wish = envelope.parse_request(given := _headers(request) | pending.query)
        _allow(pending.caller, given)
        async with _arriving(pending) as arrival:
            file = Incoming(content_type=content_type)
            return await _receive(pending, arrival, pending.body, lambda: wish, wish.resumable, file)
    raise UnsupportedMediaType(
        "Send application/json, multipart/form-data, or a file as application/octet-stream or with its own type: "
        f"{', '.join(FILE_TYPES[1:])}."
    )


def _arriving(pending: PendingImport) -> AbstractAsyncContextManager[Arrival]:
    """From here on its body counts for its sender: entered before a byte of it is awaited."""
    incoming = Incoming(created_by=pending.caller.name, idempotency_key=pending.idempotency_key)
    return one_request(pending.service.database, pending.service.store, incoming, pending.service.limits)


async def _json(pending: PendingImport) -> UUID:
    async with _arriving(pending) as arrival:
        return await _judge(pending, arrival)


async def _judge(pending: PendingImport, arrival: Arrival) -> UUID:
    beginning: list[bytes] = []
    length = 0
    async for chunk in pending.body:
        beginning.append(chunk)
        length += len(chunk)
        if length > JSON_BYTES_MAX:
            break
    read = envelope.head if length > JSON_BYTES_MAX else envelope.read
    async with pending.service.cpu_slots:
        wish = await asyncio.to_thread(read, b"".join(beginning), pending.query)
    _allow(pending.caller, {"source": wish.source})
    body = _chain(beginning, pending.body)
    file = Incoming(content_type="application/json")
    return await _receive(pending, arrival, body, lambda: wish, wish.resumable, file)


async def _form(pending: PendingImport, boundary: str) -> UUID:
    if not boundary:
        text = "The Content-Type of a form names its boundary."
        raise InvalidInput(text, issues=[issue("boundary", "required", text)])
    form = Form(boundary, pending.body, names=GIVEN)

    def wish() -> ImportRequest:
        return envelope.parse_request(form.fields | pending.query)

    async with _arriving(pending) as arrival:
        part = await form.file()
        _allow(pending.caller, form.fields | pending.query)
        early = envelope.parse_request({"source": "may follow"} | form.fields | pending.query)
        file = Incoming(part.name, part.content_type)
        return await _receive(pending, arrival, form.rest(), wish, early.resumable, file)


def _allow(caller: Caller, given: dict[str, str]) -> None:
    """Refuse a Source that the key is not bound to, as early as it is named. Raises Forbidden."""
    if "source" in given and not caller.may_use(given["source"]):
        text = "This key may not import into this source."
        raise Forbidden(text, issues=[issue("source", "forbidden", text)])


async def _receive(
    pending: PendingImport,
    arrival: Arrival,
    body: AsyncIterator[bytes],
    wish: Callable[[], ImportRequest],
    resumable: bool,
    file: Incoming,
) -> UUID:
    def asked() -> tuple[str, Options]:
        found = wish()
        _allow(pending.caller, {"source": found.source})
        return found.source, found.options

    segment_bytes = pending.service.segment_bytes if resumable else None
    return await become_import(arrival, body, asked, segment_bytes=segment_bytes, file=file)


def _idempotency_key(request: Request) -> str | None:
    """The Idempotency-Key. Raises InvalidInput."""
    given = [_utf8(value) for value in request.headers.getlist("idempotency-key")]
    if given and (len(given) > 1 or not 1 <= len(given[0]) <= IDEMPOTENCY_KEY_LENGTH):
        text = f"Idempotency-Key is one text of 1 to {IDEMPOTENCY_KEY_LENGTH} characters."
        raise envelope.invalid_input([issue("Idempotency-Key", "invalid_value", text)])
    return given[0] if given else None


def _query(request: Request) -> dict[str, str]:
    """What the query gives. A name that is not known is refused: `onInvald=fail` must not import what is invalid."""
    unknown = [
        issue(name, "unknown", f"{name} is not an option. There are {', '.join(GIVEN)}.")
        for name in request.query_params
        if name not in GIVEN
    ]
    if unknown:
        raise envelope.invalid_input(unknown)
    return dict(request.query_params)


def _headers(request: Request) -> dict[str, str]:
    names = {"source": "x-source", "useResumable": "x-use-resumable"}
    return {name: _utf8(request.headers[header]) for name, header in names.items() if header in request.headers}


def _utf8(header: str) -> str:
    """Headers are Latin-1 by the book; clients send UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


async def _chain(beginning: list[bytes], rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """What was read, let go piece by piece, and the rest."""
    beginning.reverse()
    while beginning:
        yield beginning.pop()
    async for chunk in rest:
        yield chunk
