"""A Lane that loses its connection, its import or what it had committed: nothing is lost, nothing is there twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults import oracle
from faults.harness import Site, part_records, site, until
from faults.oracle import File
from faults.proxy import Harm, Link, Proxy, proxy
from rollcall import embedded, migrations, worker

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
    """What stands between the Lanes and Postgres."""
    await oracle.instrument(database_url)
    async with proxy(database_url) as between:
        yield between


@pytest.fixture
async def place(database_url: str, before: Proxy, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(PART_RECORDS):
        async with site(database_url, tmp_path, through=before.url) as here:
            yield here


def is_lane(link: Link) -> bool:
    return link.name.endswith((":1:0", ":1:1"))


async def assert_whole(place: Site, file: File = FILE) -> None:
    """Load the file in one attempt; nothing is missing, nothing is there twice."""
    job = await place.load(file.source, file.csv())
    assert (job.state, job.attempt, job.total) == ("succeeded", 1, file.count)
    assert await oracle.violations(place.url, {job.id: file}) == []


@pytest.mark.parametrize("harm", ["cut", "reset", "answerless"])
async def test_connection_lost_at_every_third_commit(place: Site, before: Proxy, harm: Harm) -> None:
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


async def test_commit_that_arrives_after_the_look(place: Site, before: Proxy) -> None:
    """The Lane looks, finds nothing, begins again: then its first COMMIT gets through."""
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
async def test_half_open_twin_is_ended(place: Site, before: Proxy, word: bytes) -> None:
    """The server still holds the Share of a connection that the Lane knows to be dead: the Lane ends it.

    If it only holds the fence, no Lane is in its way: whoever closes the import ends it."""

    def judge(link: Link, data: bytes) -> Harm:
        lost = is_lane(link) and word in data and not before.harmed
        return "swallow" if lost else "pass"

    before.judge = judge

    await asyncio.wait_for(assert_whole(place), 10)

    assert [harm for _, harm in before.harmed] == ["swallow"]


@pytest.mark.parametrize("seed", range(20) if LONG else [1, 2])
async def test_connections_lost_anywhere(place: Site, before: Proxy, seed: int) -> None:
    """One message in 25 is the last one of its connection, whatever it says; connecting included."""
    chance = random.Random(seed)
    harms: list[Harm] = ["cut", "reset", "answerless"]

    def judge(link: Link, data: bytes) -> Harm:
        ours = link.name.startswith("rollcall:")
        return chance.choice(harms) if ours and chance.random() < 0.04 else "pass"

    before.judge = judge

    await assert_whole(place)

    assert len(before.harmed) >= 5


async def test_slow_network(place: Site, before: Proxy) -> None:
    before.latency, before.limit = 0.002, 1 << 20

    await assert_whole(place)


async def test_fenced_lanes_write_nothing(place: Site, before: Proxy) -> None:
    """An import is taken over in the middle: whoever had it stops, whoever has it ends it."""
    before.latency = 0.005
    job_id = await place.post(FILE.source, FILE.csv())
    first = asyncio.create_task(place.carry(await place.claim()))
    await until(lambda: place.shares(job_id, at_least=4), 20, "four Shares are committed")
    job = await place.take(job_id, worker=2)
    assert job.attempt == 2
    await asyncio.wait_for(first, 10)
    written = await place.shares(job_id)
    assert (await place.show(job_id)).state == "running"

    job = await place.carry(job)

    assert (job.state, job.attempt) == ("succeeded", 2)
    assert written < await place.shares(job_id)
    assert await oracle.violations(place.url, {job_id: FILE}) == []


async def test_dialling_that_comes_half_way(place: Site) -> None:
    """The disk is full just when a Lane makes its temporary tables; a moment later it is not."""
    await place.query(
        """create sequence once;
           create function refuse() returns event_trigger language plpgsql as $$ begin
               if nextval('once') <= 2 then raise exception using errcode = '53100'; end if;
           end $$;
           create event trigger refuse on ddl_command_start when tag in ('CREATE TABLE') execute function refuse()"""
    )

    await assert_whole(place)


async def test_postgres_takes_acknowledged_shares_back(data_dir: Path, bin_dir: Path | None, tmp_path: Path) -> None:
    """Crashes of Postgres, each of which undoes Shares that a Lane was told are committed.

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
                    await _survive(place, server, crashes=5)
                finally:
                    stop.set()
                    await asyncio.wait_for(work, 30)


async def _survive(place: Site, server: embedded.Server, *, crashes: int) -> None:
    files = {}
    for edition in range(crashes):
        file = File("crm", edition, 10 * PART_RECORDS)
        job_id = await place.post(file.source, file.csv())
        files[job_id] = file
        seen = await until(lambda: place.shares(job_id, at_least=6), 20, "six Shares are committed")  # noqa: B023
        await asyncio.to_thread(server.stop, "immediate")
        await asyncio.to_thread(server.start)
        left = await place.shares(job_id)
        assert left < seen, "the crash took nothing back: this test tests nothing"

        job = await place.final(job_id)

        assert (job.state, job.attempt, job.crashes) == ("succeeded", 1, 0)
    assert await oracle.violations(place.url, files) == []
