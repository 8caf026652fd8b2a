"""GET /imports/{jobId}/rejects: the Records that were not imported, each with its reason.

As pages of JSON, as far as they are stored; or all of them, as a CSV file that can be mended and sent again (the file's
own columns, then record, code and message), or as NDJSON, exact. When not all are stored, a file of them is made from
the stored bytes, read again by the import's Plan. Such a file holds as many as were counted, or breaks off.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from rollcall import imports, ledger, rejects, uploads
from rollcall.errors import NotFound, ObjectMissing, Unavailable
from rollcall.loading import part_reader
from rollcall.records import Plan, cells, message
from rollcall.rejects import Reject
from rollcall.storage import Segment
from rollcall.web import CallerDep, Service, ServiceDep
from rollcall.web.imports import JobId
from rollcall.web.responses import PROBLEMS, Answer

PAGE = 1000
FORMULA = re.compile(r" *[=+\-@\t\r\n\0＝＋－＠]")
"""What a spreadsheet would take for a formula or swallow; also after spaces (OWASP, ASVS)."""

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
    are in the files (`format`) only.
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
    job_id: JobId,
    format: Literal["json", "csv", "ndjson"] = "json",  # noqa: A002
    after: Annotated[int, Query(ge=0, lt=1 << 63, description="`next` of the page before; only for json.")] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE, description="Only for json.")] = 100,
) -> RejectsShown | Response:
    """In the order of the file."""
    async with service.database.session() as tx:
        job = await imports.show(tx, job_id, caller.sources)
        if job is None:
            raise NotFound("There is no import with this jobId.")
        until, total = await ledger.rejects_so_far(tx, job_id)
        if not until:  # what a check pass has found is in no ledger
            until, total = job.total or 0, job.rejected
        stored = await rejects.count(tx, job_id, until)
        segments = await uploads.segments(tx, job.upload_id) if stored < total and format != "json" else []
        if not stored and total and not segments:
            raise NotFound("The rejected records were deleted after their time (REJECTS_RETENTION); the counts stay.")
        if format == "json":
            found = await rejects.page(tx, job_id, after=after, limit=limit)
            return RejectsShown(
                rejects=[RejectShown(**_exact(reject)) for reject in found],
                next=found[-1].record if len(found) == limit else None,
                total=total,
                stored=stored,
            )
    plan = Plan.from_json(job.plan) if job.plan else None
    if stored == total:
        pages = _stored(service, job_id, total)
    elif segments and plan:
        pages = _found_again(service, segments, job.bytes_total, plan, until)
    else:
        raise ObjectMissing(
            f"Of the {total:,} rejected records {stored:,} are stored (MAX_STORED_REJECTS), and the file that holds the"
            " others was deleted after its time (RETENTION). Take the stored ones with format=json, or send the file"
            " again."
        )
    return await _file(job_id, format, plan, _counted(pages, total))


async def _stored(service: Service, job_id: UUID, count: int) -> AsyncGenerator[list[Reject], None]:
    """The first `count`; no connection is held while they are sent."""
    after = 0
    while count:
        async with service.database.session() as tx:
            page = await rejects.page(tx, job_id, after=after, limit=min(PAGE, count))
        if not page:
            return
        yield page
        after, count = page[-1].record, count - len(page)


async def _found_again(
    service: Service, segments: list[Segment], bytes_total: int, plan: Plan, until: int
) -> AsyncGenerator[list[Reject], None]:
    finding = part_reader.reread_rejects(
        service.store, segments, bytes_total, plan, until=until, cpu_slots=service.cpu_slots
    )
    async with aclosing(finding) as coming:
        async for found in coming:
            for at in range(0, found.num_rows, PAGE):
                yield [Reject(**row) for row in found.slice(at, PAGE).to_pylist()]


async def _counted(pages: AsyncGenerator[list[Reject], None], total: int) -> AsyncGenerator[list[Reject], None]:
    """Raises Unavailable at their end when they are not as many as they should be: rather no file than a short one."""
    async with aclosing(pages) as coming:
        async for page in coming:
            yield page
            total -= len(page)
    if total:
        raise Unavailable("The rejected records changed while they were sent. Fetch them again.")


async def _file(
    job_id: UUID, suffix: Literal["csv", "ndjson"], plan: Plan | None, pages: AsyncGenerator[list[Reject], None]
) -> Response:
    """What cannot be read is refused before the file begins; later, the file breaks off."""
    first: list[Reject] = await anext(pages, [])
    columns = [*(plan.header if plan else ()), "record", "code", "message"]

    def written(page: list[Reject]) -> bytes:
        return _ndjson(page) if suffix == "ndjson" else _table(page, plan)

    async def body() -> AsyncGenerator[bytes, None]:
        yield _csv([columns]) if suffix == "csv" else b""
        yield await asyncio.to_thread(written, first)
        async with aclosing(pages) as coming:
            async for page in coming:
                yield await asyncio.to_thread(written, page)

    disposition = f'attachment; filename="rejects-{job_id}.{suffix}"'
    media_type = "text/csv; charset=utf-8" if suffix == "csv" else "application/x-ndjson"
    return StreamingResponse(body(), media_type=media_type, headers={"Content-Disposition": disposition})


def _exact(reject: Reject) -> dict[str, Any]:
    return {
        "record": reject.record,
        "field": reject.field,
        "code": reject.code,
        "message": message(reject.code, reject.field, reject.value),
        "value": reject.value,
        "raw": reject.raw.decode(errors="backslashreplace"),
    }


def _ndjson(page: list[Reject]) -> bytes:
    return b"".join(orjson.dumps(_exact(reject), option=orjson.OPT_APPEND_NEWLINE) for reject in page)


def _table(page: list[Reject], plan: Plan | None) -> bytes:
    rows = []
    for reject in page:
        own = cells(reject.raw, plan) if plan else []
        rows.append([*own, str(reject.record), reject.code, message(reject.code, reject.field, reject.value)])
    return _csv(rows)


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def _harmless(cell: str) -> str:
    return f"'{cell}" if FORMULA.match(cell) else cell
