"""GET /imports, GET /imports/{jobId}, its cancel and retry: what became of a file, as it stands now.

Progress comes from the ledger: a number shown here is committed. An import has an ETag; with `wait`, the answer comes
when it differs from the one the client knows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response

from rollcall import control, imports
from rollcall.errors import NotFound, TooManyRequests
from rollcall.imports import FINAL, Import
from rollcall.keys import Caller
from rollcall.web import CallerDep, Service, ServiceDep
from rollcall.web.outgoing import AnswerRoom, reply
from rollcall.web.responses import PROBLEMS, Answer, Text
from rollcall.web.watch import MEMBER_BYTES, is_known, tag

LISTED_MEMBER_BYTES = 2 << 10
"""What one member of `options` or `plan` may have in a list; a longer one is null there."""

router = APIRouter(tags=["imports"])
JobId = Annotated[UUID, Path(alias="jobId")]
State = Literal["queued", "running", "succeeded", "failed", "cancelled"]


class CountsShown(Answer):
    """Committed Records; `read` is the sum of the others."""

    read: int
    created: int
    updated: int
    unchanged: int
    skipped: int
    duplicate: int
    rejected: int


class BytesShown(Answer):
    read: int
    total: int


class FaultShown(Answer):
    code: str
    message: str


class ImportShown(Answer):
    """One import. `total`: Records in the file, once its end was seen. `unprocessed`: when final, those never read;
    null where the end of the file was never seen (`bytes` says how far it was read). `fileName`: as its sender has it.

    `rate`: Records a second. `eta`: seconds. `ahead`: imports of its source that come first. `attempt`: workers that
    have begun it. `error`: why it failed, or what a running one waits for. `sha256`: of the file as it was sent.
    `sameFileAs`: the import of its source that brought the same bytes before, the latest one.
    """

    job_id: UUID
    source: str
    file_name: str | None
    state: State
    format: str | None
    counts: CountsShown
    total: int | None
    unprocessed: int | None
    bytes: BytesShown
    sha256: str | None
    same_file_as: UUID | None
    rate: float | None
    eta: int | None
    ahead: int
    rejects_by_code: dict[str, int]
    error: FaultShown | None
    options: dict[str, Any]
    plan: dict[str, Any] | None
    attempt: int
    created_by: str | None
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class ImportsShown(Answer):
    imports: list[ImportShown]
    next: int | None


@router.get("/imports", summary="List imports", response_model=ImportsShown, responses=PROBLEMS)
async def list_imports(
    service: ServiceDep,
    caller: CallerDep,
    room: AnswerRoom,
    source: Text = None,
    state: State | None = None,
    after: Annotated[int | None, Query(ge=0, lt=1 << 63, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
) -> Response:
    """Newest first. Members of `options` and `plan` above 2 KiB are null here; the import's own resource has them."""
    async with service.database.session() as tx:
        jobs = await imports.page(
            tx,
            source=source,
            state=state,
            before=after,
            limit=limit,
            member_bytes=LISTED_MEMBER_BYTES,
            sources=caller.sources,
        )
    last = jobs[-1].seq if len(jobs) == limit else None
    return await reply(ImportsShown(imports=[describe(job) for job in jobs], next=last), room)


@router.get(
    "/imports/{jobId}",
    summary="One import",
    response_model=ImportShown,
    responses=PROBLEMS | {304: {"description": "It is as the client knows it."}},
)
async def show(
    request: Request,
    service: ServiceDep,
    caller: CallerDep,
    room: AnswerRoom,
    job_id: JobId,
    wait: Annotated[float, Query(ge=0, le=60, description="Answer when it changes, or after that many seconds.")] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """With `wait`: when it differs from `If-None-Match`, or else from what it was; at once when it is final."""
    job = await _find(service, caller, job_id)
    known = _tags(if_none_match) or {tag(job.progress)}
    if wait and job.state not in FINAL and is_known(job.progress, known):
        job = await _change(request, service.watch.wait(job_id, known, wait)) or job
    headers = {"ETag": f'W/"{tag(job.progress)}"'}
    if if_none_match and is_known(job.progress, known):
        return Response(status_code=304, headers=headers)
    return await reply(describe(job), room, headers)


async def _change(request: Request, waiting: Coroutine[Any, Any, Import | None]) -> Import | None:
    """What is waited for; None when the client has gone."""

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    change, leaving = asyncio.create_task(waiting), asyncio.create_task(gone())
    try:
        await asyncio.wait([change, leaving], return_when=asyncio.FIRST_COMPLETED)
        return change.result() if change.done() else None
    finally:
        change.cancel()
        leaving.cancel()


@router.post("/imports/{jobId}/cancel", summary="Cancel an import", response_model=ImportShown, responses=PROBLEMS)
async def cancel(service: ServiceDep, caller: CallerDep, room: AnswerRoom, job_id: JobId) -> Response:
    """Nothing is committed after the answer; what is committed stays and is counted. A final import stays as it is."""
    if (await _find(service, caller, job_id)).state not in FINAL:
        await control.cancel(service.database, job_id)
    return await reply(describe(await _find(service, caller, job_id)), room)


@router.post("/imports/{jobId}/retry", summary="Retry an import", response_model=ImportShown, responses=PROBLEMS)
async def retry(service: ServiceDep, caller: CallerDep, room: AnswerRoom, job_id: JobId) -> Response:
    """A failed or cancelled import is queued again and goes on after what is committed; any other stays as it is."""
    job = await _find(service, caller, job_id)
    async with service.database.session() as tx:
        queued = await imports.count_queued(tx, job.created_by)
    if job.state in ("failed", "cancelled") and queued >= service.limits_of(job.created_by).queued:
        raise TooManyRequests(
            f"{queued} imports are queued already (MAX_QUEUED_IMPORTS). Retry this one when one of them runs."
        )
    await control.retry(service.database, job_id)
    return await reply(describe(await _find(service, caller, job_id)), room)


async def _find(service: Service, caller: Caller, job_id: UUID) -> Import:
    async with service.database.session() as tx:
        found = await imports.outline(tx, [job_id], member_bytes=MEMBER_BYTES)
    if not found or not caller.may_use(found[0].source):
        raise NotFound("There is no import with this jobId.")
    return found[0]


def describe(job: Import) -> ImportShown:
    """The import as it is answered."""
    rate, eta = job.pace
    return ImportShown(
        job_id=job.id,
        source=job.source,
        file_name=job.file_name,
        state=job.state,
        format=job.plan and job.plan.get("format"),
        counts=CountsShown.model_validate(job.counts, from_attributes=True),
        total=job.total,
        unprocessed=job.total - job.read if job.state in FINAL and job.total is not None else None,
        bytes=BytesShown(read=job.position, total=job.bytes_total),
        sha256=job.sha256 and job.sha256.hex(),
        same_file_as=job.same_file_as,
        rate=rate,
        eta=eta,
        ahead=job.ahead,
        rejects_by_code=dict(sorted(job.by_code.items(), key=lambda each: (-each[1], each[0]))),
        error=FaultShown(code=job.error_code, message=job.error_message or "") if job.error_code else None,
        options=job.options,
        plan=job.plan,
        attempt=job.attempt,
        created_by=job.created_by,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )


def _tags(header: str | None) -> set[str]:
    """If-None-Match compares weakly: `W/` makes no difference."""
    return {tag.strip().removeprefix("W/").strip('"') for tag in (header or "").split(",")} - {""}
