"""Carry one import from its stored file to the contacts table.

    plan     what is this file; frozen on the import the first time
    check    only onInvalid=fail: the whole file is judged before any contact is written
    load     Parts, dealt to Lanes, each committing its Shares in file order; goes on after what the ledger has
    close    the ledger's Records are as many as the reader counted, or load again

`carry` may be called any number of times for the same import, by anyone, after any accident: what the ledger says is
done is not done again. No SQL, no parsing and no HTTP here.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass
from functools import partial

import structlog

from rollcall import contacts, imports, ledger, rejects, uploads
from rollcall.database import Connection, Database
from rollcall.errors import Draining, Fenced, ImportFailed, InvalidRecords, TooManyRejects, Unavailable, Unreadable
from rollcall.imports import Import
from rollcall.lane import Lane, Rewind, gravest, rest, settle
from rollcall.options import Options
from rollcall.portions import Portions, give
from rollcall.reading import reading
from rollcall.records import Plan, inspect
from rollcall.storage import Segment, Store, open_segments
from rollcall.telemetry import RETRIES, begin, effort, where

REWINDS_MAX = 20
log = structlog.get_logger()


@dataclass(frozen=True)
class Cargo:
    """What one attempt carries, and with what."""

    job: Import
    options: Options
    segments: list[Segment]
    database: Database
    store: Store
    draining: asyncio.Event
    rejects_max: int


async def carry(
    job: Import, *, database: Database, store: Store, lanes: int, draining: asyncio.Event, rejects_max: int
) -> None:
    """Work on a claimed import until it is final, or somebody else's, or given back.

    Raises only DatabaseDown, when not even the giving back could be said.
    """
    begin()
    try:
        segments = await settle(database, job, lambda tx: uploads.segments(tx, job.upload_id))
        cargo = Cargo(job, Options.from_json(job.options), segments, database, store, draining, rejects_max)
        plan = await plan_of(cargo, lanes)
        for _ in range(REWINDS_MAX):
            try:
                if not await check(cargo, plan):
                    return log_failure(job, InvalidRecords.code)
                return await close(cargo, await load(cargo, plan))
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
            await rest(draining)
        await settle(database, job, lambda tx: imports.release(tx, job, *why))
    except Unreadable as fault:
        await fail(database, job, fault.code, str(fault))
    except Exception as fault:
        log.error("import.fault", import_id=str(job.id), error=type(fault).__name__, where=where(fault))
        await fail(database, job, ImportFailed.code, str(ImportFailed()))
    finally:
        await database.unname(f"rollcall:{job.id}:{job.attempt}:")


async def plan_of(cargo: Cargo, lanes: int) -> Plan:
    """The Plan that stands on the import, or a new one, written down before anything is loaded by it."""
    job, options = cargo.job, cargo.options
    if job.plan is not None:
        return Plan.from_json(job.plan)

    def look() -> Plan:
        with open_segments(cargo.store, cargo.segments, job.bytes_total) as stream:
            return inspect(stream, format=options.format, mapping=options.mapping, lanes=lanes)

    plan = await asyncio.to_thread(look)
    if not await settle(cargo.database, job, lambda tx: imports.freeze(tx, job, plan.to_json())):
        raise Fenced
    return plan


async def check(cargo: Cargo, plan: Plan) -> bool:
    """Whether it may be loaded. For onInvalid=fail, and only while nothing is loaded, a file with any Reject may not:
    then the import has ended, and its Rejects are counted."""
    job = cargo.job
    if cargo.options.on_invalid != "fail" or any(await _positions(cargo, plan)):
        return True

    async def judge(tx: Connection) -> bool:
        found, total = Counter[str](), 0
        async with tx.transaction():
            if not await imports.fence(tx, job):
                raise Fenced
            await rejects.clear(tx, job.id)
            async with reading(
                cargo.store, cargo.segments, job.bytes_total, plan, after=0, draining=cargo.draining
            ) as coming:
                async for part in coming:
                    await imports.fence(tx, job)  # a transaction in which nothing is said for 30 s is ended
                    total, room = part.last, cargo.rejects_max - found.total()
                    if part.rejects and room > 0:
                        await rejects.add(tx, job.id, part.rejects.slice(0, room))
                    found.update(rejects.by_code(part.rejects))
            if rejected := found.total():
                message = f"{rejected:,} of {total:,} records are invalid; no contact was written (onInvalid=fail)."
                await imports.fail_check(tx, job, InvalidRecords.code, message, by_code=found, total=total)
        return not found

    return await settle(cargo.database, job, judge)


async def load(cargo: Cargo, plan: Plan) -> int:
    """Load what the ledger does not have yet; how many Records the file holds.

    Raises Rewind, Draining, Fenced; Unreadable only after everything before the fault is committed.
    """
    job, most, update = cargo.job, cargo.rejects_max, cargo.options.on_duplicate == "update"
    positions = await _positions(cargo, plan)
    _, rejected = await settle(cargo.database, job, lambda tx: ledger.judged(tx, job.id))
    vacant = not any(positions) and await settle(cargo.database, job, lambda tx: contacts.vacant(tx, job.source))
    chosen = partial(Lane, cargo.database, job, update=update, vacant=vacant, rejects_max=most, turn=asyncio.Lock())
    waiting = [Portions(after=at, lanes=len(positions)) for at in positions]
    lanes = [chosen(number, *each) for number, each in enumerate(zip(positions, waiting, strict=True))]
    total, stop = max(positions), None
    try:
        async with (
            asyncio.TaskGroup() as group,
            reading(
                cargo.store, cargo.segments, job.bytes_total, plan, after=min(positions), draining=cargo.draining
            ) as coming,
        ):
            for lane in lanes:
                group.create_task(lane.run())
            try:
                async for part in coming:
                    await give(part, plan.lanes, waiting)
                    total = part.last
                    rejected += part.rejects.num_rows if part.last > positions[0] else 0
                    if cargo.options.too_many(rejected, total):
                        raise TooManyRejects(f"{rejected:,} of the first {total:,} records were rejected.")
            except (Unreadable, Draining) as fault:
                stop = fault
            for portions in waiting:
                await portions.end()
    except BaseExceptionGroup as group_of_faults:
        raise gravest(group_of_faults) from None
    if stop is not None:
        raise stop
    return total


async def close(cargo: Cargo, total: int) -> None:
    """Succeed; Rewind when the ledger has fewer Records than were read (a crash of Postgres took some back)."""
    job = cargo.job
    if await settle(cargo.database, job, lambda tx: imports.close(tx, job, total)):
        log.info("import.succeeded", import_id=str(job.id), attempt=job.attempt, **effort().said())
        return
    stands = await settle(cargo.database, job, lambda tx: imports.standing(tx, job.id))
    if stands == ("running", job.attempt):
        raise Rewind
    if stands != ("succeeded", job.attempt):
        raise Fenced


async def fail(database: Database, job: Import, code: str, message: str) -> None:
    """End it with a reason; what is committed stays."""
    if await settle(database, job, lambda tx: imports.fail(tx, job, code, message)):
        log_failure(job, code)
    else:
        log.info("import.fenced", import_id=str(job.id), attempt=job.attempt)


def log_failure(job: Import, code: str) -> None:
    log.info("import.failed", import_id=str(job.id), attempt=job.attempt, code=code, **effort().said())


async def _positions(cargo: Cargo, plan: Plan) -> list[int]:
    return await settle(cargo.database, cargo.job, lambda tx: ledger.positions(tx, cargo.job.id, len(plan.lanes)))
