"""GET /imports/{jobId}/rejects: the Records that were not imported, each with its reason.

As pages of JSON; or all of them, as a CSV file that can be mended and sent again (the file's own columns, then record,
code and message), or as NDJSON, exact. Files are read and sent page by page, and no connection is held meanwhile.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from collections.abc import AsyncGenerator, Callable
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse

from rollcall import imports, rejects
from rollcall.errors import NotFound
from rollcall.imports import FINAL
from rollcall.records import Plan, cells, message
from rollcall.rejects import Reject
from rollcall.web import Asking, Service, Serving
from rollcall.web.answers import PROBLEMS, Answer
from rollcall.web.imports import JobId

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
    rejects: list[RejectShown]
    next: int | None


@router.get(
    "/imports/{jobId}/rejects",
    summary="The rejected Records of an import",
    response_model=RejectsShown,
    responses=PROBLEMS | {200: {"content": {"text/csv": {}, "application/x-ndjson": {}}}},
)
async def show(
    service: Serving,
    caller: Asking,
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
        if job.rejected and job.state in FINAL and not await rejects.page(tx, job_id, after=0, limit=1):
            raise NotFound("The rejected records were deleted after their time (REJECTS_RETENTION); the counts stay.")
        if format == "json":
            found = await rejects.page(tx, job_id, after=after, limit=limit)
            return RejectsShown(
                rejects=[RejectShown(**_exact(reject)) for reject in found],
                next=found[-1].record if len(found) == limit else None,
            )
    if format == "ndjson":
        return _file(service, job_id, "ndjson", "application/x-ndjson", b"", _ndjson)
    plan = Plan.from_json(job.plan) if job.plan else None
    columns = [*(plan.header if plan else ()), "record", "code", "message"]
    return _file(service, job_id, "csv", "text/csv; charset=utf-8", _csv([columns]), lambda page: _table(page, plan))


def _file(
    service: Service, job_id: UUID, suffix: str, media_type: str, head: bytes, write: Callable[[list[Reject]], bytes]
) -> Response:
    async def body() -> AsyncGenerator[bytes, None]:
        yield head
        after = 0
        while True:
            async with service.database.session() as tx:
                page = await rejects.page(tx, job_id, after=after, limit=PAGE)
            if not page:
                return
            yield await asyncio.to_thread(write, page)
            after = page[-1].record

    disposition = f'attachment; filename="rejects-{job_id}.{suffix}"'
    return StreamingResponse(body(), media_type=media_type, headers={"Content-Disposition": disposition})


def _exact(reject: Reject) -> dict[str, Any]:
    return {
        "record": reject.record,
        "field": reject.field,
        "code": reject.code,
        "message": message(reject.code, reject.field),
        "value": reject.value,
        "raw": reject.raw.decode(errors="backslashreplace"),
    }


def _ndjson(page: list[Reject]) -> bytes:
    return b"".join(orjson.dumps(_exact(reject), option=orjson.OPT_APPEND_NEWLINE) for reject in page)


def _table(page: list[Reject], plan: Plan | None) -> bytes:
    rows = []
    for reject in page:
        own = cells(reject.raw, plan) if plan else []
        rows.append([*own, str(reject.record), reject.code, message(reject.code, reject.field)])
    return _csv(rows)


def _csv(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_ALL).writerows([_harmless(cell) for cell in row] for row in rows)
    return text.getvalue().encode(errors="backslashreplace")


def _harmless(cell: str) -> str:
    return f"'{cell}" if FORMULA.match(cell) else cell
