"""Carry one import from its stored file to the contacts table.

    plan     what is this file; frozen on the import the first time
    check    only onInvalid=fail: the whole file is judged before any contact is written
    load     Parts, dealt to loaders, each committing its batches in file order; goes on after what the ledger has
    close    the ledger's Records are as many as the reader counted, or load again

`carry` may be called any number of times for the same import, by anyone, after any accident: what the ledger says is
done is not done again. No SQL, no parsing and no HTTP here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial

import pyarrow.compute as pc
import structlog

from rollcall import contacts, imports, ledger, rejects, uploads
from rollcall.database import Connection, Database
from rollcall.errors import (
    ContactsContended,
    ContactsRefused,
    Draining,
    Fenced,
    ImportFailed,
    InvalidRecords,
    TooManyRejects,
    Unavailable,
    Unreadable,
)
from rollcall.imports import Import
from rollcall.loading.loader import Loader, Rewind, back_off, deciding_error, with_retries
from rollcall.loading.part_reader import open_parts
from rollcall.loading.queue import LoaderQueue, distribute
from rollcall.loading.seen import Met, Seen
from rollcall.options import Options
from rollcall.records import Plan, inspect
from rollcall.storage import Segment, Store, open_segments
from rollcall.telemetry import RETRIES, start_timings, timings, where

REWINDS_MAX = 20
VACANT = "source_was_empty"
"""Stands beside the Plan. An import that is retried has lost it: others may have run meanwhile."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Attempt:
    """What one attempt carries, and with what."""

    job: Import
    options: Options
    segments: list[Segment]
    database: Database
    store: Store
    draining: asyncio.Event
    rejects_max: int


async def run_import(
    job: Import, *, database: Database, store: Store, loaders: int, draining: asyncio.Event, rejects_max: int
) -> None:
    """Work on a claimed import until it is final, or somebody else's, or given back.

    Raises only DatabaseDown, when not even the giving back could be log_fields.
    """
    start_timings()
    try:
        segments = await with_retries(database, job, lambda tx: uploads.segments(tx, job.upload_id))
        attempt = Attempt(job, Options.from_json(job.options), segments, database, store, draining, rejects_max)
        plan, source_is_empty = await plan_of(attempt, loaders)
        for _ in range(REWINDS_MAX):
            try:
                if not await check(attempt, plan):
                    return log_failure(job, InvalidRecords.code)
                return await close(attempt, await load(attempt, plan, source_is_empty=source_is_empty))
            except Rewind:
                RETRIES.labels("rewind").inc()
                log.info("import.rewind", import_id=str(job.id), attempt=job.attempt)
        raise ImportFailed
    except Fenced:
        log.info("import.fenced", import_id=str(job.id), attempt=job.attempt)
    except (Draining, Unavailable) as stop:
        log.info("import.released", import_id=str(job.id), attempt=job.attempt, code=stop.code)
        why = (stop.code, str(stop)) if isinstance(stop, Unavailable) else ()
        if why:
            RETRIES.labels("unavailable").inc()
            await back_off(draining)
        await with_retries(database, job, lambda tx: imports.release(tx, job, *why))
    except (Unreadable, ContactsRefused, ContactsContended) as fault:
        await fail(database, job, fault.code, str(fault))
    except Exception as fault:
        log.error("import.fault", import_id=str(job.id), error=type(fault).__name__, where=where(fault))
        await fail(database, job, ImportFailed.code, str(ImportFailed()))
    finally:
        await database.unname(f"rollcall:{job.id}:{job.attempt}:")


async def plan_of(attempt: Attempt, loaders: int) -> tuple[Plan, bool]:
    """The Plan that stands on the import, or a new one, written down before anything is loaded by it; and whether there
    was no contact of this Source then."""
    job, options = attempt.job, attempt.options
    if job.plan is not None:
        return Plan.from_json(job.plan), job.plan.get(VACANT, False)

    def look() -> Plan:
        with open_segments(attempt.store, attempt.segments, job.bytes_total) as stream:
            return inspect(stream, format=options.format, mapping=options.mapping, loaders=loaders)

    plan = await asyncio.to_thread(look)
    source_is_empty = await with_retries(attempt.database, job, lambda tx: contacts.source_is_empty(tx, job.source))
    frozen = plan.to_json() | {VACANT: source_is_empty}
    if not await with_retries(attempt.database, job, lambda tx: imports.freeze(tx, job, frozen)):
        raise Fenced
    return plan, source_is_empty


async def check(attempt: Attempt, plan: Plan) -> bool:
    """Whether it may be loaded. For onInvalid=fail, and only while nothing is loaded, a file with any Reject may not:
    then the import has ended, and its Rejects are counted."""
    job = attempt.job
    if attempt.options.on_invalid != "fail" or any(await _positions(attempt, plan)):
        return True

    async def judge(tx: Connection) -> bool:
        found, total = Counter[str](), 0
        async with tx.transaction():
            if not await imports.fence(tx, job):
                raise Fenced
            await rejects.clear(tx, job.id)
            async with open_parts(
                attempt.store, attempt.segments, job.bytes_total, plan, after=0, draining=attempt.draining
            ) as coming:
                async for part in coming:
                    await imports.fence(tx, job)  # a transaction in which nothing is log_fields for 30 s is ended
                    total, room = part.last, attempt.rejects_max - found.total()
                    if part.rejects and room > 0:
                        await rejects.add(tx, job.id, part.rejects.slice(0, room))
                    found.update(rejects.by_code(part.rejects))
            if rejected := found.total():
                message = f"{rejected:,} of {total:,} records are invalid; no contact was written (onInvalid=fail)."
                await imports.fail_check(tx, job, InvalidRecords.code, message, by_code=found, total=total)
        return not found

    return await with_retries(attempt.database, job, judge)


async def load(attempt: Attempt, plan: Plan, *, source_is_empty: bool) -> int:
    """Load what the ledger does not have yet; how many Records the file holds.

    Where there were contacts before, what is loaded already is read once more, so that it is known which keys were met.

    Raises Rewind, Draining, Fenced; Unreadable only after everything before the fault is committed.
    """
    job, most, update = attempt.job, attempt.rejects_max, attempt.options.on_duplicate == "update"
    positions = await _positions(attempt, plan)
    judged, rejected = await with_retries(attempt.database, job, lambda tx: ledger.rejects_so_far(tx, job.id))
    seen = None if source_is_empty and any(positions) else Seen() if source_is_empty else Met()
    after = min(positions) if source_is_empty else 0
    chosen = partial(
        Loader, attempt.database, job, update=update, seen=seen, rejects_max=most, fold_lock=asyncio.Lock()
    )
    waiting = [LoaderQueue(loaders=len(positions)) for _ in positions]
    loaders = [chosen(number, *each) for number, each in enumerate(zip(positions, waiting, strict=True))]
    total, stop = max(positions), None
    try:
        async with (
            asyncio.TaskGroup() as group,
            open_parts(
                attempt.store, attempt.segments, job.bytes_total, plan, after=after, draining=attempt.draining
            ) as coming,
        ):
            for loader in loaders:
                group.create_task(loader.run())
            try:
                async for part in coming:
                    await distribute(part, plan.loaders, waiting)
                    total = part.last
                    rejected += len(part.rejects.filter(pc.field("record") > judged))
                    if attempt.options.too_many(rejected, total):
                        raise TooManyRejects(f"{rejected:,} of the first {total:,} records were rejected.")
            except (Unreadable, Draining) as fault:
                stop = fault
            for portions in waiting:
                await portions.end()
    except BaseExceptionGroup as group_of_faults:
        raise deciding_error(group_of_faults) from None
    if stop is not None:
        raise stop
    return total


async def close(attempt: Attempt, total: int) -> None:
    """Succeed; Rewind when the ledger has fewer Records than were read (a crash of Postgres took some back)."""
    job = attempt.job
    if await with_retries(attempt.database, job, lambda tx: imports.close(tx, job, total)):
        log.info("import.succeeded", import_id=str(job.id), attempt=job.attempt, **timings().log_fields())
        return
    stands = await with_retries(attempt.database, job, lambda tx: imports.state_and_attempt(tx, job.id))
    if stands == ("running", job.attempt):
        raise Rewind
    if stands != ("succeeded", job.attempt):
        raise Fenced


async def fail(database: Database, job: Import, code: str, message: str) -> None:
    """End it with a reason; what is committed stays."""
    if await with_retries(database, job, lambda tx: imports.fail(tx, job, code, message)):
        log_failure(job, code)
    else:
        log.info("import.fenced", import_id=str(job.id), attempt=job.attempt)


def log_failure(job: Import, code: str) -> None:
    log.info("import.failed", import_id=str(job.id), attempt=job.attempt, code=code, **timings().log_fields())


async def _positions(attempt: Attempt, plan: Plan) -> list[int]:
    return await with_retries(
        attempt.database, attempt.job, lambda tx: ledger.positions(tx, attempt.job.id, len(plan.loaders))
    )
