"""Who may begin, and when: one import of a Source at a time, in order; Sources side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import LiteralString

import pytest

from faults import oracle
from faults.harness import Site, part_records, site, until
from faults.oracle import File
from rollcall import control, imports, worker
from rollcall.database import connect
from rollcall.imports import Import


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await oracle.instrument(database_url, slow=0.02)
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


@pytest.fixture
async def two_workers(place: Site) -> AsyncIterator[None]:
    """Two workers in this process, each with slots for two imports."""
    stop = asyncio.Event()
    tasks = [
        asyncio.create_task(worker.run(place.settings(worker_concurrency=2), place.url, stop=stop)) for _ in range(2)
    ]
    yield
    stop.set()
    await asyncio.wait_for(asyncio.gather(*tasks), 30)


@pytest.mark.usefixtures("two_workers")
async def test_claim_two_files_for_one_source_run_one_after_the_other(place: Site) -> None:
    """Posted together; the second one's values stand."""
    files = [File("crm", edition, 800) for edition in range(2)]
    posted = {await place.post("crm", file.csv()): file for file in files}
    await place.idle()

    states = await place.query("select import_id, state from oracle.history where attempt > 0 order by ord")

    first, second = posted
    assert [job for job, state in states] == [first] * 3 + [second] * 3
    assert await oracle.violations(place.url, posted) == []
    shared = dict(await place.query("select import_id, count(*) from public.contacts group by import_id"))
    assert shared[second] > 0


@pytest.mark.usefixtures("two_workers")
async def test_claim_two_sources_run_side_by_side(place: Site) -> None:
    files = [File(source, 0, 1500) for source in ("crm", "shop")]
    posted = {await place.post(file.source, file.csv()): file for file in files}

    async def both() -> bool:
        rows = await place.query(
            """select count(distinct i.id) from rollcall.imports i join rollcall.import_parts p on p.import_id = i.id
                where i.state = 'running'"""
        )
        return bool(rows[0][0] == 2)

    await until(both, 20, "both are running, and both have committed something")
    await place.idle()

    assert await oracle.violations(place.url, posted) == []


async def claimed(place: Site) -> Import | None:
    async with place.database.session() as tx:
        return await imports.claim(tx, 1)


async def test_claim_a_source_waits_even_while_its_first_import_is_being_claimed(place: Site) -> None:
    """A claim that skips a locked row must not begin the one behind it."""
    first, second = [await place.post("crm", File("crm", 0, 10).csv()) for _ in range(2)]
    async with await connect(place.url, "test") as other, other.transaction():
        await other.execute("select from rollcall.imports where id = %s for update", (first,))
        assert await claimed(place) is None

    job = await claimed(place)
    assert job is not None
    assert job.id == first
    assert await claimed(place) is None
    assert (await place.show(second)).ahead == 1


async def test_claim_a_retried_import_runs_before_younger_ones_that_wait(place: Site) -> None:
    first, _ = [await place.post("crm", File("crm", 0, 10).csv()) for _ in range(2)]
    await control.cancel(place.database, first)
    await place.retry(first)

    job = await claimed(place)

    assert job is not None
    assert job.id == first


async def test_claim_a_retried_import_waits_for_a_younger_one_that_runs(place: Site) -> None:
    """Given back, that one still comes first. Then the older one's values stand: the order is that of running."""
    posted = {await place.post("crm", file.csv()): file for file in (File("crm", edition, 300) for edition in range(2))}
    first, second = posted
    await control.cancel(place.database, first)
    running = await claimed(place)
    assert running is not None
    assert running.id == second
    await place.retry(first)
    assert await claimed(place) is None
    draining = asyncio.Event()
    draining.set()
    running = await place.carry(running, draining=draining)
    assert 0 < running.read < posted[second].count
    assert await claimed(place) is None

    await place.carry(await place.take(second))
    job = await claimed(place)

    assert job is not None
    assert job.id == first
    assert (await place.carry(job)).updated > 0
    assert await oracle.violations(place.url, posted) == []


async def test_claim_an_older_import_is_retried_and_claimed_at_this_moment(place: Site) -> None:
    """It was not there when somebody else looked: who then claims the younger one gets nothing now."""
    first, second = [await place.post("crm", File("crm", 0, 10).csv()) for _ in range(2)]
    await control.cancel(place.database, first)
    async with await connect(place.url, "test") as other, other.transaction():
        await other.execute(
            "update rollcall.imports set state = 'running', attempt = 1, finished_at = null where id = %s", (first,)
        )
        claiming = asyncio.create_task(claimed(place))

        await until(place.somebody_waits, 10, "the claim waits for the other one")
    assert await claiming is None
    assert (await place.show(second)).state == "queued"


async def test_claim_large_files_are_claimed_only_by_workers_that_have_none(place: Site) -> None:
    large = await place.post("crm", File("crm", 0, 10).csv())
    small = await place.post("shop", File("shop", 0, 10).csv())
    await place.query("update rollcall.imports set bytes_total = %s where id = %s", imports.LARGE_BYTES + 1, large)
    async with place.database.session() as tx:
        job = await imports.claim(tx, 1, bytes_max=imports.LARGE_BYTES)
        assert job is not None
        assert job.id == small
        assert await imports.claim(tx, 1, bytes_max=imports.LARGE_BYTES) is None
        job = await imports.claim(tx, 1)
        assert job is not None
        assert job.id == large


async def test_claim_does_not_look_at_what_is_over(place: Site) -> None:
    """However many imports there were: a worker asks four times a second."""
    await place.query(
        """with over as (
             insert into rollcall.uploads (id, state, length, created_at, completed_at)
               select gen_random_uuid(), 'complete', 0, now(), now() from generate_series(1, 3000) returning id)
           insert into rollcall.imports (id, source, upload_id, bytes_total, state, options, total, created_at,
                                         finished_at)
             select gen_random_uuid(), 'crm', id, 0, 'succeeded', '{}', 0, now(), now() from over"""
    )
    job_id = await place.post("crm", File("crm", 0, 10).csv())
    looked: LiteralString = (
        "select coalesce(seq_tup_read + idx_tup_fetch, 0) from pg_stat_xact_user_tables where relname = 'imports'"
    )
    async with await connect(place.url, "test") as tx, tx.transaction():
        job = await imports.claim(tx, 1)
        row = await (await tx.execute(looked)).fetchone()

    assert job is not None
    assert job.id == job_id
    assert row is not None
    assert 0 < row[0] < 50
