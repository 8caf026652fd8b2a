"""Postgres stops, crashes, is away, full, locked, written to by others: every import ends as if nothing had been.

Nobody is restarted but Postgres. After each fault the same invariants are checked. ROLLCALL_LONG=1 makes the faults
last as long as they do in earnest.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from itertools import cycle
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from faults import oracle
from faults.chaos import empty_folder
from faults.disk import small_disk
from faults.harness import Site, part_records, site, until
from faults.invariants import assert_sound, watched
from faults.oracle import File
from rollcall import embedded, imports, liveness, migrations, pool, sweep, worker, workers
from rollcall.database import Connection, connect
from rollcall.loading import retries
from service import objects, served

LONG = "ROLLCALL_LONG" in os.environ
AWAY_SECONDS = 60.0 if LONG else 1.0
LOCKED_SECONDS = 30.0 if LONG else 2.0
SERVER = {"fsync": "off", "max_connections": "30", "superuser_reserved_connections": "0", "shared_buffers": "32MB"}
HEADERS = {"Content-Type": "text/csv", "X-Source": "crm"}

Held = psycopg.AsyncConnection[tuple[object, ...]]


@pytest.fixture(scope="module")
def server(bin_dir: Path | None) -> Iterator[embedded.Server]:
    """One that may be broken; its database is a template."""
    with empty_folder() as folder, embedded.postgres(folder, bin_dir=bin_dir, options=SERVER) as running:
        asyncio.run(migrations.migrate(running.url))
        yield running


@pytest.fixture
async def place(server: embedded.Server, tmp_path: Path) -> AsyncIterator[Site]:
    """Every batch takes a tenth of a second."""
    server.start()
    name = f"faults_{uuid4().hex}"
    async with await psycopg.AsyncConnection.connect(server.url, dbname="postgres", autocommit=True) as tx:
        await tx.execute(f"create database {name} template rollcall".encode())
    url = urlsplit(server.url)._replace(path=f"/{name}").geturl()
    await oracle.instrument(url, slow=0.03)
    with part_records(100):
        async with site(url, tmp_path) as here:
            yield here


@pytest.fixture
async def at_work(place: Site, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A worker in this process that looks often."""
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.2)
    stop = asyncio.Event()
    work = asyncio.create_task(worker.run(place.settings(), place.url, stop=stop))
    yield
    stop.set()
    await asyncio.wait_for(work, 30)


# Stops and crashes

Harm = Literal["fast", "immediate", "postmaster", "backend"]


async def strike(server: embedded.Server, place: Site, harm: Harm) -> None:
    """Stop, or crash; and up again."""
    if harm == "backend":
        ours = "datname = current_database() and application_name like 'rollcall:%%'"
        order = "order by query like 'copy %%' desc limit 1"
        [(pid,)] = await place.query(f"select pid from pg_stat_activity where {ours} {order}")
        os.kill(pid, signal.SIGKILL)
        return
    if harm == "postmaster":
        os.kill(int((server.home / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)

        async def dead() -> bool:
            return not server.alive

        await until(dead, 10, "the postmaster is dead")
    else:
        await asyncio.to_thread(server.stop, harm)
    await asyncio.to_thread(server.start)


async def in_mid_copy(place: Site) -> bool:
    copying = "select pid from pg_stat_activity where datname = current_database() and query like 'copy public.%%'"
    return bool(await place.query(copying + " and state = 'active'"))


@pytest.mark.usefixtures("at_work")
@pytest.mark.parametrize("harm", ["fast", "immediate", "postmaster", "backend"])
async def test_faults_postgres_goes_down_and_comes_up(server: embedded.Server, place: Site, harm: Harm) -> None:
    """While a loader copies, and while everybody waits."""
    files = [File("crm", edition, 700) for edition in range(2)]
    async with watched(place):
        first = await place.post("crm", files[0].csv())
        await until(lambda: place.shares(first, at_least=2), 20, "two batches are committed")
        await until(lambda: in_mid_copy(place), 10, "a loader copies")
        await strike(server, place, harm)
        job = await place.final(first)
        assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)

        await strike(server, place, harm)
        second = await place.post("crm", files[1].csv())
        assert (await place.final(second)).state == "succeeded"
    await strike(server, place, "fast")  # what is said to be final is on the disk
    await assert_sound(place, dict(zip((first, second), files, strict=True)))


@pytest.mark.parametrize("restarted", [False, True])
async def test_faults_who_went_down_with_postgres_is_not_to_blame(
    server: embedded.Server, place: Site, restarted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its import is taken over; that it may be one that workers die of, nothing says."""
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 0.1)
    file = File("crm", 0, 100)
    job_id = await place.post(file.source, file.csv())
    async with await connect(place.url, "test") as tx:
        await place.claim(await workers.register(tx, "somebody"))
    if restarted:
        await asyncio.to_thread(server.stop, "fast")
        await asyncio.to_thread(server.start)

    await asyncio.wait_for(worker.run(place.settings(), place.url, once=True), 30)

    job = await place.show(job_id)
    assert (job.state, job.attempt, await place.crashes(job_id)) == ("succeeded", 2, 0 if restarted else 1)


# Away, and out of connections


def assert_unavailable(answer: httpx.Response) -> None:
    assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
    assert int(answer.headers["Retry-After"]) > 0


async def accepted(client: httpx.AsyncClient, file: File) -> UUID | None:
    answer = await client.post("/import", content=file.csv(), headers=HEADERS)
    if answer.status_code == 200:
        return UUID(answer.json()["jobId"])
    assert_unavailable(answer)
    return None


@pytest.mark.usefixtures("at_work")
async def test_faults_postgres_is_away(server: embedded.Server, place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An import goes on where it was; what is posted all the while is refused, and nothing of it is there."""
    monkeypatch.setattr(pool, "POOL_WAIT_SECONDS", 0.5)
    file, later = File("crm", 0, 700), File("crm", 1, 300)
    async with served(place.url, place.folder) as client, watched(place):
        first = UUID((await client.post("/import", content=file.csv(), headers=HEADERS)).json()["jobId"])
        await until(lambda: place.shares(first, at_least=2), 20, "two batches are committed")
        stored = objects(place.folder)

        await asyncio.to_thread(server.stop)
        back = time.monotonic() + AWAY_SECONDS
        for resumable in cycle(("false", "true")):
            headers = HEADERS | {"X-Use-Resumable": resumable}
            assert_unavailable(await client.post("/import", content=later.csv(), headers=headers))
            if time.monotonic() > back:
                break
        assert_unavailable(await client.get(f"/imports/{first}"))
        assert [(await client.get(path)).status_code for path in ("/health", "/health/live")] == [503, 200]
        assert objects(place.folder) == stored
        await asyncio.to_thread(server.start)
        second = await until(lambda: accepted(client, later), 10, "the service answers again")
        job = await place.final(first)
        assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)
        assert (await place.final(second)).state == "succeeded"
    await assert_sound(place, {first: file, second: later})


async def test_faults_postgres_goes_while_a_body_arrives(
    server: embedded.Server, place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sender is told, and may send it again as soon as there is a database. What is left in the store is swept."""
    monkeypatch.setattr(pool, "POOL_WAIT_SECONDS", 0.5)

    async def body() -> AsyncIterator[bytes]:
        yield file.csv()
        await asyncio.to_thread(server.stop)
        yield b"Ann,ann@x.org,,\n"

    file = File("crm", 0, 300)
    async with served(place.url, place.folder) as client:
        assert_unavailable(await client.post("/import", content=body(), headers=HEADERS))
        await asyncio.sleep(AWAY_SECONDS if LONG else 0)
        await asyncio.to_thread(server.start)
        job_id = await until(lambda: accepted(client, file), 10, "the service answers again")
    assert len(await place.query("select id from rollcall.uploads where state = 'arriving'")) == 1

    await place.query("update rollcall.uploads set seen_at = seen_at - make_interval(hours => 25)")
    settings = place.settings()
    await sweep.sweep(
        place.database,
        place.store,
        retention=settings.retention,
        rejects_retention=settings.rejects_retention,
        imports_retention=settings.imports_retention,
    )
    await place.carry(await place.claim())
    await assert_sound(place, {job_id: file})


async def show(tx: Connection, job_id: UUID) -> imports.Import:
    job = await imports.show(tx, job_id)
    assert job is not None
    return job


async def fill_up(url: str) -> list[Held]:
    """Take all connections there are."""
    held: list[Held] = []
    while True:
        try:
            held.append(await psycopg.AsyncConnection.connect(url))
        except psycopg.OperationalError:
            return held


@pytest.mark.usefixtures("at_work")
async def test_faults_others_hold_all_connections(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no connection yet is told so or waits; when there are some again, the queue drains."""
    monkeypatch.setattr(pool, "POOL_WAIT_SECONDS", 0.5)
    files = [File("crm", 0, 300), File("shop", 0, 300)]

    async def waits() -> bool:
        rows = await place.query("select application_name from pg_stat_activity where application_name ~ '^rollcall:'")
        return [name.startswith("rollcall:worker:") for (name,) in rows] == [True]

    await until(waits, 10, "the worker has its one connection, and needs no other")
    async with await connect(place.url, "test") as tx, watched(place):
        held = await fill_up(place.url)
        assert len(held) > 15
        posted = {await place.post(file.source, file.csv()): file for file in files}  # on a connection that is open
        async with served(place.url, place.folder) as client:
            assert_unavailable(await client.post("/import", content=files[0].csv(), headers=HEADERS))
        await asyncio.sleep(LOCKED_SECONDS / 2)
        for job_id in posted:
            job = await show(tx, job_id)
            assert (job.state, job.attempt, job.read) == ("running", 1, 0)
        for connection in held:
            await connection.close()

        for job_id in posted:
            job = await place.final(job_id)
            assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)
    await assert_sound(place, posted)


# Full, and locked


@pytest.mark.usefixtures("at_work")
async def test_faults_the_disk_of_postgres_is_full(
    server: embedded.Server, place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tried again and again, given back and taken again, with rests; it ends well when there is room."""
    monkeypatch.setattr(liveness, "FULL_PATIENCE_SECONDS", 0.5)
    monkeypatch.setattr(retries, "BACK_OFF_SECONDS", 0.2)
    file = File("crm", 0, 1500)
    mount = server.home / "small"
    with small_disk(mount, "4m", owner=(server.home / "data").stat().st_uid) as disk, capture_logs() as logs:
        space = f"small_{uuid4().hex[:8]}"
        await place.query(f"create tablespace {space} location '{disk}'")
        await place.query(f"alter table public.contacts set tablespace {space}")
        try:
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - 65_536))
            async with watched(place):
                job_id = await place.post("crm", file.csv())

                async def tried() -> bool:
                    return (await place.show(job_id)).attempt >= 3

                await until(tried, 20, "it was given back twice")
                job = await place.show(job_id)
                assert (job.state, job.crashes, job.error_code) == ("running", 0, "DATABASE_FULL")
                assert {line["sqlstate"] for line in logs if line["event"] == "loader.again"} == {"53100"}
                ballast.unlink()
                job = await place.final(job_id)
                assert (job.state, job.error_code) == ("succeeded", None)
            await assert_sound(place, {job_id: file})
        finally:
            await place.query("alter table public.contacts set tablespace pg_default")
            await place.query(f"drop tablespace {space}")


@pytest.mark.usefixtures("at_work")
async def test_faults_somebody_locks_the_contacts(place: Site) -> None:
    """The worker goes on beating, and the import waits."""
    file = File("crm", 0, 600)
    with capture_logs() as logs:
        async with await connect(place.url, "test", idle_seconds=300) as other, watched(place):
            job_id = await place.post("crm", file.csv())
            await until(lambda: place.shares(job_id, at_least=2), 20, "two batches are committed")
            async with other.transaction():
                await other.execute("lock table public.contacts in access exclusive mode")
                before = await place.shares(job_id)
                for _ in range(int(LOCKED_SECONDS)):
                    since = (await place.query("select max(beat) from rollcall.workers"))[0][0]

                    async def beaten() -> bool:
                        rows = await place.query("select max(beat) > %s from rollcall.workers", since)  # noqa: B023
                        return bool(rows[0][0])

                    await until(beaten, 5, "the worker beats")
                    await asyncio.sleep(1)
                assert await place.shares(job_id) == before
            job = await place.final(job_id)
    assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)
    assert "55P03" in {line["sqlstate"] for line in logs if line["event"] == "loader.again"}
    await assert_sound(place, {job_id: file})
