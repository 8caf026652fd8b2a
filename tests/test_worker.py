"""Workers that are killed, frozen, told to stop, cut off: what they were at is ended by others, once."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import pytest

from faults import oracle
from faults.harness import Site, Worker, part_records, site, until
from faults.oracle import File
from faults.proxy import proxy
from rollcall import imports, liveness, worker
from rollcall.database import connect
from rollcall.imports import CRASHES_MAX, Import
from rollcall.loading import retries

LONG = "ROLLCALL_LONG" in os.environ
HASTE = 1.0 if LONG else 10.0
KILLS, RECORDS_A_KILL = (50, 300) if LONG else (5, 250)
FILE = File("crm", 0, 1200)


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Every batch takes a fifth of a second."""
    await oracle.instrument(database_url, slow=0.07)
    async with site(database_url, tmp_path) as here:
        yield here


async def running(place: Site, job_id: UUID, *, attempt: int = 1, seconds: float = 30.0) -> Import:
    """The import, once this attempt or a later one has a worker, or it is final."""

    async def look() -> Import | None:
        job = await place.show(job_id)
        begun = job.state == "running" and job.worker is not None and job.attempt >= attempt
        return job if begun or job.state in imports.FINAL else None

    return await until(look, seconds, f"attempt {attempt} is under way")


async def at_work(place: Site, *workers: Worker) -> tuple[Worker, UUID]:
    """Post the file; the one of these workers that is in the middle of it, and the import."""
    numbers = {await process.number(): process for process in workers}
    job_id = await place.post(FILE.source, FILE.csv())
    await until(lambda: place.shares(job_id, at_least=2), 20, "two batches are committed")
    job = await place.show(job_id)
    assert job.worker is not None
    return numbers[job.worker], job_id


# Killed


@pytest.mark.parametrize("seed", [1, 2, 3] if LONG else [1])
async def test_worker_killed_at_random_moments(place: Site, seed: int) -> None:
    """One import and two workers, of which the one at work is killed again and again; the other one takes over."""
    chance, file = random.Random(seed), File("crm", 0, RECORDS_A_KILL * KILLS)
    job_id, attempt = await place.post(file.source, file.csv()), 0
    with ExitStack() as stack:
        workers: dict[int, Worker] = {}

        async def start() -> None:
            process = stack.enter_context(place.worker(haste=HASTE))
            workers[await process.number()] = process

        await asyncio.gather(start(), start())
        starting = []
        for _ in range(KILLS):
            job = await running(place, job_id, attempt=attempt + 1)
            assert job.state == "running"
            if job.crashes >= 2:
                await until(lambda: place.shares(job_id, attempt=job.attempt), 30, "a batch is committed")  # noqa: B023
            await asyncio.sleep(chance.uniform(0, 0.5))
            attempt = job.attempt
            assert job.worker is not None
            workers.pop(job.worker).send(signal.SIGKILL)
            starting.append(asyncio.create_task(start()))
        job = await place.final(job_id, 120)
        await asyncio.gather(*starting)

    assert job.state == "succeeded"
    assert job.attempt > KILLS
    assert await oracle.violations(place.url, {job_id: file}) == []


async def test_worker_four_lost_attempts_without_a_batch_end_an_import(place: Site) -> None:
    job_id = await place.post(FILE.source, FILE.csv())
    job = await place.claim()

    for crashes in range(1, CRASHES_MAX):
        job = await place.take(job_id, counted=True)
        assert (job.state, job.crashes) == ("running", crashes)
    job = await place.take(job_id, counted=True)

    assert (job.state, job.crashes, job.error_code) == ("failed", CRASHES_MAX, "CRASHED")
    await place.retry(job_id)
    job = await place.carry(await place.claim())
    assert (job.state, job.attempt) == ("succeeded", CRASHES_MAX + 2)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


async def test_worker_a_batch_makes_the_count_begin_again(place: Site) -> None:
    await place.post(FILE.source, FILE.csv())
    job = await place.claim()
    for _ in range(CRASHES_MAX - 1):
        job = await place.take(job.id, counted=True)
    draining = asyncio.Event()
    draining.set()
    with part_records(100):
        await place.carry(job, draining=draining)

    job = await place.take(job.id, counted=True)

    assert (job.state, job.crashes) == ("running", 1)


async def test_worker_a_claim_that_was_lost_before_it_was_looked_at(place: Site) -> None:
    """Frozen between the two, a worker must not go on under the attempt of whoever took its import over."""
    await place.post(FILE.source, FILE.csv())
    async with await connect(place.url, "test") as other:
        async with other.transaction():
            await other.execute("lock table rollcall.import_parts")  # the look has to wait
            claiming = asyncio.create_task(claim(place))

            async def begun() -> bool:
                return bool(await place.query("select id from rollcall.imports where state = 'running'"))

            await until(begun, 10, "it is claimed")
            await other.execute("update rollcall.imports set attempt = attempt + 1, worker = 2")

        assert await claiming is None


async def claim(place: Site) -> Import | None:
    async with await connect(place.url, "test") as tx:
        return await imports.claim(tx, 1)


# Frozen


@pytest.mark.long  # tests/test_faults_worker.py and tests/test_takeover.py hurry
async def test_worker_frozen_in_the_middle(place: Site) -> None:
    """Taken over when its beat is old; thawed, it writes nothing and works on."""
    with place.worker() as one, place.worker() as two:
        frozen, job_id = await at_work(place, one, two)
        began = time.monotonic()
        frozen.send(signal.SIGSTOP)

        job = await running(place, job_id, attempt=2, seconds=35)
        assert job.attempt == 2
        assert time.monotonic() - began > liveness.STALE_SECONDS - liveness.BEAT_SECONDS
        job = await place.final(job_id)
        frozen.send(signal.SIGCONT)
        await frozen.logged("import.fenced")

        assert await place.show(job_id) == job
    assert (job.state, job.attempt, await place.crashes(job_id)) == ("succeeded", 2, 1)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


@pytest.mark.long
async def test_worker_control_connections_come_and_go(place: Site) -> None:
    """The loaders of a worker go on, and nobody takes its import: it dials again within the second that others wait."""
    with place.worker() as one, place.worker() as two:
        _, job_id = await at_work(place, one, two)
        for count in range(2, 4):
            await place.query(
                """select pg_terminate_backend(pid) from pg_stat_activity
                    where datname = current_database() and application_name like 'rollcall:worker:%%'"""
            )

            async def again(count: int = count) -> bool:
                return all(len(each.events("worker.ready")) >= count for each in (one, two))

            await until(again, 10, "both have dialled again")
        job = await place.final(job_id)

    assert (job.state, job.attempt) == ("succeeded", 1)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


# Told to stop


@pytest.mark.parametrize("run", range(50 if LONG else 2))
async def test_worker_once_leaves_when_nothing_is_open(place: Site, run: int) -> None:
    posted = {}
    for source, edition in (("crm", 0), ("crm", 1), ("shop", 0)):
        file = File(source, edition, 60 + run)
        posted[await place.post(source, file.csv())] = file

    with place.worker("--once") as process:
        assert await process.exited(30) == 0

    assert {(await place.show(job_id)).state for job_id in posted} == {"succeeded"}
    assert await oracle.violations(place.url, posted) == []


async def test_worker_the_command(place: Site) -> None:
    """`rollcall worker --once`, as it is installed."""
    job_id = await place.post(FILE.source, FILE.csv())

    with Worker([sys.executable, "-m", "rollcall", "worker", "--once"], place.folder, place.url) as process:
        assert await process.exited(30) == 0

    assert (await place.show(job_id)).state == "succeeded"


async def test_worker_sigterm_in_the_middle(place: Site) -> None:
    """What is in hand is committed, the import let go, and another worker goes on at once."""
    with place.worker() as one, place.worker() as two:
        stopped, job_id = await at_work(place, one, two)
        stopped.send(signal.SIGTERM)
        assert await stopped.exited(25) == 0

        await until(lambda: place.shares(job_id, attempt=2), 5 if LONG else 15, "the other one goes on")

        job = await place.final(job_id)
    assert (job.state, job.attempt, await place.crashes(job_id)) == ("succeeded", 2, 0)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


async def test_worker_sigterm_while_the_database_is_away(place: Site) -> None:
    async with proxy(place.url) as between:
        with place.worker(through=between.url) as process:
            await process.number()
            between.judge = lambda link, data: "cut"
            for link in list(between.links):
                link.close()

            process.send(signal.SIGTERM)

            assert await process.exited(25) == 0


# Cannot work


@pytest.fixture
async def in_process(place: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A worker in this process that rests a little, where others rest long."""
    monkeypatch.setattr(retries, "BACK_OFF_SECONDS", 0.5)
    stop = asyncio.Event()
    work = asyncio.create_task(worker.run(place.settings(), place.url, stop=stop))
    yield
    stop.set()
    await asyncio.wait_for(work, 30)


@pytest.mark.usefixtures("in_process")
async def test_worker_a_small_file_takes_one_connection(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "ONE_LOADER_BYTES", 1000)
    for count, loaders in ((10, 1), (1000, 2)):
        file = File("crm", 0, count)
        job = await place.final(await place.post(file.source, file.csv()))
        assert (job.state, job.plan and len(job.plan["loaders"])) == ("succeeded", loaders)


@pytest.mark.usefixtures("in_process")
async def test_worker_a_store_that_is_away(place: Site) -> None:
    """Given back and tried again until it is there, with a rest between."""
    job_id = await place.post(FILE.source, FILE.csv())
    stored = next(path for path in (place.folder / "store").rglob("*") if path.is_file())
    kept = stored.with_suffix(".kept")
    kept.hardlink_to(stored)
    loop = stored.with_suffix(".loop")
    loop.symlink_to(stored.name)
    loop.replace(stored)  # there at every moment, and not to be opened: it points to itself
    began = time.monotonic()

    job = await running(place, job_id, attempt=4)

    assert (job.state, job.error_code) == ("running", "STORE_UNAVAILABLE")
    assert time.monotonic() - began > 2.5 * retries.BACK_OFF_SECONDS
    kept.replace(stored)

    assert (await place.final(job_id)).state == "succeeded"


@pytest.mark.usefixtures("in_process")
async def test_worker_a_database_that_refuses_the_end(place: Site) -> None:
    """Not even a failure can be written down: tried again with a rest between, until it can succeed."""
    await place.query("alter table rollcall.imports add constraint endless check (finished_at is null)")
    await place.query("alter table rollcall.imports add constraint faultless check (state <> 'failed')")
    job_id = await place.post(FILE.source, FILE.csv())
    await running(place, job_id, attempt=3)
    await place.query("alter table rollcall.imports drop constraint endless")  # perhaps after this attempt's close

    job = await place.final(job_id)

    assert (job.state, job.crashes) == ("succeeded", 0)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


# Slow to poll


async def working(place: Site, stop: asyncio.Event) -> asyncio.Task[None]:
    """A worker in this process that looks for work once a minute, once it has begun."""
    task = asyncio.create_task(
        worker.run(place.settings().model_copy(update={"worker_poll_interval": 60_000}), place.url, stop=stop)
    )
    await until(lambda: place.query("select 1 from rollcall.workers"), 10, "the worker is there")
    return task


async def test_worker_beats_however_seldom_it_polls(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.05)
    stop = asyncio.Event()
    task = await working(place, stop)
    beats: set[object] = set()

    async def beaten() -> bool:
        beats.update(row[0] for row in await place.query("select beat from rollcall.workers"))
        return len(beats) > 3

    await until(beaten, 10, "it has beaten three times")
    stop.set()
    await asyncio.wait_for(task, 5)


async def test_worker_drains_at_once_however_seldom_it_polls(place: Site) -> None:
    stop = asyncio.Event()
    task = await working(place, stop)
    await asyncio.sleep(0.3)  # it may still be about to wait
    stop.set()
    await asyncio.wait_for(task, 5)


async def test_worker_claims_when_a_slot_is_free_however_seldom_it_polls(place: Site) -> None:
    stop = asyncio.Event()
    settings = place.settings(worker_concurrency=1).model_copy(update={"worker_poll_interval": 60_000})
    jobs = [await place.post(source, File(source, 0, 5).csv()) for source in ("a", "b", "c")]
    await asyncio.wait_for(worker.run(settings, place.url, once=True, stop=stop), 20)
    assert [(await place.show(job)).state for job in jobs] == ["succeeded"] * 3


async def test_worker_takes_over_soon_however_seldom_it_polls(place: Site) -> None:
    job_id = await place.post("crm", File("crm", 0, 5).csv())
    await place.claim(worker=999)  # nobody's number: its lock is free
    stop = asyncio.Event()
    task = await working(place, stop)
    assert (await place.final(job_id, 10)).state == "succeeded"
    stop.set()
    await asyncio.wait_for(task, 5)
