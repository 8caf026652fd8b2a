"""What an import comes to: its options, its end, its cancellation, and going on from a ledger that has a part of it."""

from __future__ import annotations

import asyncio
import io
import os
import time
from collections.abc import AsyncIterator
from dataclasses import astuple
from pathlib import Path
from typing import BinaryIO, cast

import psycopg
import pytest

from faults import oracle
from faults.harness import Database, Site, part_records, site, until
from faults.oracle import File
from faults.proxy import Judgement, Link, proxy
from rollcall import control, imports
from rollcall.database import Connection
from rollcall.imports import Counts, Import
from rollcall.storage import FileStore

FILE = File("crm", 0, 1000)
PART_RECORDS = 100
GOOD = b"name,email,phone\nAnn,ann@x.org,1\nBob,bob@x.org,2\n"
BAD = b"name,email\nAnn,ann@x.org\nBob,nowhere\n,cy@x.org\nDee,dee@x.org\n"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(PART_RECORDS):
        async with site(database_url, tmp_path) as here:
            yield here


@pytest.fixture
def slowly(database_url: str) -> None:
    """Every batch takes a third of a second."""
    asyncio.run(oracle.instrument(database_url, slow=0.1))


async def contacts(place: Site, source: str = "crm") -> dict[str, tuple[str, dict[str, str]]]:
    rows = await place.query("select email, name, attributes from public.contacts where source = %s", source)
    return {email: (name, attributes) for email, name, attributes in rows}


async def assert_counts_are_the_ledgers(place: Site, job: Import) -> None:
    rows = await place.query("select * from rollcall.account(%s)", job.id)
    assert (*astuple(job.counts), job.by_code) == (*rows[0][:7], rows[0][8])


# Options


async def test_run_import_on_invalid_fail_writes_no_contact_and_lists_every_reject(place: Site) -> None:
    job = await place.load("crm", BAD, onInvalid="fail")

    assert (job.state, job.error_code, job.total) == ("failed", "INVALID_RECORDS", 4)
    assert job.counts == Counts(read=2, rejected=2)
    assert await contacts(place) == {}
    rejects = await place.query("select record, field, code from rollcall.rejects order by record")
    assert rejects == [(2, "email", "email_invalid"), (3, "name", "name_empty")]


async def test_run_import_on_invalid_fail_loads_a_file_without_rejects(place: Site) -> None:
    job = await place.load("crm", GOOD, onInvalid="fail")

    assert (job.state, job.counts) == ("succeeded", Counts(read=2, created=2))


class Impatient(Database):
    """Ends transactions in which nothing is said for half a second; it is 30 s in earnest."""

    async def connect(self, name: str) -> Connection:
        connection = await super().connect(name)
        await connection.execute("set idle_in_transaction_session_timeout = '500ms'")
        return connection


class SlowFile(io.FileIO):
    def read(self, size: int | None = -1, /) -> bytes:
        time.sleep(0.15)
        return super().read(size)


class SlowStore(FileStore):
    """A store that needs a while for every MiB."""

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        with super().open_range(key, start, length) as file:
            return cast(BinaryIO, SlowFile(os.dup(file.fileno())))


async def test_run_import_a_check_may_take_longer_than_a_transaction_may_be_idle(
    database_url: str, tmp_path: Path
) -> None:
    """A long file without Rejects: there is nothing to tell the database for minutes."""
    lines = b"".join(b"Ann,u%d@x.org,%b\n" % (number, b"n" * 4000) for number in range(2000))
    async with Impatient(database_url) as database:
        place = Site(database_url, tmp_path, database, SlowStore(tmp_path / "store"))
        with part_records(100):
            job = await asyncio.wait_for(place.load("crm", b"name,email,note\n" + lines, onInvalid="fail"), 20)

    assert (job.state, job.created) == ("succeeded", 2000)


async def test_run_import_max_rejects(place: Site) -> None:
    """Judged at the end of a Part; what is committed until then stays and is counted."""
    job = await place.load("crm", FILE.csv(), maxRejects="3")

    assert (job.state, job.error_code) == ("failed", "TOO_MANY_REJECTS")
    assert 3 < job.rejected < job.read < FILE.count
    await assert_counts_are_the_ledgers(place, job)


async def test_run_import_max_rejects_not_reached(place: Site) -> None:
    job = await place.load("crm", FILE.csv(), maxRejects="10%")

    assert (job.state, job.read) == ("succeeded", FILE.count)


async def test_run_import_on_duplicate_skip_keeps_who_is_there(place: Site) -> None:
    await place.load("crm", GOOD)

    job = await place.load("crm", b"name,email\nNew,ann@x.org\nCy,cy@x.org\nCyrus,cy@x.org\n", onDuplicate="skip")

    assert job.counts == Counts(read=3, created=1, skipped=1, duplicate=1)
    assert await contacts(place) == {
        "ann@x.org": ("Ann", {"phone": "1"}),
        "bob@x.org": ("Bob", {"phone": "2"}),
        "cy@x.org": ("Cy", {}),
    }


# The end


async def test_run_import_the_same_file_twice_changes_nothing(place: Site) -> None:
    await place.load("crm", GOOD)
    before = await place.query("select * from public.contacts order by id")

    job = await place.load("crm", GOOD)

    assert job.counts == Counts(read=2, unchanged=2)
    assert await place.query("select * from public.contacts order by id") == before


async def test_run_import_sources_do_not_meet(place: Site) -> None:
    await place.load("crm", GOOD)

    job = await place.load("shop", GOOD.replace(b"Ann", b"Anna"))

    assert job.counts == Counts(read=2, created=2)
    assert (await contacts(place))["ann@x.org"] == ("Ann", {"phone": "1"})


@pytest.mark.parametrize("harm", ["gone", "shorter", "altered"])
async def test_run_import_a_stored_file_that_is_not_what_was_stored(place: Site, harm: str) -> None:
    await place.post("crm", FILE.csv())
    stored = next(path for path in (place.folder / "store").rglob("*") if path.is_file())
    data = stored.read_bytes()
    if harm == "gone":
        stored.unlink()
    else:
        stored.write_bytes(data[:-1] if harm == "shorter" else data[:-5] + b"x" + data[-4:])

    job = await place.carry(await place.claim())

    assert job.state == "failed"
    assert job.error_code == ("OBJECT_MISSING" if harm == "gone" else "OBJECT_CORRUPT")
    await assert_counts_are_the_ledgers(place, job)


async def test_run_import_broken_in_the_middle_keeps_what_came_before(place: Site) -> None:
    """Only the Part that is broken is not there."""
    note = b"n" * 4000
    lines = b"".join(b'{"name":"Ann","email":"u%d@x.org","note":"%b"},' % (number, note) for number in range(1500))

    job = await place.load("crm", b"[" + lines + b'{"name":"Ann","email":"last@x.org"')

    assert (job.state, job.error_code) == ("failed", "INVALID_JSON")
    assert 0 < job.created == job.read <= 1500
    assert len(await contacts(place)) == job.created
    await assert_counts_are_the_ledgers(place, job)


async def test_run_import_another_version_of_the_reader(place: Site) -> None:
    """What another version would number otherwise is not gone on with."""
    await place.post("crm", FILE.csv())
    await stop_after_one_part(place)
    await place.query("update rollcall.imports set plan = jsonb_set(plan, '{reader}', '0')")

    job = await place.carry(await place.take((await only(place)).id))

    assert (job.state, job.error_code) == ("failed", "READER_CHANGED")
    assert job.read > 0
    await assert_counts_are_the_ledgers(place, job)


@pytest.mark.parametrize(
    "statement",
    [
        "update rollcall.imports set created = created + 1",
        "update rollcall.imports set read = read + 1",
        "update rollcall.imports set total = total + 1",
        "update rollcall.imports set rejected = rejected - 1, created = created + 2",
        "update rollcall.imports set rejected = rejected - 1, created = created + 1",
        "update rollcall.imports set by_code = '{}'",
        "update rollcall.import_parts set by_code = by_code || '{\"required\": 1}'",
        "update rollcall.import_parts set unchanged = unchanged + 1",
        "update rollcall.import_parts set read = read - 1",
    ],
)
async def test_run_import_the_database_refuses_an_account_that_does_not_add_up(place: Site, statement: str) -> None:
    await place.load("crm", FILE.csv())

    with pytest.raises(psycopg.errors.CheckViolation):
        await place.query(statement)


# Going on


async def only(place: Site) -> Import:
    """The one import there is."""
    return await place.show((await place.query("select id from rollcall.imports"))[0][0])


async def stop_after_one_part(place: Site) -> Import:
    """Claim, and let go as a worker does that drains."""
    draining = asyncio.Event()
    draining.set()
    job = await place.carry(await place.claim(), draining=draining)
    assert (job.state, job.worker) == ("running", None)
    return job


@pytest.mark.parametrize("lost", [0, 1])
async def test_run_import_goes_on_where_each_loader_is(place: Site, lost: int) -> None:
    """One loader's last batch is missing: it is loaded, and nothing of the other loader again."""
    await oracle.instrument(place.url)
    await place.post("crm", FILE.csv())
    job = await stop_after_one_part(place)
    await place.query("delete from rollcall.import_parts where loader = %s", lost)
    if lost == 0:
        await place.query("delete from rollcall.rejects")
    await place.query(
        """delete from public.contacts c using rollcall.imports i
            where (c.email >= (i.plan->'loaders'->>1))::int = %s""",
        lost,
    )

    job = await place.carry(await place.take(job.id))

    assert job.state == "succeeded"
    assert await oracle.violations(place.url, {job.id: FILE}) == []


async def test_run_import_retry_after_a_cancel_in_the_middle(place: Site) -> None:
    await oracle.instrument(place.url)
    await place.post("crm", FILE.csv())
    job = await stop_after_one_part(place)
    await control.cancel(place.database, job.id)
    cancelled = await place.show(job.id)
    assert (cancelled.state, 0 < cancelled.read < FILE.count) == ("cancelled", True)
    await assert_counts_are_the_ledgers(place, cancelled)

    await place.retry(job.id)
    job = await place.carry(await place.claim())

    assert (job.state, job.attempt) == ("succeeded", 2)
    assert await oracle.violations(place.url, {job.id: FILE}) == []


async def test_run_import_parts_may_be_cut_otherwise_on_the_way(place: Site) -> None:
    await oracle.instrument(place.url)
    await place.post("crm", FILE.csv())
    job = await stop_after_one_part(place)

    with part_records(37):
        job = await place.carry(await place.take(job.id))

    assert job.state == "succeeded"
    assert await oracle.violations(place.url, {job.id: FILE}) == []


# Cancel


@pytest.mark.usefixtures("slowly")
@pytest.mark.parametrize("shares", [0, 1, 3])
async def test_run_import_nothing_is_committed_after_a_cancel_has_returned(place: Site, shares: int) -> None:
    """Cancelled while batches are under way, some of them just about to commit."""
    job_id = await place.post("crm", FILE.csv())
    carrying = asyncio.create_task(place.carry(await place.claim()))
    if shares:
        await until(lambda: place.shares(job_id, at_least=shares), 20, f"{shares} batches are committed")

    await control.cancel(place.database, job_id)
    cancelled = await place.show(job_id)
    loaded = await place.query("select (select count(*) from public.contacts), (select count(*) from rollcall.rejects)")

    job = await asyncio.wait_for(carrying, 10)
    assert job == cancelled
    assert job.state == "cancelled"
    assert job.read < FILE.count
    await assert_counts_are_the_ledgers(place, job)
    assert loaded == [(job.created, job.rejected)]
    now = await place.query("select (select count(*) from public.contacts), (select count(*) from rollcall.rejects)")
    assert now == loaded
    assert await oracle.violations(place.url, {job_id: FILE}) == []


@pytest.mark.usefixtures("slowly")
async def test_run_import_many_cancels_at_once_while_batches_commit(place: Site) -> None:
    job_id = await place.post("crm", FILE.csv())
    carrying = asyncio.create_task(place.carry(await place.claim()))
    await until(lambda: place.shares(job_id, at_least=1), 20, "a batch is committed")

    await asyncio.gather(*(control.cancel(place.database, job_id) for _ in range(4)))

    cancelled = await place.show(job_id)
    assert cancelled == await asyncio.wait_for(carrying, 10)
    await assert_counts_are_the_ledgers(place, cancelled)
    states = await place.query("select state from oracle.history where import_id = %s", job_id)
    assert states.count(("cancelled",)) == 1


async def test_run_import_cancel_of_a_frozen_batch(database_url: str, tmp_path: Path) -> None:
    """Nobody says COMMIT, and nobody dials again: the sessions are ended after a second."""
    frozen, go_on = set(), asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        if link.name.endswith((":1:0", ":1:1")) and b"COMMIT\0" in data:
            frozen.add(link)
            return go_on
        return "pass"

    await oracle.instrument(database_url)
    async with proxy(database_url) as between, site(database_url, tmp_path, through=between.url) as place:
        between.judge = judge
        async with Database(database_url) as direct:
            job_id = await place.post("crm", FILE.csv())
            carrying = asyncio.create_task(place.carry(await place.claim()))

            async def both() -> bool:
                return len(frozen) == 2

            await until(both, 10, "both loaders are frozen")

            await asyncio.wait_for(control.cancel(direct, job_id), 10)  # Postgres bears with them for 30 s

            go_on.set()
            job = await asyncio.wait_for(carrying, 10)
    assert (job.state, job.read) == ("cancelled", 0)
    assert await contacts(place) == {}


async def test_run_import_cancel_counts_the_batch_that_it_waited_for(database_url: str, tmp_path: Path) -> None:
    """It begins while the only batch under way is about to commit."""
    about_to, commit, never = asyncio.Event(), asyncio.Event(), asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        if link.name.endswith(":1:0") and b"COMMIT\0" in data:
            about_to.set()
            return commit
        begins = b"set_config('synchronous_commit'" in data
        return never if begins and (link.name.endswith(":1:1") or about_to.is_set()) else "pass"

    async with proxy(database_url) as between, site(database_url, tmp_path, through=between.url) as place:
        between.judge = judge
        async with Database(database_url) as direct:
            job_id = await place.post("crm", FILE.csv())
            with part_records(PART_RECORDS):
                carrying = asyncio.create_task(place.carry(await place.claim()))
                await asyncio.wait_for(about_to.wait(), 10)
            cancelling = asyncio.create_task(control.cancel(direct, job_id))

            await until(place.somebody_waits, 10, "the cancel waits")
            commit.set()
            await asyncio.wait_for(cancelling, 10)
            job = await place.show(job_id)
            never.set()
            await asyncio.wait_for(carrying, 10)
    assert job.state == "cancelled"
    assert 0 < job.read < PART_RECORDS
    await assert_counts_are_the_ledgers(place, job)


async def test_run_import_cancel_while_there_is_always_a_batch_under_way(database_url: str, tmp_path: Path) -> None:
    """A loader commits only when the other one is in its next batch, by turns: each is let in before who waits."""
    await oracle.instrument(database_url, slow=0.01)
    entered = {"0": 0, "1": 0}
    turns: dict[tuple[str, int], asyncio.Event] = {}

    def judge(link: Link, data: bytes) -> Judgement:
        if not link.name.endswith((":1:0", ":1:1")):  # psycopg cancels queries on connections without a name
            return "pass"
        loader, other = link.name[-1], "1" if link.name[-1] == "0" else "0"
        if b"insert into rollcall.import_parts" in data:  # the fence has let it in
            entered[loader] += 1
            turns.setdefault((loader, entered[loader]), asyncio.Event()).set()
        if b"COMMIT\0" in data:
            return turns.setdefault((other, entered[loader] + int(loader)), asyncio.Event())
        return "pass"

    with part_records(10):
        async with proxy(database_url) as between, site(database_url, tmp_path, through=between.url) as place:
            between.judge = judge
            async with Database(database_url) as direct:
                job_id = await place.post("crm", FILE.csv())
                carrying = asyncio.create_task(place.carry(await place.claim()))
                await until(lambda: place.shares(job_id, at_least=4), 20, "they overlap")

                await control.cancel(direct, job_id)

                job = await place.show(job_id)
                between.let_go()
                await asyncio.wait_for(carrying, 10)
    assert job.state == "cancelled"
    assert 0 < job.read < FILE.count / 2  # all of it takes three seconds; a cancel waits for one, and then no longer
    await assert_counts_are_the_ledgers(place, job)


async def test_run_import_cancel_of_a_queued_import(place: Site) -> None:
    job_id = await place.post("crm", GOOD)

    await control.cancel(place.database, job_id)

    job = await place.show(job_id)
    assert (job.state, job.counts, job.attempt) == ("cancelled", Counts(), 0)
    assert job.finished_at is not None
    async with place.database.session() as tx:
        assert await imports.claim(tx, 1) is None


async def test_run_import_cancel_twice_and_of_what_is_final(place: Site) -> None:
    queued = await place.post("crm", GOOD)
    await control.cancel(place.database, queued)
    cancelled = await place.show(queued)
    loaded = await place.load("crm", GOOD)
    failed = await place.load("crm", BAD, onInvalid="fail")

    await control.cancel(place.database, queued)
    await control.cancel(place.database, loaded.id)
    await control.cancel(place.database, failed.id)

    assert await place.show(failed.id) == failed
    assert await place.show(queued) == cancelled
    assert await place.show(loaded.id) == loaded
    assert loaded.state == "succeeded"
