"""POST /import: a JSON body, a form or the file itself, by its Content-Type; each becomes an Import.

What the head of a request shows to be wrong is refused before its body is read. A body that ends too early, or stands
still for a minute, leaves nothing behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any
from uuid import UUID

from fastapi import APIRouter, Request, Response
from multipart import parse_options_header
from starlette.requests import ClientDisconnect

from rollcall.errors import Forbidden, InvalidInput, TooLarge, UnsupportedMediaType, UploadFailed
from rollcall.keys import Caller
from rollcall.options import CHOICES, NAMES, Options
from rollcall.receive import receive
from rollcall.web import Asking, Service, Serving, envelope
from rollcall.web.answers import PROBLEMS, Answer, issue
from rollcall.web.envelope import SOURCE_LENGTH_MAX, Wish
from rollcall.web.form import Form

JSON_BYTES_MAX = 16 << 20
"""A JSON body up to this size is judged before it is stored."""
IDLE_SECONDS = 60.0
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


@router.post("/import", summary="Import contacts", responses=PROBLEMS, openapi_extra=REQUEST)
async def post(request: Request, response: Response, service: Serving, caller: Asking) -> Accepted:
    """A list of contacts, a form with a file, or the file itself. Options may stand in the query in every case."""
    content_type, parameters = parse_options_header(request.headers.get("content-type", ""))
    query = _query(request)
    _allow(caller, query)
    body = _body(request, service.body_bytes_max)
    if content_type == "application/json":
        job_id = await _json(service, caller, body, query)
    elif content_type == "multipart/form-data":
        job_id = await _form(service, caller, body, query, parameters.get("boundary", ""))
    elif content_type in FILE_TYPES:
        wish = envelope.wish(given := _headers(request) | query)
        _allow(caller, given)
        job_id = await _receive(service, caller, body, lambda: wish, wish.resumable, content_type=content_type)
    else:
        raise UnsupportedMediaType(
            "Send application/json, multipart/form-data, or a file as application/octet-stream or with its own type: "
            f"{', '.join(FILE_TYPES[1:])}."
        )
    response.headers["Location"] = f"/imports/{job_id}"
    return Accepted(job_id=job_id)


async def _json(service: Service, caller: Caller, body: AsyncIterator[bytes], query: dict[str, str]) -> UUID:
    beginning = bytearray()
    async for chunk in body:
        beginning += chunk
        if len(beginning) > JSON_BYTES_MAX:
            break
    read = envelope.head if len(beginning) > JSON_BYTES_MAX else envelope.read
    async with service.judges:
        wish = await asyncio.to_thread(read, bytes(beginning), query)
    _allow(caller, {"source": wish.source})
    return await _receive(
        service, caller, _chain(beginning, body), lambda: wish, wish.resumable, content_type="application/json"
    )


async def _form(
    service: Service, caller: Caller, body: AsyncIterator[bytes], query: dict[str, str], boundary: str
) -> UUID:
    if not boundary:
        text = "The Content-Type of a form names its boundary."
        raise InvalidInput(text, issues=[issue("boundary", "required", text)])
    form = Form(boundary, body)

    def wish() -> Wish:
        return envelope.wish({name: value for name, value in form.fields.items() if name in GIVEN} | query)

    file = await form.file()
    _allow(caller, form.fields | query)
    early = envelope.wish({"source": "may follow"} | form.fields | query)
    return await _receive(
        service, caller, form.rest(), wish, early.resumable, name=file.name, content_type=file.content_type
    )


def _allow(caller: Caller, given: dict[str, str]) -> None:
    """Refuse a Source that the key is not bound to, as early as it is named. Raises Forbidden."""
    if "source" in given and not caller.may_use(given["source"]):
        text = "This key may not import into this source."
        raise Forbidden(text, issues=[issue("source", "forbidden", text)])


async def _receive(
    service: Service,
    caller: Caller,
    body: AsyncIterator[bytes],
    wish: Callable[[], Wish],
    resumable: bool,
    *,
    name: str | None = None,
    content_type: str | None = None,
) -> UUID:
    def asked() -> tuple[str, Options]:
        found = wish()
        _allow(caller, {"source": found.source})
        return found.source, found.options

    return await receive(
        body,
        database=service.database,
        store=service.store,
        wish=asked,
        segment_bytes=service.segment_bytes if resumable else None,
        name=name,
        content_type=content_type,
        created_by=caller.name,
        limits=service.limits,
    )


def _query(request: Request) -> dict[str, str]:
    """What the query gives. A name that is not known is refused: `onInvald=fail` must not import what is invalid."""
    unknown = [
        issue(name, "unknown", f"{name} is not an option. There are {', '.join(GIVEN)}.")
        for name in request.query_params
        if name not in GIVEN
    ]
    if unknown:
        raise envelope.refused(unknown)
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


async def _body(request: Request, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The request's body, whole or UploadFailed; TooLarge as soon as it is known."""
    announced = request.headers.get("content-length")
    received, stream = 0, request.stream()
    while True:
        if max(received, int(announced or 0)) > bytes_max:
            raise TooLarge(f"The body is larger than {bytes_max:,} bytes (MAX_UPLOAD_SIZE).")
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                chunk = await anext(stream, b"")
        except ClientDisconnect as error:
            raise UploadFailed from error
        except TimeoutError as error:
            raise UploadFailed(f"No byte came for {IDLE_SECONDS:.0f} seconds; nothing was imported.") from error
        if not chunk:
            break
        received += len(chunk)
        yield chunk
    if announced is not None and received != int(announced):
        raise UploadFailed


async def _chain(beginning: bytearray, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield bytes(beginning)
    async for chunk in rest:
        yield chunk
