"""A worker freezes where it hurts most, or dies again and again of one file."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest

from faults import oracle
from faults.harness import Site, Worker, site, until
from faults.invariants import assert_sound, watched
from faults.oracle import File
from faults.proxy import Harm, Link, Proxy, proxy
from rollcall import liveness, worker
from rollcall.imports import CRASHES_MAX, FINAL
from service import objects

LONG = "ROLLCALL_LONG" in os.environ
HASTE = 1.0 if LONG else 20.0
SLACK_SECONDS = 0.0 if LONG else 10.0  # a lock is waited for for a second, however much haste there is
FILE = File("crm", 0, 700)
PLACES = {
    "before the fence": b"set_config('synchronous_commit'",
    "in mid-COPY": b"copy public.contacts",
    "between ledger and COMMIT": b"update rollcall.import_parts",
}


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await oracle.instrument(database_url, slow=0.02)
    async with site(database_url, tmp_path) as here:
        yield here


# Frozen


@pytest.fixture
async def between(place: Site) -> AsyncIterator[Proxy]:
    async with proxy(place.url) as before:
        yield before


async def taken_over(
    place: Site, job_id: UUID, frozen: Worker, monkeypatch: pytest.MonkeyPatch, *, gone: Path | None = None
) -> None:
    """A worker in this process takes it within 30 seconds, and ends it; thawed, the first one finds out and changes
    nothing. `gone`: a file that is not there while it looks."""
    for name in ("BEAT_SECONDS", "STALE_SECONDS", "GRACE_SECONDS"):
        monkeypatch.setattr(liveness, name, getattr(liveness, name) / HASTE)
    stop = asyncio.Event()
    [(since,)] = await place.query("select clock_timestamp()")
    work = asyncio.create_task(worker.run(place.settings(), place.url, stop=stop))
    try:
        job = await place.final(job_id, 60)
        [(taken,)] = await place.query("select min(at) from oracle.history where attempt = 2")
        assert taken - since < timedelta(seconds=30 / HASTE + SLACK_SECONDS)
        assert (job.state, job.attempt, await place.crashes(job_id)) == ("succeeded", 2, 1)
        if gone:
            shutil.move(gone, place.folder / "gone")
        frozen.send(signal.SIGCONT)
        await frozen.logged("import.fenced")
        if gone:
            shutil.move(place.folder / "gone", gone)
        assert frozen.events("import.failed") == []
        assert await place.show(job_id) == job
    finally:
        stop.set()
        await asyncio.wait_for(work, 30)


@pytest.mark.parametrize("where", PLACES)
async def test_worker_frozen_in_a_batch(
    place: Site, between: Proxy, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its third batch of a loader: what it has said is heard, and then nothing more."""
    with place.worker(haste=HASTE, through=between.url) as frozen:
        said = 0

        def judge(link: Link, data: bytes) -> Harm:
            nonlocal said
            said += bool(re.fullmatch("rollcall:[0-9a-f-]{36}:1:0", link.name)) and PLACES[where] in data
            if said == 3:
                frozen.send(signal.SIGSTOP)
            return "pass"

        between.judge = judge
        await frozen.number()
        async with watched(place):
            job_id = await place.post(FILE.source, FILE.csv())

            async def stopped() -> bool:
                return said >= 3

            await until(stopped, 20, where)
            between.judge = lambda link, data: "pass"
            await taken_over(place, job_id, frozen, monkeypatch)
        await assert_sound(place, {job_id: FILE})


def waiting_in(pid: int) -> set[str]:
    """The functions of the kernel in which a process's threads wait."""
    return {task.joinpath("wchan").read_text() for task in Path(f"/proc/{pid}/task").iterdir()}


async def test_worker_frozen_while_it_waits_for_the_store(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file does not open. Thawed, it finds that the file is gone: but the import is another's, and not failed."""
    job_id = await place.post(FILE.source, FILE.csv())
    [stored] = objects(place.folder)
    kept, pipe = place.folder / "kept", place.folder / "pipe"
    kept.hardlink_to(stored)
    os.mkfifo(pipe)
    pipe.replace(stored)  # opening it waits for somebody who writes
    with place.worker(haste=HASTE) as frozen:

        async def waits() -> bool:
            return bool({"wait_for_partner", "fifo_open"} & waiting_in(frozen.pid))

        await until(waits, 20, "it waits for the file to open")
        frozen.send(signal.SIGSTOP)
        kept.replace(stored)

        await taken_over(place, job_id, frozen, monkeypatch, gone=stored)
    await assert_sound(place, {job_id: FILE})


# Dies of one file


@pytest.mark.parametrize("at", [1, 650] if LONG else [1])
async def test_worker_a_file_that_workers_die_of(place: Site, at: int) -> None:
    """At its first Record, or after batches that are committed: four lost attempts end it, and no other import."""
    lines = FILE.csv().splitlines(keepends=True)
    poisoned = await place.post("bad", b"".join([*lines[:at], b"Ann,poison@example.org,,\n", *lines[at:]]))
    others = {
        await place.post(file.source, file.csv()): file for file in (File(source, 0, 300) for source in ("a", "b", "c"))
    }

    async def others_are_over() -> bool:
        return all([(await place.show(job_id)).state in FINAL for job_id in others])

    died = 0
    async with watched(place):
        while (await place.show(poisoned)).state not in FINAL:
            with place.worker(haste=HASTE) as process:

                async def over(process: Worker = process) -> bool:
                    ended = (await place.show(poisoned)).state in FINAL
                    return process.status is not None or (ended and await others_are_over())

                await until(over, 30, "it died, or all is over")
                died += process.status == 9
    job = await place.show(poisoned)
    assert (job.state, job.error_code, job.crashes) == ("failed", "CRASHED", CRASHES_MAX)
    [(last,)] = await place.query(
        "select coalesce(max(last), 0) from rollcall.import_parts where import_id = %s", poisoned
    )
    assert job.error_message == f"The worker was lost 4 times at this file, the last time after record {last}."
    assert last < at
    assert (last > 0) == (at > 1)
    assert CRASHES_MAX <= died <= CRASHES_MAX + 1  # the first one committed something
    assert {(await place.show(job_id)).state for job_id in others} == {"succeeded"}
    await place.query("delete from rollcall.imports where id = %s", poisoned)
    await place.query("delete from oracle.history where import_id = %s", poisoned)
    await place.query("delete from public.contacts where source = 'bad'")
    assert await oracle.violations(place.url, others) == []
