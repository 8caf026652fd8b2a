"""How imports end: whichever way, the same is written; and an attempt that is lost without its worker dying."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import psycopg
import pytest

from faults.harness import Site, part_records, site
from faults.oracle import File
from rollcall import control, imports, pipeline
from rollcall.imports import CRASHES_MAX, Counts, Import

FILE = File("crm", 0, 400)
BAD = b"name,email\nAnn,ann@x.org\nBob,nowhere\n"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


async def half_done(place: Site) -> Import:
    """A running import of which one Part is committed."""
    await place.post("crm", FILE.csv())
    draining = asyncio.Event()
    draining.set()
    job = await place.carry(await place.claim(), draining=draining)
    assert 0 < job.read < FILE.count
    return job


async def fail(place: Site, job: Import) -> None:
    await pipeline.fail(place.database, job, "IMPORT_FAILED", "It failed.")


async def cancel(place: Site, job: Import) -> None:
    await control.cancel(place.database, job.id)


async def crash(place: Site, job: Import) -> None:
    for _ in range(CRASHES_MAX):
        await place.take(job.id, counted=True)
        await place.query("update rollcall.imports set worker = 2 where state = 'running'")


@pytest.mark.parametrize("end", [fail, cancel, crash])
async def test_end_keeps_what_was_read(place: Site, end: Callable[[Site, Import], Awaitable[None]]) -> None:
    running = await half_done(place)
    await place.query("update rollcall.imports set worker = 2 where state = 'running'")

    await end(place, running)

    job = await place.show(running.id)
    assert job.state in imports.FINAL
    assert job.finished_at is not None
    assert (job.counts, job.position, job.by_code) == (running.counts, running.position, running.by_code)
    assert 0 < job.position <= job.bytes_total
    assert (job.worker, job.total) == (None, None)

    await place.retry(job.id)
    queued = await place.show(job.id)
    assert (queued.counts, queued.position) == (job.counts, job.position)
    done = await place.carry(await place.claim())
    assert (done.state, done.position, done.total) == ("succeeded", done.bytes_total, FILE.count)


async def test_ends_fail_check_has_read_all(place: Site) -> None:
    job = await place.load("crm", BAD, onInvalid="fail")
    assert (job.state, job.position, job.total) == ("failed", job.bytes_total, 2)
    assert job.counts == Counts(read=1, rejected=1)


async def test_ends_cancel_before_the_claim_has_read_nothing(place: Site) -> None:
    job_id = await place.post("crm", FILE.csv())
    await control.cancel(place.database, job_id)
    job = await place.show(job_id)
    assert (job.state, job.position, job.counts) == ("cancelled", 0, Counts())


async def test_ends_show_has_the_name_of_the_file(place: Site) -> None:
    job_id = await place.post("crm", FILE.csv())
    assert (await place.show(job_id)).file_name is None
    await place.query("update rollcall.uploads set name = 'Contacts 2026.csv'")
    assert (await place.show(job_id)).file_name == "Contacts 2026.csv"


async def test_ends_release_counts_an_attempt_once(place: Site) -> None:
    """Its answer may be lost, and it is said again."""
    await place.post("crm", FILE.csv())
    job = await place.claim()
    async with await psycopg.AsyncConnection.connect(place.url, autocommit=True) as tx:
        for _ in range(CRASHES_MAX + 1):
            await imports.release(tx, job, "X", "y", counted=True)
    assert ((await place.show(job.id)).state, (await place.show(job.id)).crashes) == ("running", 1)


async def test_ends_release_after_a_commit_begins_the_count_anew(place: Site) -> None:
    job = await half_done(place)
    await place.query("update rollcall.imports set crashes = 3, worker = 1")
    async with await psycopg.AsyncConnection.connect(place.url, autocommit=True) as tx:
        await imports.release(tx, job, "X", "y", counted=True)
    assert (await place.show(job.id)).crashes == 1
