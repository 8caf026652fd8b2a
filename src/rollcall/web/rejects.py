"""GET /imports/{jobId}/rejects: the rejected Records, each with its reason.

Pages of JSON have those that are stored; a file has all of them (`export`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from starlette.types import Message, Send

from rollcall import export
from rollcall.errors import Busy
from rollcall.web import CallerDep, Service, ServiceDep
from rollcall.web.imports import JobId
from rollcall.web.outgoing import AnswerRoom, Body, json
from rollcall.web.responses import PROBLEMS, Answer

WAIT_SECONDS = 5.0
"""How long a request waits for a place among those that read stored files again."""

TAKEN_SECONDS = 60.0
"""The connection of a client that reads nothing of a file for so long is closed."""

router = APIRouter(tags=["imports"])


class RejectShown(Answer):
    """`field`: name, email, a column, or null (the whole Record). `raw`: the Record as it stands in the file."""

    record: int
    field: str | None
    code: str
    message: str
    value: str | None
    raw: str


class RejectsShown(Answer):
    """`total`: how many were rejected so far. `stored`: how many of them these pages hold, the first ones; the others
    are in the files (`format`) only. A page ends after `limit` of them or with 1 MiB; `next` is where the next begins.
    """

    rejects: list[RejectShown]
    next: int | None
    total: int
    stored: int


@router.get(
    "/imports/{jobId}/rejects",
    summary="The rejected Records of an import",
    response_model=RejectsShown,
    responses=PROBLEMS | {200: {"content": {"text/csv": {}, "application/x-ndjson": {}}}},
)
async def show(
    service: ServiceDep,
    caller: CallerDep,
    room: AnswerRoom,
    job_id: JobId,
    format: Annotated[  # noqa: A002
        Literal["json", "csv", "records", "ndjson"],
        Query(
            description="A page (json); or a file of all: csv and records to be mended and sent again, ndjson exact."
        ),
    ] = "json",
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="`next` of the page before; only for json.")] = 0,
    limit: Annotated[int, Query(ge=1, le=export.PAGE_ROWS, description="Only for json.")] = 100,
) -> Response:
    """In the order of the file."""
    async with service.database.session() as tx:
        found = await export.find(tx, job_id, caller.sources)
        if format == "json":
            shown, next_ = await export.page(tx, job_id, after=after, limit=limit)
    if format == "json":
        body = json({"rejects": shown, "next": next_, "total": found.total, "stored": found.stored})
        await room.keep(len(body))
        return Body(body)
    blocks = _blocks(service, found, format)
    first = await anext(blocks, b"")  # an error here is an error answer; later, the file breaks off
    suffix, media_type = ("csv", "text/csv; charset=utf-8") if format == "csv" else ("ndjson", "application/x-ndjson")
    disposition = f'attachment; filename="rejects-{job_id}.{suffix}"'
    return Taken(_body(first, blocks), media_type=media_type, headers={"Content-Disposition": disposition})


async def _blocks(service: Service, found: export.Rejected, form: export.Form) -> AsyncGenerator[bytes, None]:
    """The blocks of a file; only some files are read again at a time. Raises Busy."""
    held = export.reads_again(found)
    if held:
        try:
            await asyncio.wait_for(service.readings.acquire(), WAIT_SECONDS)
        except TimeoutError:
            raise Busy("Too many files of rejected records are being fetched. Fetch this one later.") from None
    try:
        async with aclosing(
            export.file(service.database, service.store, found, form, cpu_slots=service.cpu_slots)
        ) as coming:
            async for block in coming:
                yield block
    finally:
        if held:
            service.readings.release()


async def _body(first: bytes, blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    async with aclosing(blocks) as coming:
        yield first
        async for block in coming:
            yield block


class Taken(StreamingResponse):
    """A streamed file. Makes no block before the client has read the one before; gives up after TAKEN_SECONDS."""

    async def stream_response(self, send: Send) -> None:
        async def taken(message: Message) -> None:
            async with asyncio.timeout(TAKEN_SECONDS):
                await send(message)

        try:
            await super().stream_response(taken)
        finally:
            assert isinstance(self.body_iterator, AsyncGenerator)
            await self.body_iterator.aclose()
