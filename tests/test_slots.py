"""What a worker begins beside what: nobody's small import waits for large ones."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from faults import oracle
from faults.harness import Site, part_records, site, until
from faults.oracle import File
from rollcall import imports, slots, worker
from rollcall.imports import LARGE_BYTES, SMALL_BYTES, Import
from rollcall.slots import Slot, admitted


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path) as here:
        yield here


def slot(bytes_total: int = 10, sender: str | None = None, *, large: bool = False) -> Slot:
    names: dict[str, Any] = dict.fromkeys(Import.__dataclass_fields__)
    job = Import(**names | {"id": uuid4(), "bytes_total": bytes_total, "created_by": sender})
    return Slot(job, large=large)


@pytest.mark.parametrize(
    ("running", "count", "admits"),
    [
        ([], 10, (None, [])),
        ([slot(LARGE_BYTES + 1, large=True)], 10, (LARGE_BYTES, [])),
        ([slot(SMALL_BYTES + 1)] * 7, 10, (None, [])),
        ([slot(SMALL_BYTES + 1)] * 8, 10, (SMALL_BYTES, [])),
        ([slot(sender="shop")] * 7, 10, (None, [])),
        ([slot(sender="shop")] * 8, 10, (None, ["shop"])),
        ([slot()] * 9, 10, (None, [])),  # without keys there is one sender
        ([slot(SMALL_BYTES + 1, "shop")] * 3, 4, (SMALL_BYTES, ["shop"])),
        ([slot(SMALL_BYTES + 1, "shop")] * 2, 3, (None, [])),  # too few to keep one free
    ],
)
def test_slots_admitted_keeps_slots_for_others(
    running: list[Slot], count: int, admits: tuple[int | None, list[str]]
) -> None:
    assert admitted(running, count) == admits


def test_slot_grows_large_by_what_was_read() -> None:
    one = slot()
    assert [one.grown(slots.LARGE_ROWS_BYTES), one.large] == [False, False]
    assert [one.grown(1), one.large] == [True, True]
    assert not one.grown(1)  # said once


async def test_slots_claim_passes_over_senders_that_have_enough(place: Site) -> None:
    for source in ("a", "b", "c"):
        await place.post(source, File(source, 0, 5).csv())
    await place.query("update rollcall.imports set created_by = 'shop' where source in ('a', 'b')")
    async with place.database.session() as tx:
        job = await imports.claim(tx, 1, without=["shop", "other"])
        assert job is not None
        assert job.source == "c"
        assert await imports.claim(tx, 1, without=["shop"]) is None
        job = await imports.claim(tx, 1)
        assert job is not None
        assert job.source == "a"


async def test_slots_worker_runs_one_at_a_time_of_those_that_unpack_to_much(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Small as they are stored, so that all of them begin; then all but one have to wait, and lose nothing."""
    monkeypatch.setattr(slots, "LARGE_ROWS_BYTES", 20_000)
    await oracle.instrument(place.url, slow=0.02)
    files = [File(source, 0, 1500) for source in ("a", "b", "c")]
    jobs = {await place.post(file.source, gzip.compress(file.csv())): file for file in files}
    together, stop = 0, asyncio.Event()
    with part_records(50), capture_logs() as logs:
        working = asyncio.create_task(worker.run(place.settings(), place.url, stop=stop))

        async def waits() -> bool:
            return [event["event"] for event in logs].count("import.waits") == 2

        await until(waits, 30, "two of them wait")

        async def given_back() -> bool:
            return len(await place.query("select 1 from rollcall.imports where worker is not null")) <= 1

        await until(given_back, 30, "they are given back")
        jobs[small := await place.post("d", File("d", 0, 5).csv())] = File("d", 0, 5)
        assert (await place.final(small, 10)).state == "succeeded"
        together = len(await place.query("select 1 from rollcall.imports where state = 'running'"))
        for job_id in jobs:
            assert (await place.final(job_id, 60)).state == "succeeded"
        stop.set()
        await asyncio.wait_for(working, 20)
    assert together >= 2  # the small one did not wait for them
    assert await oracle.violations(place.url, jobs) == []
    assert [(await place.show(job_id)).crashes for job_id in jobs] == [0, 0, 0, 0]
