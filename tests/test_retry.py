"""Retry: what failed or was cancelled goes on after what is committed, from the file that is still there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import oracle
from faults.harness import Site, part_records, site, until
from faults.oracle import File
from rollcall import control, pipeline
from rollcall.database import connect
from rollcall.errors import ObjectMissing, ReaderChanged
from rollcall.imports import Counts, Import

FILE = File("crm", 0, 400)
GOOD = b"name,email\nAnn,ann@x.org\n"
BAD = b"name,email\nAnn,ann@x.org\nBob,nowhere\n"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


async def partly(place: Site) -> Import:
    """An import that failed after one Part."""
    await place.post("crm", FILE.csv())
    draining = asyncio.Event()
    draining.set()
    job = await place.carry(await place.claim(), draining=draining)
    assert 0 < job.read < FILE.count
    await pipeline.fail(place.database, job, "IMPORT_FAILED", "It failed.")
    return await place.show(job.id)


async def test_retry_goes_on_from_the_ledger_by_the_same_plan(place: Site) -> None:
    await oracle.instrument(place.url)
    failed = await partly(place)

    await place.retry(failed.id)
    queued = await place.show(failed.id)
    job = await place.carry(await place.claim())

    assert (queued.state, queued.counts) == ("queued", failed.counts)
    assert queued.plan is not None
    assert failed.plan == queued.plan | {"source_was_empty": True}  # others may have filled it meanwhile
    assert (queued.error_code, queued.error_message, queued.finished_at, queued.crashes) == (None, None, None, 0)
    assert (job.state, job.attempt) == ("succeeded", failed.attempt + 1)
    assert await oracle.violations(place.url, {job.id: FILE}) == []


async def test_retry_leaves_alone_what_is_queued_running_or_succeeded(place: Site) -> None:
    job_id = await place.post("crm", GOOD)
    queued = await place.show(job_id)
    await place.retry(job_id)
    assert await place.show(job_id) == queued

    running = await place.claim()
    await place.retry(job_id)
    assert await place.show(job_id) == running

    succeeded = await place.carry(running)
    await place.retry(job_id)
    assert await place.show(job_id) == succeeded
    assert succeeded.state == "succeeded"


async def test_retry_a_check_that_failed_is_made_anew(place: Site) -> None:
    failed = await place.load("crm", BAD, onInvalid="fail")
    assert (failed.rejected, failed.total) == (1, 2)

    await place.retry(failed.id)

    queued = await place.show(failed.id)
    assert (queued.plan, queued.total, queued.counts) == (None, None, Counts())
    assert await place.query("select record from rollcall.rejects") == []
    job = await place.carry(await place.claim())
    assert (job.error_code, job.counts) == (failed.error_code, failed.counts)
    assert await place.query("select record from rollcall.rejects") == [(2,)]


async def test_retry_another_reader_begins_anew_when_nothing_is_committed(place: Site) -> None:
    job_id = await place.post("crm", GOOD)
    await place.claim()
    await control.cancel(place.database, job_id)
    await place.query("update rollcall.imports set plan = %s", '{"reader": 0, "loaders": ["", "m"]}')

    await place.retry(job_id)

    assert (await place.carry(await place.claim())).state == "succeeded"


async def test_retry_another_reader_is_refused_when_something_is_committed(place: Site) -> None:
    failed = await partly(place)
    await place.query("update rollcall.imports set plan = jsonb_set(plan, '{reader}', '0')")

    with pytest.raises(ReaderChanged, match="Import the file again"):
        await place.retry(failed.id)

    assert (await place.show(failed.id)).state == "failed"


async def test_retry_a_file_that_was_deleted_is_to_be_sent_again(place: Site) -> None:
    failed = await partly(place)
    await place.query("delete from rollcall.segments")

    with pytest.raises(ObjectMissing, match="Send the file again"):
        await place.retry(failed.id)

    assert await place.show(failed.id) == failed


async def test_retry_what_is_committed_while_it_waits_counts(place: Site) -> None:
    """Somebody else retried it first, loaded a batch and failed again, just as this one looks."""
    await place.load("crm", BAD, onInvalid="fail")
    (job_id,) = (await place.query("select id from rollcall.imports"))[0]
    async with await connect(place.url, "test") as other:
        async with other.transaction():
            await other.execute("update rollcall.imports set attempt = attempt + 1")
            await other.execute(
                """insert into rollcall.import_parts (import_id, loader, first, last, attempt, position)
                   values (%s, 0, 1, 1, 2, 1)""",
                (job_id,),
            )
            retrying = asyncio.create_task(place.retry(job_id))

            await until(place.somebody_waits, 10, "the retry waits")
        await retrying

    job = await place.show(job_id)
    assert job.state == "queued"
    assert job.plan is not None
    assert await place.query("select record from rollcall.rejects") == [(2,)]


async def test_retry_two_at_once_queue_it_once(place: Site) -> None:
    failed = await partly(place)

    await asyncio.gather(*(place.retry(failed.id) for _ in range(4)))
    job = await place.carry(await place.claim())

    assert (job.state, job.attempt, job.read) == ("succeeded", failed.attempt + 1, FILE.count)
