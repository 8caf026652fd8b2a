"""The sweep: of everything a worker says to Postgres and to the store, the k-th fails, for k = 1, 2, … until none does.

`error`: the connection breaks, the store says no. `hang`: nothing comes back any more. `kill`: the worker dies at that
moment, and another one finds what it left. A sample in the suite, everything with ROLLCALL_LONG.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import UUID

import pytest

from faults import oracle
from faults.harness import Site, part_records, site
from faults.oracle import File
from faults.proxy import Harm, Link, Proxy, proxy
from faults.store import FaultyStore
from rollcall import database, liveness, worker
from rollcall.database import Dialler
from rollcall.loading import retries
from rollcall.options import Options
from rollcall.receive import receive

LONG = "ROLLCALL_LONG" in os.environ
HASTE = 10.0
RECORDS, PARTS = 50, 3
END_SECONDS = 20.0
"""Less than Postgres bears with a transaction in which nothing is said: nothing may have to wait for that."""
SEGMENT_BYTES = 2000
STATEMENTS, CALLS = 50, 12
"""At least so many there are; the suite's sample is of these."""
FAREWELL = b"X\0\0\0\4"
"""Nobody waits for an answer to that."""


def numbers(count: int, last: int) -> list[int]:
    """Which ones are to fail: all, until nothing was harmed; in the suite so many of 1 to `last`."""
    return list(range(1, 1000)) if LONG else sorted(random.Random(20).sample(range(1, last + 1), count))


@pytest.fixture
async def before(database_url: str) -> AsyncIterator[Proxy]:
    await oracle.instrument(database_url)
    async with proxy(database_url) as between:
        yield between


@pytest.fixture
async def place(
    database_url: str, before: Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Site]:
    """Parts are small here, and workers impatient."""
    for name in ("BEAT_SECONDS", "STALE_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(liveness, name, getattr(liveness, name) / HASTE)
    monkeypatch.setattr(retries, "BACK_OFF_SECONDS", 0.1)
    monkeypatch.setattr(liveness, "ANSWER_SECONDS", 1.5)  # longer than anybody waits for a lock
    monkeypatch.setitem(database.SOCKET, "connect_timeout", 2)
    with part_records(RECORDS):
        async with site(database_url, tmp_path) as here:
            yield here


def file_of(number: int) -> File:
    return File(f"source {number}", 0, PARTS * RECORDS)


def harm_only(number: int, harm: Harm, between: Proxy, also: Callable[[], None] = lambda: None) -> None:
    """From now on, this message of ours gets this harm, and no other."""
    said = 0
    between.harmed.clear()
    between.deliver.set()
    between.deliver = asyncio.Event()

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal said
        said += (ours := link.name.startswith("rollcall") and data != FAREWELL)
        if not ours or said != number:
            return "pass"
        also()
        return harm

    between.judge = judge


async def assert_whole(place: Site, posted: dict[UUID, File], case: str) -> None:
    assert await oracle.violations(place.url, posted) == [], case
    assert {(await place.show(job_id)).state for job_id in posted} == {"succeeded"}, case


@pytest.mark.parametrize("harm", ["cut", "answerless", "hang"])
async def test_sweep_every_statement_fails_once(place: Site, before: Proxy, harm: Harm) -> None:
    posted: dict[UUID, File] = {}
    for number in numbers(3 if harm == "hang" else 6, STATEMENTS):
        file = file_of(number)
        posted[await place.post(file.source, file.csv())] = file
        harm_only(number, harm, before)

        await asyncio.wait_for(worker.run(place.settings(), before.url, once=True), END_SECONDS)

        await assert_whole(place, posted, f"{harm} at message {number}: {before.harmed}")
        if not before.harmed:
            break
    assert not before.harmed or not LONG
    assert len(posted) >= (STATEMENTS if LONG else 3)


async def test_sweep_killed_at_every_statement(place: Site, before: Proxy) -> None:
    """And another one goes on."""
    posted: dict[UUID, File] = {}
    for number in numbers(2, STATEMENTS):
        file = file_of(number)
        posted[await place.post(file.source, file.csv())] = file
        with place.worker("--once", records=RECORDS, haste=HASTE, through=before.url) as killed:
            harm_only(number, "cut", before, lambda: killed.send(signal.SIGKILL))
            status = await killed.exited(60)
            assert status == (-signal.SIGKILL if before.harmed else 0), f"at message {number}: {killed.said()}"

        await asyncio.wait_for(worker.run(place.settings(), place.url, once=True), 60)

        await assert_whole(place, posted, f"killed at message {number}")
        if not before.harmed:
            break
    assert not before.harmed or not LONG


async def post(place: Site, store: FaultyStore, file: File) -> UUID:
    """In Segments."""

    async def body() -> AsyncIterator[bytes]:
        yield file.csv()

    return await receive(
        body(),
        database=place.database,
        store=store,
        wish=lambda: (file.source, Options.parse({})),
        segment_bytes=SEGMENT_BYTES,
    )


@pytest.mark.parametrize("fault", ["error", "hang"])
async def test_sweep_every_call_of_the_store_fails_once(place: Site, fault: str) -> None:
    posted: dict[UUID, File] = {}
    for number in numbers(6 if fault == "error" else 2, CALLS):
        file = file_of(number)
        store = FaultyStore(place.folder / "store", at=number, fault=fault)
        posted[await post(place, store, file)] = file

        itself = worker.Worker(place.settings(), Dialler(place.url), store, asyncio.Event(), once=True)
        await asyncio.wait_for(itself.run(), 60)

        await assert_whole(place, posted, f"{fault} at call {number} of {store.calls}")
        assert store.calls >= CALLS
        if store.calls < number:
            break
    assert store.calls < number or not LONG


async def test_sweep_killed_at_every_call_of_the_store(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another one goes on."""
    posted: dict[UUID, File] = {}
    for number in numbers(2, CALLS // 2):
        file = file_of(number)
        posted[await place.post(file.source, file.csv())] = file
        monkeypatch.setenv("STORE_FAULT", f"{number}:kill")
        with place.worker("--once", records=RECORDS, haste=HASTE) as killed:
            status = await killed.exited(60)
            assert status in (0, -signal.SIGKILL), f"at call {number}: {killed.said()}"

        await asyncio.wait_for(worker.run(place.settings(), place.url, once=True), 60)

        await assert_whole(place, posted, f"killed at call {number}")
        if status == 0:
            break
    assert status == 0 or not LONG
