"""Who takes an import from whom, and when. A proxy hears every word of the worker under test, and may hold it back.

The other one, who holds an import, is played by the test: it beats, locks and falls silent as it is told.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from structlog.testing import capture_logs

from faults import oracle
from faults.harness import Site, part_records, site, until
from faults.oracle import File
from faults.proxy import Harm, Judgement, Link, Proxy, proxy
from rollcall import control, imports, liveness, worker, workers
from rollcall.database import LOCK_CLASS, connect
from rollcall.errors import DatabaseDown
from rollcall.imports import Import
from rollcall.pool import Pool

FILE = File("crm", 0, 600)
CLAIM, LOOK, TAKE = b"set state = 'running'", b"from pg_locks", b"crashes = z.crashes"
BEGIN_SHARE, END_SHARE = b"set_config('synchronous_commit'", b"COMMIT\0"
CLOSE, RELEASE = b"and p.read = e.total", b"set worker = null, error_code"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await oracle.instrument(database_url)
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


@pytest.fixture
async def between(place: Site) -> AsyncIterator[Proxy]:
    async with proxy(place.url) as before:
        yield before


@pytest.fixture
def aside(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """To say something to the database while a message of the worker is on its way."""
    with psycopg.connect(database_url, autocommit=True) as tx:
        yield tx


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is waited for for long."""
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(worker, "DRAIN_SECONDS", 1.0)


@asynccontextmanager
async def working(place: Site, url: str | None = None) -> AsyncIterator[asyncio.Event]:
    """A worker in this process, until the end of the block or until the event is set."""
    stop = asyncio.Event()
    work = asyncio.create_task(worker.run(place.settings(), url or place.url, stop=stop))
    try:
        yield stop
    finally:
        stop.set()
        await asyncio.wait_for(work, 30)


@asynccontextmanager
async def held(place: Site, *, locked: bool = False) -> AsyncIterator[Import]:
    """Somebody holds an import, and does nothing for it; with its lock, or as if its session had ended."""
    await place.post(FILE.source, FILE.csv())
    async with await connect(place.url, "rollcall:worker:0") as tx:
        number = await workers.register(tx, "somebody")
        if locked:
            assert await workers.lock(tx, number)
        job = await imports.claim(tx, number)
        assert job is not None
        yield job


def is_lane(link: Link, attempt: int, loader: int) -> bool:
    return bool(re.fullmatch(f"rollcall:[0-9a-f-]{{36}}:{attempt}:{loader}", link.name))


async def assert_ends(place: Site, job: Import, attempt: int) -> None:
    ended = await place.final(job.id, 15)
    assert (ended.state, ended.attempt) == ("succeeded", attempt)
    assert await oracle.violations(place.url, {job.id: FILE}) == []


# Who takes


@pytest.mark.parametrize("why", ["gone", "stale"])
async def test_take_over_nobody_is_judged_by_one_look(
    place: Site, between: Proxy, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BEAT_SECONDS", "STALE_SECONDS"):
        monkeypatch.setattr(liveness, name, 0.2)
    said: list[bytes] = []

    def judge(link: Link, data: bytes) -> Harm:
        said.extend(word for word in (LOOK, TAKE) if word in data)
        return "pass"

    async def old() -> bool:
        return bool((await place.query("select clock_timestamp() - beat > '0.2 s' from rollcall.workers"))[0][0])

    between.judge = judge
    async with held(place, locked=why == "stale") as job:
        await until(old, 10, "its beat is old")
        async with working(place, between.url):
            await assert_ends(place, job, 2)
    assert said.index(TAKE) >= 2
    assert await place.crashes(job.id) == 1


async def test_take_over_who_beats_between_two_looks_is_not_gone(
    place: Site, between: Proxy, aside: psycopg.Connection[Any]
) -> None:
    """A lock was free at both, but its holder had been there in between."""
    looks: list[float] = []
    takes = 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal takes
        takes += TAKE in data
        if LOOK in data:
            looks.append(time.monotonic())
            aside.execute("update rollcall.workers set beat = clock_timestamp() where seq = %s", (job.worker,))
        return "pass"

    async def long_enough() -> bool:
        return len(looks) >= 5 and looks[-1] - looks[0] > 3 * liveness.GRACE_SECONDS

    async with held(place) as job:
        between.judge = judge
        async with working(place, between.url):
            await until(long_enough, 10, "it has looked often")
            assert takes == 0
            between.judge = lambda link, data: "pass"
            await assert_ends(place, job, 2)


async def test_take_over_who_beats_after_the_last_look_is_not_gone(
    place: Site, between: Proxy, aside: psycopg.Connection[Any]
) -> None:
    """Not even the statement that takes believes what was seen a moment ago."""
    attempts: list[int] = []

    def judge(link: Link, data: bytes) -> Harm:
        if TAKE in data:
            aside.execute("update rollcall.workers set beat = clock_timestamp() where seq = %s", (job.worker,))
            attempts.extend(row[0] for row in aside.execute("select attempt from rollcall.imports"))
        return "pass"

    async def thrice() -> bool:
        return len(attempts) >= 3

    async with held(place) as job:
        between.judge = judge
        async with working(place, between.url):
            await until(thrice, 10, "it has tried to take three times")
            assert attempts == [1, 1, 1]
            between.judge = lambda link, data: "pass"
            await assert_ends(place, job, 2)


async def test_take_over_what_a_lost_connection_saw_counts_for_nothing(place: Site, between: Proxy) -> None:
    """Perhaps it was the database that was away, and the holder dials just now."""
    looked: set[Link] = set()
    began, takes = time.monotonic(), 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal takes
        takes += TAKE in data
        if LOOK not in data:
            return "pass"
        again = link in looked
        looked.add(link)
        return "cut" if again else "pass"

    async def long_enough() -> bool:
        return len(looked) >= 4 and time.monotonic() - began > 3 * liveness.GRACE_SECONDS

    async with held(place) as job:
        between.judge = judge
        async with working(place, between.url):
            await until(long_enough, 10, "it has looked once on four connections")
            assert takes == 0
            between.judge = lambda link, data: "pass"
            await assert_ends(place, job, 2)


async def test_take_over_looking_takes_no_lock(place: Site) -> None:
    """It is not even tried: who looks would have the lock of whoever is gone."""
    async with held(place), await connect(place.url, "test") as tx:
        (seen,) = await imports.list_stalled(tx, 0, [], liveness.STALE_SECONDS)
        mine = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()"
        assert (seen.locked, await (await tx.execute(mine)).fetchall()) == (False, [(0,)])


async def test_take_over_what_has_brought_workers_down_runs_alone(place: Site, between: Proxy) -> None:
    """It waits until the slots are empty; nothing is begun meanwhile, so that they will be, and nothing beside it."""
    small, late = File("shop", 0, 200), File("club", 0, 200)
    held_back: set[str] = set()
    looks = takes = 0

    def judge(link: Link, data: bytes) -> Judgement:
        nonlocal looks, takes
        looks, takes = looks + (LOOK in data), takes + (TAKE in data)
        if END_SHARE in data and (of := link.name.split(":")[1]) in go_on:
            held_back.add(of)
            return go_on[of]
        return "pass"

    async def looked_around() -> None:
        since, began = looks, time.monotonic()

        async def often() -> bool:
            return looks >= since + 4 and time.monotonic() - began > 2 * liveness.GRACE_SECONDS

        await until(often, 10, "it has looked around")

    async def waits_in(job_id: UUID) -> None:
        async def look() -> bool:
            return str(job_id) in held_back

        await until(look, 10, "one of its batches is held back")

    async with held(place) as job:
        await place.query("update rollcall.imports set crashes = 2")
        first = await place.post(small.source, small.csv())
        go_on = {str(each): asyncio.Event() for each in (job.id, first)}
        between.judge = judge
        async with working(place, between.url):  # which begins the small one before it is sure of the other
            await waits_in(first)
            await looked_around()
            last = await place.post(late.source, late.csv())
            await looked_around()
            assert (takes, (await place.show(last)).state) == (0, "queued")

            go_on[str(first)].set()
            await waits_in(job.id)
            await looked_around()
            assert (await place.show(last)).state == "queued"

            go_on[str(job.id)].set()
            await place.idle()
    posted = {job.id: FILE, first: small, last: late}
    assert {(await place.show(each)).state for each in posted} == {"succeeded"}
    assert await oracle.violations(place.url, posted) == []


# Who holds


@pytest.mark.parametrize("harm", ["cut", "swallow"])
async def test_take_over_a_worker_without_its_control_connection(
    place: Site, between: Proxy, aside: psycopg.Connection[Any], harm: Harm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is gone, or half open; and dialling is refused twice: the loaders go on, and another worker waits.

    Back again, the worker has its lock, even if its old session held it, and has beaten, before it looks and claims.
    """
    monkeypatch.setattr(liveness, "GRACE_SECONDS", 3.0)
    there = """select exists (select from pg_locks where classid = %s and objid = %s and granted),
                      (select beat from rollcall.workers where seq = %s)"""
    controls: list[Link] = []
    back = asyncio.Event()
    seen: list[tuple[bool, Any]] = []

    def shares() -> int:
        row = aside.execute("select count(*) from rollcall.import_parts where loader = 0").fetchone()
        return row[0] if row else 0

    def judge(link: Link, data: bytes) -> Judgement:
        if is_lane(link, 1, 1) and END_SHARE in data and not back.is_set():
            return back
        if not link.name.startswith("rollcall:worker:"):
            return "pass"
        if link not in controls:
            controls.append(link)
            if len(controls) > 1 and (len(controls) < 4 or shares() < 3):
                return "cut"
        if LOOK in data:
            number = link.name.rsplit(":", 1)[1]
            row = aside.execute(there, (LOCK_CLASS, number, number)).fetchone()
            assert row is not None
            if len(controls) == 1 and shares() >= 1:
                seen.append(row)
                return harm
            if len(controls) > 1 and not back.is_set():
                seen.append(row)
                back.set()
        return "pass"

    between.judge = judge
    job_id = await place.post(FILE.source, FILE.csv())
    async with working(place, between.url):
        job = await until(lambda: begun(place, job_id), 10, "it is claimed")
        async with working(place):
            await assert_ends(place, job, 1)
    (locked, beat), (locked_again, later) = seen
    assert (locked, locked_again, later > beat) == (True, True, True)


async def begun(place: Site, job_id: Any) -> Import | None:
    job = await place.show(job_id)
    return job if job.state == "running" else None


async def test_take_over_the_lock_is_there_before_the_first_claim(
    place: Site, between: Proxy, aside: psycopg.Connection[Any]
) -> None:
    locks: list[int] = []

    def judge(link: Link, data: bytes) -> Harm:
        if CLAIM in data:
            row = aside.execute("select count(*) from pg_locks where classid = %s and granted", (LOCK_CLASS,))
            locks.extend(count for (count,) in row)
        return "pass"

    between.judge = judge
    await place.post(FILE.source, FILE.csv())
    async with working(place, between.url):
        await place.idle()
    assert locks[0] == 1


async def test_take_over_while_a_batch_waits_for_its_commit(
    place: Site, between: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It holds the import's row: the worker beats all the same, and the other loader commits."""
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.1)
    waits, go_on = asyncio.Event(), asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        if is_lane(link, 1, 0) and END_SHARE in data:
            waits.set()
            return go_on
        return waits if is_lane(link, 1, 1) and BEGIN_SHARE in data else "pass"

    between.judge = judge
    job_id = await place.post(FILE.source, FILE.csv())
    async with working(place, between.url):
        await until(lambda: place.shares(job_id, at_least=2), 10, "the other loader has committed twice")
        for _ in range(3):
            since = (await place.query("select max(beat) from rollcall.workers"))[0][0]
            await until(lambda: beaten(place, since), 10, "the worker has beaten")  # noqa: B023
        go_on.set()
        await assert_ends(place, await place.show(job_id), 1)


async def beaten(place: Site, since: Any) -> bool:
    return bool((await place.query("select max(beat) > %s from rollcall.workers", since))[0][0])


# Said and not heard


@pytest.mark.parametrize(
    ("word", "then"),
    [
        (CLAIM, ("running", 1, True)),
        (TAKE, ("running", 2, True)),
        (RELEASE, ("running", 1, False)),
        (CLOSE, ("succeeded", 1, False)),
    ],
    ids=["claim", "take", "release", "close"],
)
async def test_take_over_one_statement_is_all(
    place: Site, between: Proxy, word: bytes, then: tuple[str, int, bool]
) -> None:
    """Who freezes or dies after it has been said leaves no transaction open, and nothing half done."""
    go_on, said = asyncio.Event(), asyncio.Event()

    def judge(link: Link, data: bytes) -> Judgement:
        if said.is_set():
            return "cut"
        if word in data:
            said.set()
            return "answerless"
        return go_on if word == RELEASE and is_lane(link, 1, 0) and END_SHARE in data else "pass"

    between.judge = judge
    async with AsyncExitStack() as stack:
        if word == TAKE:
            await stack.enter_async_context(held(place))
        else:
            job_id = await place.post(FILE.source, FILE.csv())
        stop = await stack.enter_async_context(working(place, between.url))
        if word == RELEASE:
            await until(lambda: place.shares(job_id, at_least=1), 10, "a batch is committed")
            stop.set()
            go_on.set()
        await asyncio.wait_for(said.wait(), 10)
    assert await place.query("select state, attempt, worker is not null from rollcall.imports") == [then]


@pytest.mark.parametrize(
    ("word", "then"),
    [(b"select 'cancelled' as state", "cancelled"), (b"set state = 'queued'", "queued")],
    ids=["cancel", "retry"],
)
async def test_take_over_one_message_is_all(place: Site, between: Proxy, word: bytes, then: str) -> None:
    """Cancel and retry are two statements each, and yet nobody can die between them."""
    job_id = await place.post(FILE.source, FILE.csv())
    if then == "queued":
        await control.cancel(place.database, job_id)
    between.judge = lambda link, data: "answerless" if word in data else "pass"

    async with Pool(between.url) as database:
        with pytest.raises(DatabaseDown):
            await (control.cancel if then == "cancelled" else control.retry)(database, job_id)

    assert (await place.show(job_id)).state == then


async def test_take_over_the_answer_to_a_claim_is_lost(place: Site, between: Proxy) -> None:
    """The import is its own, and in no slot: it takes it at once, and nobody is said to have crashed."""

    def judge(link: Link, data: bytes) -> Harm:
        return "answerless" if CLAIM in data and not between.harmed else "pass"

    between.judge = judge
    job_id = await place.post(FILE.source, FILE.csv())
    async with working(place, between.url):
        await assert_ends(place, await place.show(job_id), 2)
    assert await place.crashes(job_id) == 0


async def test_take_over_an_import_that_comes_back_while_its_old_attempt_still_stands(
    place: Site, between: Proxy
) -> None:
    """Cancelled and retried, it is claimed by the very worker whose loader has not found out yet; who then does."""
    old, new = asyncio.Event(), asyncio.Event()
    shares = commits = looks = takes = 0

    def judge(link: Link, data: bytes) -> Judgement:
        nonlocal shares, commits, looks, takes
        looks, takes = looks + (LOOK in data), takes + (TAKE in data)
        shares += is_lane(link, 1, 0) and BEGIN_SHARE in data
        commits += is_lane(link, 2, 0) and END_SHARE in data
        if is_lane(link, 1, 0) and shares == 3:
            return old
        return new if is_lane(link, 2, 0) and commits == 2 else "pass"

    async def before_its_fence() -> bool:
        return shares == 3

    async def looked_around() -> bool:
        return looks >= since + 4

    between.judge = judge
    job_id = await place.post(FILE.source, FILE.csv())
    with capture_logs() as logs:
        async with working(place, between.url):
            await until(before_its_fence, 10, "a loader is held back before its fence")
            await control.cancel(place.database, job_id)
            await place.retry(job_id)
            await until(lambda: place.shares(job_id, attempt=2), 10, "it has begun again")
            old.set()

            async def over() -> bool:
                return any(line["event"] == "import.fenced" and line["attempt"] == 1 for line in logs)

            await until(over, 10, "its old attempt is over")
            since = looks
            await until(looked_around, 10, "its worker has looked around")
            new.set()
            await assert_ends(place, await place.show(job_id), 2)
    assert takes == 0
