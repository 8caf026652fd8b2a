"""The rejected Records of an import, as they are handed out: pages, and files of all of them. For HTTP and commands.

    csv      the file's own columns and separator, to be mended and sent again (`records.reject_file`)
    records  the same as NDJSON: one object a Record, its types as they were
    ndjson   the account of each: record, field, code, message, value, raw

What is not stored is found again: the file is read once more by the import's Plan. A file holds as many as were
counted, or breaks off. Of all that is held, bytes bound it: a page, and while a file is written one block of it.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import orjson

from rollcall import imports, ledger, rejects, uploads
from rollcall.database import Connection, Database
from rollcall.errors import NotFound, ObjectMissing, Unavailable
from rollcall.imports import Import
from rollcall.loading import part_reader
from rollcall.records import Plan, as_object, cells, columns, message, reject_file
from rollcall.rejects import Reject
from rollcall.storage import Segment, Store

Form = Literal["csv", "ndjson", "records"]
Write = Callable[[list[Reject]], bytes]

PAGE_ROWS = 1_000
PAGE_BYTES = 1 << 20
"""A page ends before the Reject that would bring it to more, but always holds one."""

BLOCK_ROWS, BLOCK_BYTES = 1_000, 256 << 10
"""So many Rejects, or bytes of theirs, are written at a time: what is held for each one that reads a file."""

CELLS_MAX = 1_000_000
"""In a CSV file of more cells the added columns stand first, and a row ends with its last value: many columns and many
short Records would else make a file that is very much longer than the one it came from."""


@dataclass(frozen=True)
class Rejected:
    """What there is of an import's Rejects. `until`: the last Record that is judged for good; up to it `total` were
    rejected. `stored`: how many of these the database holds. `segments`: of the file, if that has to be read again.
    """

    job: Import
    until: int
    total: int
    stored: int
    segments: list[Segment]


async def find(tx: Connection, job_id: UUID, sources: list[str] | None = None) -> Rejected:
    """Raises NotFound when there is no such import (of these Sources), and when its Rejects were deleted."""
    job = await imports.show(tx, job_id, sources)
    if job is None:
        raise NotFound("There is no import with this jobId.")
    until, total = await ledger.rejects_so_far(tx, job_id)
    if not until:  # what a check pass has found is in no ledger
        until, total = job.total or 0, job.rejected
    stored = await rejects.count(tx, job_id, until)
    segments = await uploads.segments(tx, job.upload_id) if stored < total else []
    if not stored and total and not segments:
        raise NotFound("The rejected records were deleted after their time (REJECTS_RETENTION); the counts stay.")
    return Rejected(job, until, total, stored, segments)


async def page(tx: Connection, job_id: UUID, *, after: int, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """The stored Rejects after Record `after`, at most `limit` and PAGE_BYTES of them; and the `after` of the next
    page, None when this is the last one.
    """
    found, more = await rejects.page(tx, job_id, after=after, limit=limit, size=PAGE_BYTES)
    return await asyncio.to_thread(_fitting, found, more)


def _fitting(found: list[Reject], more: bool) -> tuple[list[dict[str, Any]], int | None]:
    shown: list[dict[str, Any]] = []
    size = 0
    for reject in found:
        one = exact(reject)
        size += len(orjson.dumps(one))
        if shown and size > PAGE_BYTES:
            more = True
            break
        shown.append(one)
    return shown, shown[-1]["record"] if shown and more else None


def file(
    database: Database, store: Store, rejected: Rejected, form: Form, *, cpu_slots: asyncio.Semaphore
) -> AsyncGenerator[bytes, None]:
    """All of them as a file, block by block. A stored file is read again Part by Part, each in one of
    the `cpu_slots`.

    Raises ObjectMissing, Unreadable and StoreDown before the first block; later the file breaks off with them, or with
    Unavailable when it would not hold as many as were counted: rather no file than a short one.
    """
    job = rejected.job
    plan = Plan.from_json(job.plan) if job.plan else None
    if rejected.stored == rejected.total:
        blocks = _stored(database, job.id, rejected.total)
    elif rejected.segments and plan:
        blocks = _found_again(store, rejected, plan, cpu_slots)
    else:
        raise ObjectMissing(
            f"Of the {rejected.total:,} rejected records {rejected.stored:,} are stored (MAX_STORED_REJECTS), and the"
            " file that holds the others was deleted after its time (RETENTION). Take the stored ones with format=json,"
            " or send the file again."
        )
    head, write = writer(form, plan, rejected.total)
    return _written(_counted(blocks, rejected.total), head, write)


def reads_again(rejected: Rejected) -> bool:
    """Whether a file of them takes reading the stored file."""
    return rejected.stored < rejected.total


async def _written(
    blocks: AsyncGenerator[list[Reject], None], head: bytes, write: Write
) -> AsyncGenerator[bytes, None]:
    async with aclosing(blocks) as coming:
        async for block in coming:
            yield head + await asyncio.to_thread(write, block)
            head = b""
    if head:
        yield head


async def _stored(database: Database, job_id: UUID, count: int) -> AsyncGenerator[list[Reject], None]:
    """The first `count`; no connection is held while they are sent."""
    after = 0
    while count:
        async with database.session() as tx:
            block, _ = await rejects.page(tx, job_id, after=after, limit=min(BLOCK_ROWS, count), size=BLOCK_BYTES)
        if not block:
            return
        yield block
        after, count = block[-1].record, count - len(block)


async def _found_again(
    store: Store, rejected: Rejected, plan: Plan, cpu_slots: asyncio.Semaphore
) -> AsyncGenerator[list[Reject], None]:
    reading = part_reader.reread_rejects(
        store, rejected.segments, rejected.job.bytes_total, plan, until=rejected.until, cpu_slots=cpu_slots
    )
    async with aclosing(reading) as coming:
        async for found in coming:
            for block in _blocks(found):
                yield block


def _blocks(found: Any) -> Iterator[list[Reject]]:
    """The rows of a table of Rejects, some at a time."""
    block: list[Reject] = []
    size = 0
    for at in range(0, found.num_rows, 50):
        for row in found.slice(at, 50).to_pylist():
            block.append(Reject(**row))
            size += len(row["raw"])
            if size >= BLOCK_BYTES or len(block) == BLOCK_ROWS:
                yield block
                block, size = [], 0
    if block:
        yield block


async def _counted(blocks: AsyncGenerator[list[Reject], None], total: int) -> AsyncGenerator[list[Reject], None]:
    async with aclosing(blocks) as coming:
        async for block in coming:
            yield block
            total -= len(block)
    if total:
        raise Unavailable("The rejected records changed while they were sent. Fetch them again.")


def exact(reject: Reject) -> dict[str, Any]:
    """A Reject as JSON; bytes of `raw` that are no text are written as `\\xff`."""
    return {
        "record": reject.record,
        "field": reject.field,
        "code": reject.code,
        "message": message(reject.code, reject.field, reject.value),
        "value": reject.value,
        "raw": reject.raw.decode(errors="backslashreplace"),
    }


def _added(reject: Reject) -> tuple[str, str, str]:
    return str(reject.record), reject.code, message(reject.code, reject.field, reject.value)


def writer(form: Form, plan: Plan | None, total: int) -> tuple[bytes, Write]:
    """The beginning of the file, and what writes a block of it."""
    if form == "ndjson":
        return b"", lambda block: b"".join(
            orjson.dumps(exact(reject), option=orjson.OPT_APPEND_NEWLINE) for reject in block
        )
    if form == "records":
        return b"", lambda block: b"".join(_object(reject, plan) for reject in block)
    own, delimiter = (columns(plan), plan.delimiter or ",") if plan else ((), ",")
    added_first = len(own) * total > CELLS_MAX

    def row(added: tuple[str, ...], data: tuple[str, ...] | list[str]) -> list[str]:
        cells_ = [*added, *data] if added_first else [*data, *added]
        while added_first and not cells_[-1]:
            cells_.pop()
        return [reject_file.guarded(cell) for cell in cells_]

    def written(rows: Iterator[list[str]]) -> bytes:
        text = io.StringIO()
        csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows(rows)
        return text.getvalue().encode()

    def write(block: list[Reject]) -> bytes:
        return written(row(_added(reject), cells(reject.raw, plan) if plan else []) for reject in block)

    return written(iter([row(reject_file.ADDED, own)])), write


def _object(reject: Reject, plan: Plan | None) -> bytes:
    """The Record as one line of JSON, with what Rollcall adds; as text, if it is no object."""
    text = as_object(reject.raw, plan) if plan else None
    if text is None:
        text = orjson.dumps({reject_file.RAW: reject.raw.decode(errors="backslashreplace")})
    added = dict(zip(reject_file.ADDED, (reject.record, *_added(reject)[1:]), strict=True))
    members = text.strip()[1:-1].replace(b"\r", b" ").replace(b"\n", b" ").strip()  # in strings, JSON has no line ends
    return b"{" + members + (b"," if members else b"") + orjson.dumps(added)[1:] + b"\n"
