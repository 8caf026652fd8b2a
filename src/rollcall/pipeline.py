"""Run one import, from its stored file to the contacts table.

    plan     how the file is read and where the loaders begin; frozen on the import by its first attempt
    check    only onInvalid=fail: check the whole file before any contact is written
    load     deal Parts to loaders; each commits its batches in file order, after what the ledger has
    close    succeed if the ledger has as many Records as the reader counted; load again otherwise

`run_import` is safe to call again for the same import, from any worker, after any crash: it does not repeat what the
ledger has. No SQL, no parsing and no HTTP here.
"""

from __future__ import annotations

import asyncio

import structlog

from rollcall import contacts, imports, uploads
from rollcall.database import Dialler
from rollcall.errors import (
    ContactsContended,
    ContactsRefused,
    Draining,
    Fenced,
    ImportFailed,
    InvalidRecords,
    NoProgress,
    OutOfMemory,
    Unavailable,
    Unreadable,
)
from rollcall.imports import Import
from rollcall.loading.attempt import Attempt
from rollcall.loading.check import check
from rollcall.loading.load import load
from rollcall.loading.load_plan import LoadPlan
from rollcall.loading.loader import Rewind
from rollcall.loading.partition import divide
from rollcall.loading.progress import while_it_progresses
from rollcall.loading.retries import back_off, with_retries
from rollcall.options import Options
from rollcall.records import Plan, inspect, sample_emails
from rollcall.storage import Store
from rollcall.telemetry import RETRIES, start_timings, timings, where

REWINDS_MAX = 20

log = structlog.get_logger()


async def run_import(
    job: Import, *, database: Dialler, store: Store, loaders: int, draining: asyncio.Event, rejects_max: int
) -> None:
    """Work on a claimed import until it is final, is released, or belongs to another attempt.

    Raises only DatabaseDown, when it could not write down even the release.
    """
    start_timings()
    try:
        await while_it_progresses(_work(job, database, store, loaders, draining, rejects_max))
    except Fenced:
        log.info("import.fenced", import_id=str(job.id), attempt=job.attempt)
    except (Draining, Unavailable) as stop:
        await release(database, job, stop, draining)
    except MemoryError:
        await release(database, job, OutOfMemory(), draining)
    except (Unreadable, ContactsRefused, ContactsContended) as fault:
        await fail(database, job, fault.code, str(fault))
    except Exception as fault:
        log.error("import.fault", import_id=str(job.id), error=type(fault).__name__, where=where(fault))
        await fail(database, job, ImportFailed.code, str(ImportFailed()))
    finally:
        await database.unname(f"rollcall:{job.id}:{job.attempt}:")


async def _work(
    job: Import, database: Dialler, store: Store, loaders: int, draining: asyncio.Event, rejects_max: int
) -> None:
    segments = await with_retries(database, job, lambda tx: uploads.segments(tx, job.upload_id))
    attempt = Attempt(job, Options.from_json(job.options), segments, database, store, draining, rejects_max)
    plan = await plan_of(attempt, loaders)
    for _ in range(REWINDS_MAX):
        try:
            if not await check(attempt, plan.file):
                return log_failure(job, InvalidRecords.code)
            return await close(attempt, await load(attempt, plan))
        except Rewind:
            RETRIES.labels("rewind").inc()
            log.info("import.rewind", import_id=str(job.id), attempt=job.attempt)
    raise ImportFailed


async def plan_of(attempt: Attempt, loaders: int) -> LoadPlan:
    """The plan on the import; or a new one, committed before anything is loaded. Raises Fenced."""
    job, options = attempt.job, attempt.options
    if job.plan is not None:
        return LoadPlan.from_json(job.plan)

    def inspect_file() -> tuple[Plan, tuple[str, ...]]:
        with attempt.open_file() as stream:
            plan = inspect(stream, format=options.format, mapping=options.mapping)
        if loaders == 1:
            return plan, ("",)
        with attempt.open_file() as stream:
            return plan, divide(sample_emails(stream, plan), loaders)

    file, begins = await asyncio.to_thread(inspect_file)
    plan = LoadPlan(file, begins, await attempt.ask(lambda tx: contacts.source_is_empty(tx, job.source)))
    if not await attempt.ask(lambda tx: imports.freeze(tx, job, plan.to_json())):
        raise Fenced
    return plan


async def close(attempt: Attempt, total: int) -> None:
    """Succeed. Raises Rewind when the ledger has fewer Records than were read: a crash of Postgres took some back."""
    job = attempt.job
    if await attempt.ask(lambda tx: imports.close(tx, job, total)):
        log.info("import.succeeded", import_id=str(job.id), attempt=job.attempt, **timings().log_fields())
        return
    stands = await attempt.ask(lambda tx: imports.state_and_attempt(tx, job.id))
    if stands == ("running", job.attempt):
        raise Rewind
    if stands != ("succeeded", job.attempt):
        raise Fenced


async def release(database: Dialler, job: Import, stop: Draining | Unavailable, draining: asyncio.Event) -> None:
    """Release the import. NoProgress and OutOfMemory count as a crash: the fourth in a row without a batch ends it."""
    log.info("import.released", import_id=str(job.id), attempt=job.attempt, code=stop.code)
    why = (stop.code, str(stop)) if isinstance(stop, Unavailable) else ()
    if why:
        RETRIES.labels("unavailable").inc()
        await back_off(draining)
    counted = isinstance(stop, NoProgress | OutOfMemory)
    await with_retries(database, job, lambda tx: imports.release(tx, job, *why, counted=counted))


async def fail(database: Dialler, job: Import, code: str, message: str) -> None:
    """End the import as failed; what is committed stays."""
    if await with_retries(database, job, lambda tx: imports.fail(tx, job, code, message)):
        log_failure(job, code)
    else:
        log.info("import.fenced", import_id=str(job.id), attempt=job.attempt)


def log_failure(job: Import, code: str) -> None:
    log.info("import.failed", import_id=str(job.id), attempt=job.attempt, code=code, **timings().log_fields())
