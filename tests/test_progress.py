"""An attempt that stands still, or needs too much memory, is given back as one that crashed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import pytest

from faults.harness import Database, Site, part_records, site
from rollcall import liveness
from rollcall.database import Connection
from rollcall.imports import CRASHES_MAX
from rollcall.loading import retries
from rollcall.storage import FileStore

CSV = b"name,email\n" + b"".join(b"Ann,a%d@x.org\n" % at for at in range(40))


@pytest.fixture
async def place(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(retries, "BACK_OFF_SECONDS", 0.0)
    async with site(database_url, tmp_path) as here:
        yield here


class StuckStore(FileStore):
    """Reading from it does not return until it is let go."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.go_on = threading.Event()

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        self.go_on.wait(60)
        return super().open_range(key, start, length)


class HungryStore(FileStore):
    """Reading from it takes more memory than there is."""

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        raise MemoryError


class SlowStore(FileStore):
    """Every reading takes longer than a transaction may be idle."""

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        time.sleep(0.5)
        return super().open_range(key, start, length)


async def assert_lost_four_times(place: Site, code: str) -> None:
    """Work on it in vain, each time as another worker that takes it over; then it has ended."""
    await place.post("crm", CSV)
    job = await place.claim()
    for crashes in range(1, CRASHES_MAX + 1):
        job = await asyncio.wait_for(place.carry(job), 20)
        assert (job.state, job.worker, job.crashes, job.error_code) == ("running", None, crashes, code)
        job = await place.take(job.id)
    assert (job.state, job.error_code) == ("failed", "CRASHED")


async def test_progress_attempt_without_progress_counts_as_crashed(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "NO_PROGRESS_SECONDS", 0.4)
    store = StuckStore(place.folder / "store")
    try:
        await assert_lost_four_times(replace(place, store=store), "NO_PROGRESS")
    finally:
        store.go_on.set()


async def test_progress_attempt_without_memory_counts_as_crashed(place: Site) -> None:
    await assert_lost_four_times(replace(place, store=HungryStore(place.folder / "store")), "OUT_OF_MEMORY")


class Impatient(Database):
    """Ends transactions in which nothing is said for a fifth of a second; it is 30 s in earnest."""

    async def connect(self, name: str) -> Connection:
        connection = await super().connect(name)
        await connection.execute("set idle_in_transaction_session_timeout = '200ms'")
        return connection


async def test_progress_check_holds_no_transaction_while_it_reads(place: Site) -> None:
    """However long that takes; what it stores is what it found, also after one that was interrupted."""
    lines = b"".join(b"Ann,a%d@x.org\n" % at if at % 3 else b",b%d@x.org\n" % at for at in range(40))
    await place.post("crm", b"name,email\n" + lines, onInvalid="fail")
    job = await place.claim()
    await place.query(
        "insert into rollcall.rejects (import_id, record, code, raw) values (%s, 2, 'left', ''), (%s, 99, 'left', '')",
        job.id,
        job.id,
    )
    async with Impatient(place.url) as database:
        slow = replace(place, database=database, store=SlowStore(place.folder / "store"))
        with part_records(7):
            job = await asyncio.wait_for(slow.carry(job), 20)

    assert (job.state, job.error_code, job.rejected, job.total) == ("failed", "INVALID_RECORDS", 14, 40)
    records = await place.query("select record from rollcall.rejects order by record")
    assert records == [(at + 1,) for at in range(0, 40, 3)]
    assert await place.query("select count(*) from public.contacts") == [(0,)]
