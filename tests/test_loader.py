"""A loader that loses its connection, its import or what it had committed: nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs

from faults import oracle
from faults.harness import Database, Site, part_records, site, until
from faults.oracle import File
from faults.proxy import Harm, Judgement, Link, Proxy, proxy
from rollcall import embedded, migrations, pipeline, telemetry, worker
from rollcall.database import Connection
from rollcall.storage import FileStore

LONG = "ROLLCALL_LONG" in os.environ
FILE = File("crm", 0, 2400)
PART_RECORDS = 200
WAL_STAYS_IN_MEMORY = {
    "wal_writer_delay": "10s",
    "wal_writer_flush_after": "1GB",
    "wal_buffers": "64MB",
    "fsync": "off",  # it is the server that crashes, not the machine
}


@pytest.fixture
async def before(database_url: str) -> AsyncIterator[Proxy]:
    """What stands between the loaders and Postgres."""
    await oracle.instrument(database_url)
    async with proxy(database_url) as between:
        yield between


@pytest.fixture
async def place(database_url: str, before: Proxy, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(PART_RECORDS):
        async with site(database_url, tmp_path, through=before.url) as here:
            yield here


@pytest.fixture
def aside(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """To say something to the database while a message is on its way."""
    with psycopg.connect(database_url, autocommit=True) as tx:
        yield tx


def is_lane(link: Link) -> bool:
    return link.name.endswith((":1:0", ":1:1"))


async def assert_whole(place: Site, file: File = FILE) -> None:
    """Load the file in one attempt; nothing is missing, nothing is there twice."""
    job = await place.load(file.source, file.csv())
    assert (job.state, job.attempt, job.total) == ("succeeded", 1, file.count)
    assert await oracle.violations(place.url, {job.id: file}) == []


@pytest.mark.parametrize("harm", ["cut", "reset", "answerless"])
async def test_loader_connection_lost_at_every_third_commit(place: Site, before: Proxy, harm: Harm) -> None:
    """Before COMMIT reaches the server, and after it did and nobody heard the answer."""
    commits = 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal commits
        if not is_lane(link) or b"COMMIT\0" not in data:
            return "pass"
        commits += 1
        return harm if commits % 3 == 0 else "pass"

    before.judge = judge

    await assert_whole(place)

    assert len(before.harmed) >= 6


async def test_loader_commit_that_arrives_after_the_look(place: Site, before: Proxy) -> None:
    """The loader looks, finds nothing, begins again: then its first COMMIT gets through."""
    late: set[str] = set()

    def judge(link: Link, data: bytes) -> Harm:
        if not is_lane(link):
            return "pass"
        if link.name in late and b"insert into rollcall.import_parts" in data:
            before.deliver.set()
            before.deliver = asyncio.Event()
        elif link.name not in late and b"COMMIT\0" in data:
            late.add(link.name)
            return "late"
        return "pass"

    before.judge = judge

    await assert_whole(place)

    assert {harm for _, harm in before.harmed} == {"late"}


@pytest.mark.parametrize("word", [b"insert into rollcall.import_parts", b"COMMIT\0"], ids=["fence", "share"])
async def test_loader_half_open_twin_is_ended(place: Site, before: Proxy, word: bytes) -> None:
    """The server still holds the batch of a connection that the loader knows to be dead: the loader ends it.

    If it only holds the fence, no loader is in its way: whoever closes the import ends it."""

    def judge(link: Link, data: bytes) -> Harm:
        lost = is_lane(link) and word in data and not before.harmed
        return "swallow" if lost else "pass"

    before.judge = judge

    await asyncio.wait_for(assert_whole(place), 20)  # Postgres bears with it for 30 s

    assert [harm for _, harm in before.harmed] == ["swallow"]


@pytest.mark.parametrize("seed", range(20) if LONG else [1, 2])
async def test_loader_connections_lost_anywhere(place: Site, before: Proxy, seed: int) -> None:
    """One message in 25 is the last one of its connection, whatever it says; connecting included. batches are of one
    Part each, or of as many as wait."""
    chance = random.Random(seed)
    harms: list[Harm] = ["cut", "reset", "answerless"]

    def judge(link: Link, data: bytes) -> Harm:
        ours = link.name.startswith("rollcall:")
        return chance.choice(harms) if ours and chance.random() < 0.04 else "pass"

    before.judge = judge

    with part_records(PART_RECORDS // 4, rows=-1 if seed % 2 else PART_RECORDS):
        await assert_whole(place)

    assert len(before.harmed) >= 5


async def test_loader_slow_network(place: Site, before: Proxy) -> None:
    before.latency, before.limit = 0.002, 1 << 20

    await assert_whole(place)


async def test_loader_fenced_loaders_write_nothing(place: Site, before: Proxy) -> None:
    """An import is taken over in the middle: whoever had it stops, whoever has it ends it."""
    before.latency = 0.005
    job_id = await place.post(FILE.source, FILE.csv())
    first = asyncio.create_task(place.carry(await place.claim()))
    await until(lambda: place.shares(job_id, at_least=4), 20, "four batches are committed")
    job = await place.take(job_id, worker=2)
    assert job.attempt == 2
    await asyncio.wait_for(first, 10)
    written = await place.shares(job_id)
    assert (await place.show(job_id)).state == "running"

    job = await place.carry(job)

    assert (job.state, job.attempt) == ("succeeded", 2)
    assert written < await place.shares(job_id)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


async def test_loader_a_twin_that_cut_its_parts_otherwise(place: Site, before: Proxy) -> None:
    """Just when a loader is about to enter its first batch, another one that begins there is committed, and shorter.

    It is of the same attempt: an older session of this worker, say. The loader loads what that one did not have.
    """
    go_on, waiting = asyncio.Event(), asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        if link.name.endswith(":1:0") and b"insert into rollcall.import_parts" in data and not waiting.is_set():
            waiting.set()
            return go_on
        return "pass"

    before.judge = judge

    async def shorter() -> bool:
        return bool(await place.query("select last from rollcall.import_parts where loader = 0 and last = 37"))

    job_id = await place.post(FILE.source, FILE.csv())
    carrying = asyncio.create_task(place.carry(await place.claim()))
    await asyncio.wait_for(waiting.wait(), 10)
    draining = asyncio.Event()
    draining.set()  # one Part, and no more
    async with Database(place.url) as direct:
        with part_records(37):
            twin = replace(place, database=direct).carry(await place.show(job_id), draining=draining)
            twins = asyncio.create_task(twin)
            await until(shorter, 10, "the twin has committed")
            go_on.set()
            await asyncio.wait_for(asyncio.gather(carrying, twins), 20)

    job = await place.show(job_id)
    assert (job.state, job.attempt) == ("succeeded", 1)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


@pytest.mark.parametrize("times", [1, 1000], ids=["once", "again and again"])
async def test_loader_a_batch_that_is_taken_back_just_before_the_end(
    place: Site, before: Proxy, aside: psycopg.Connection[Any], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its loader is done and notices nothing. The close does not add up: what is missing is loaded, but not for
    ever."""
    monkeypatch.setattr(pipeline, "REWINDS_MAX", 3)
    closes = 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal closes
        if b"and p.read = e.total" in data:
            closes += 1
            if closes <= times:
                aside.execute("delete from rollcall.import_parts where last = 600 and loader = 1")
                aside.execute("delete from public.contacts where record > 400 and email ~ '^n'")
        return "pass"

    before.judge = judge
    lines = b"".join(b"Ann,%b%d@x.org\n" % (b"n" if at % 2 else b"a", at) for at in range(600))  # n: loader 1
    job = await asyncio.wait_for(place.load("crm", b"name,email\n" + lines), 20)

    if times == 1:
        assert (job.state, job.attempt, job.created, job.duplicate) == ("succeeded", 1, 600, 0)
    else:
        assert (job.state, job.error_code, closes) == ("failed", "IMPORT_FAILED", 3)


async def test_loader_a_batch_that_was_idle_for_too_long(database_url: str, before: Proxy, tmp_path: Path) -> None:
    """Postgres ends it while the worker sleeps; whoever wakes up hears of that by an error of its own kind."""
    never = asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        return never if is_lane(link) and b"COMMIT\0" in data and not idle() else "pass"

    def idle() -> list[Any]:
        return [line for line in logs if line["event"] == "loader.again"]

    before.judge = judge
    with capture_logs() as logs, part_records(PART_RECORDS):
        async with Impatient(before.url) as database:
            here = Site(database_url, tmp_path, database, FileStore(tmp_path / "store"))
            await assert_whole(here)
    assert {line["sqlstate"] for line in idle()} == {"25P03"}


class Impatient(Database):
    """Ends transactions in which nothing is said for a fifth of a second; it is 30 s in earnest."""

    async def connect(self, name: str) -> Connection:
        connection = await super().connect(name)
        await connection.execute("set idle_in_transaction_session_timeout = '200ms'")
        return connection


async def test_loader_dialling_that_comes_half_way(place: Site) -> None:
    """The disk is full just when a loader makes its temporary tables; a moment later it is not."""
    await place.query(
        """create sequence once;
           create function refuse() returns event_trigger language plpgsql as $$ begin
               if nextval('once') <= 2 then raise exception using errcode = '53100'; end if;
           end $$;
           create event trigger refuse on ddl_command_start when tag in ('CREATE TABLE') execute function refuse()"""
    )

    await assert_whole(place)


async def test_loader_postgres_takes_acknowledged_batches_back(
    data_dir: Path, bin_dir: Path | None, tmp_path: Path
) -> None:
    """Crashes of Postgres, each of which undoes batches that a loader was told are committed.

    The load rewinds to what the ledger says; nobody takes the import over.
    """
    with embedded.postgres(data_dir, bin_dir=bin_dir, options=WAL_STAYS_IN_MEMORY) as server:
        await migrations.migrate(server.url)
        await oracle.instrument(server.url, slow=0.01)
        stop = asyncio.Event()
        with part_records(PART_RECORDS):
            async with site(server.url, tmp_path) as place:
                work = asyncio.create_task(worker.run(place.settings(), server.url, stop=stop))
                try:
                    await _survive(place, server, crashes=10 if LONG else 2)
                finally:
                    stop.set()
                    await asyncio.wait_for(work, 30)


def rewinds() -> float:
    return telemetry.worker_counters()["rollcall_retries", "rewind"]


async def _survive(place: Site, server: embedded.Server, *, crashes: int) -> None:
    """A beat just before a crash makes all durable that came before it: then nothing is taken back, and one more is
    due."""
    files: dict[UUID, File] = {}
    since = rewinds()
    while rewinds() < since + crashes:
        assert len(files) < 3 * crashes, "crashes take nothing back: this test tests nothing"
        file = File("crm", len(files), 10 * PART_RECORDS)
        job_id = await place.post(file.source, file.csv())
        files[job_id] = file
        await until(lambda: place.shares(job_id, at_least=6), 20, "six batches are committed")  # noqa: B023
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)

        job = await place.final(job_id)

        assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)
    assert await oracle.violations(place.url, files) == []
