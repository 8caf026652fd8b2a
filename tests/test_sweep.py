"""The sweep: what is over is deleted, what accidents left behind too, and nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from faults.harness import Site, part_records, site, until
from rollcall import control, imports, keys, uploads, worker
from rollcall import sweep as story
from rollcall.database import SWEEP_LOCK, connect, lock_alone
from rollcall.errors import ObjectMissing
from rollcall.imports import new_id
from rollcall.storage import FileStore, new_key
from rollcall.uploads import Incoming
from service import objects

GOOD = b"name,email\nAnn,ann@x.org\n"
BAD = b"name,email\nBob,nowhere\nCy,nowhere\nDee,dee@x.org\n"
DAY = timedelta(days=1)


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path) as here:
        yield here


async def sweep(
    place: Site,
    *,
    retention: timedelta = 7 * DAY,
    rejects_retention: timedelta = 90 * DAY,
    imports_retention: timedelta = 365 * DAY,
) -> None:
    await story.sweep(
        place.database,
        place.store,
        retention=retention,
        rejects_retention=rejects_retention,
        imports_retention=imports_retention,
    )

    async def over() -> bool:  # a session that was closed ends a little later, and with it its lock
        return not await place.query(
            "select from pg_stat_activity where application_name = 'rollcall:sweep' and datname = current_database()"
        )

    await until(over, 10, "the session of the sweep has ended")


async def age(place: Site, table: str, column: str, days: float) -> None:
    await place.query(f"update rollcall.{table} set {column} = {column} - make_interval(days => 1) * {days}")


def age_objects(place: Site, hours: float) -> None:
    for path in objects(place.folder):
        os.utime(path, (time.time() - hours * 3600,) * 2)


async def store_object(place: Site, data: bytes = b"x") -> str:
    async def body() -> AsyncIterator[bytes]:
        yield data

    key = new_key()
    await place.store.put(key, body())
    return key


async def test_sweep_stored_files_go_when_their_time_is_over(place: Site) -> None:
    done = await place.load("crm", GOOD)
    cancelled = await place.post("shop", GOOD)
    await control.cancel(place.database, cancelled)
    await age(place, "imports", "finished_at", 6.9)
    await sweep(place)
    assert len(objects(place.folder)) == 2

    await age(place, "imports", "finished_at", 0.2)
    with capture_logs() as logs:
        await sweep(place)
        await sweep(place)

    assert objects(place.folder) == []
    assert [(line["event"], line["files"]) for line in logs] == [("sweep.done", 2)]
    assert (await place.show(done.id)).counts == done.counts
    assert len(await place.query("select id from public.contacts")) == 1
    with pytest.raises(ObjectMissing):
        await place.retry(cancelled)


async def test_sweep_files_of_imports_that_are_not_over_stay(place: Site) -> None:
    """However long they wait; also of one that was over and is queued again."""
    retried = await place.post("crm", GOOD)
    await control.cancel(place.database, retried)
    await age(place, "imports", "finished_at", 30)
    await place.retry(retried)
    await place.post("shop", GOOD)
    await age(place, "imports", "created_at", 30)
    await age(place, "uploads", "created_at", 30)
    age_objects(place, 30 * 24)

    await sweep(place, retention=timedelta(0))

    for _ in range(2):
        assert (await place.carry(await place.claim())).state == "succeeded"


async def test_sweep_keeps_a_file_while_one_of_its_imports_needs_it(place: Site) -> None:
    """An upload may be imported more than once."""
    first = await place.load("crm", GOOD)
    second = new_id()
    async with await connect(place.url, "test") as tx:
        await imports.create(
            tx, second, source="shop", upload_id=first.upload_id, bytes_total=first.bytes_total, options=first.options
        )
    await place.query(
        "update rollcall.imports set finished_at = finished_at - interval '8 days' where id = %s", first.id
    )
    await sweep(place)
    assert (await place.carry(await place.claim())).state == "succeeded"
    await sweep(place)
    assert len(objects(place.folder)) == 1
    await place.query("update rollcall.imports set finished_at = finished_at - interval '8 days' where id = %s", second)
    await sweep(place)
    assert objects(place.folder) == []


async def test_sweep_keeps_a_file_of_which_an_import_is_being_made(place: Site) -> None:
    """The new import and the sweep meet at the upload's row."""
    first = await place.load("crm", GOOD)
    await age(place, "imports", "finished_at", 8)
    async with await connect(place.url, "test") as tx, tx.transaction():
        await imports.create(
            tx, new_id(), source="shop", upload_id=first.upload_id, bytes_total=first.bytes_total, options=first.options
        )
        await sweep(place)
    assert (await place.carry(await place.claim())).state == "succeeded"


async def test_sweep_goes_by_what_was_heard_of_an_upload_and_not_by_its_age(place: Site) -> None:
    for pausable in (False, True):
        async with await connect(place.url, "test") as tx:
            await uploads.create(tx, new_id(), Incoming(), pausable=pausable)
    await age(place, "uploads", "created_at", 30)
    await sweep(place)
    assert len(await place.query("select id from rollcall.uploads")) == 2


async def test_sweep_a_retry_under_way_keeps_its_file(place: Site) -> None:
    """Sweep and retry meet at the import's row: one of them comes first, whole."""
    job = await place.load("crm", BAD, onInvalid="fail")
    await age(place, "imports", "finished_at", 8)
    async with await connect(place.url, "test") as tx, tx.transaction():
        await tx.execute("update rollcall.imports set state = 'queued', finished_at = null, error_code = null")
        await sweep(place)
    assert (await place.carry(await place.claim())).error_code == job.error_code


async def test_sweep_rejects_go_when_their_time_is_over(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(story, "REJECTS_AT_ONCE", 3)
    jobs = [await place.load(source, BAD) for source in ("a", "b", "c", "d")]
    await age(place, "imports", "finished_at", 91)
    await place.query("update rollcall.imports set finished_at = clock_timestamp() where source = 'b'")

    await sweep(place, retention=365 * DAY)

    assert await place.query("select distinct import_id from rollcall.rejects") == [(jobs[1].id,)]
    assert (await place.show(jobs[0].id)).rejected == 2


async def test_sweep_imports_go_when_their_time_is_over(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In small steps, with ledger, rejects, file and upload; contacts keep the id of the import."""
    monkeypatch.setattr(story, "IMPORTS_AT_ONCE", 2)
    with part_records(1):
        jobs = [await place.load(source, BAD) for source in ("a", "b", "c", "d")]
    await place.post("a", GOOD)
    await age(place, "imports", "finished_at", 366)
    await age(place, "uploads", "completed_at", 366)
    await place.query("update rollcall.imports set finished_at = clock_timestamp() where source = 'b'")

    await sweep(place)

    left = await place.query("select source, state from rollcall.imports order by source")
    assert left == [("a", "queued"), ("b", "succeeded")]
    assert await place.query("select distinct import_id from rollcall.import_parts") == [(jobs[1].id,)]
    assert await place.query("select count(*) from rollcall.uploads") == [(2,)]
    assert len(objects(place.folder)) == 2
    lineage = await place.query("select import_id from public.contacts order by source")
    assert lineage == [(job.id,) for job in jobs]
    assert (await place.carry(await place.claim())).state == "succeeded"


async def test_sweep_imports_end_sooner_than_their_rejects_and_file_would(place: Site) -> None:
    await place.load("a", BAD)
    await age(place, "imports", "finished_at", 2)
    await age(place, "uploads", "completed_at", 2)
    await sweep(place, imports_retention=DAY)
    tables = ("imports", "import_parts", "rejects", "segments", "uploads")
    assert [await place.query(f"select 1 from rollcall.{table}") for table in tables] == [[]] * 5
    assert objects(place.folder) == []


async def test_sweep_the_last_revoked_key_stays(place: Site) -> None:
    """Without any key, everybody would be let in."""
    async with place.database.session() as tx:
        for name in ("a", "b", "c"):
            await keys.create(tx, name)
        await keys.revoke(tx, "a")
        await keys.revoke(tx, "b")
        await age(place, "keys", "revoked_at", 366)
        await sweep(place)
        assert await place.query("select name from rollcall.keys") == [("c",)]
        await keys.revoke(tx, "c")
        await age(place, "keys", "revoked_at", 366)
        await sweep(place)
        assert await keys.any_made(tx)


async def pass_days(place: Site, days: float, *, swept: bool) -> None:
    """By the clock. `swept`: a worker swept all the while."""
    for table, column in (("imports", "finished_at"), ("uploads", "seen_at"), ("sweeps", "began"), ("sweeps", "seen")):
        await age(place, table, column, days)
    if swept:
        await place.query(
            "update rollcall.sweeps set seen = clock_timestamp() where began = (select max(began) from rollcall.sweeps)"
        )


async def left(place: Site) -> tuple[int, int]:
    """Stored files, and uploads that arrive."""
    return len(objects(place.folder)), len(await place.query("select 1 from rollcall.uploads where state = 'arriving'"))


async def test_sweep_a_clock_that_is_set_forward_deletes_nothing_early(place: Site) -> None:
    """Everything is 400 days old all at once. From there on days count as ever, for what is new as well."""
    await sweep(place)
    old = await place.load("a", BAD)
    async with place.database.session() as tx:
        await uploads.create(tx, uuid4(), uploads.Incoming())
    await pass_days(place, 400, swept=False)
    await sweep(place)
    await sweep(place)
    assert await left(place) == (1, 1)
    assert (await place.show(old.id)).rejected == len(await place.query("select 1 from rollcall.rejects")) == 2

    await place.load("b", BAD)
    await pass_days(place, 2, swept=True)
    await sweep(place)
    assert await left(place) == (2, 0)
    await pass_days(place, 6, swept=True)
    await sweep(place)
    assert await left(place) == (0, 0)


async def test_sweep_a_clock_that_is_set_back_is_believed(place: Site) -> None:
    await sweep(place)
    await pass_days(place, 400, swept=False)
    await sweep(place)
    await pass_days(place, -400, swept=False)
    await place.load("a", BAD)
    await sweep(place)
    await pass_days(place, 8, swept=True)
    await sweep(place)
    assert await left(place) == (0, 0)


async def test_sweep_rejects_of_an_import_that_runs_stay(place: Site) -> None:
    job = await place.load("crm", BAD)
    await place.query("update rollcall.imports set state = 'running', finished_at = null, total = null")

    await sweep(place, rejects_retention=timedelta(0))

    assert await place.query("select count(*) from rollcall.rejects where import_id = %s", job.id) == [(2,)]


async def test_sweep_uploads_that_never_became_whole_go_with_their_objects(place: Site) -> None:
    """Old ones whose process was killed; a Segment was whole, one half written."""
    for _ in range(2):
        upload_id, whole, half = new_id(), await store_object(place), new_key()
        async with await connect(place.url, "test") as tx:
            await uploads.create(tx, upload_id, Incoming())
            await uploads.begin_segment(tx, upload_id, 0, whole)
            await uploads.begin_segment(tx, upload_id, 1, half)
        path = place.folder / "store" / half[:2] / f"{half}.partial"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"y")
    await place.query("update rollcall.uploads set seen_at = seen_at - interval '25 hours' where id <> %s", upload_id)
    age_objects(place, 25)

    await sweep(place)

    assert {path.stem for path in objects(place.folder)} == {whole, half}
    assert await place.query("select id from rollcall.uploads") == [(upload_id,)]
    assert len(await place.query("select key from rollcall.segments")) == 2


async def test_sweep_objects_that_no_row_knows_go_when_no_upload_can_be_so_old(place: Site) -> None:
    known = await place.post("crm", GOOD)
    unknown, half = await store_object(place), await store_object(place)
    path = place.folder / "store" / half[:2] / half
    path.rename(path.with_suffix(".partial"))
    age_objects(place, 23.9)
    await sweep(place)
    assert len(objects(place.folder)) == 3

    age_objects(place, 24.1)
    fresh = await store_object(place)
    await sweep(place)

    left = {path.stem for path in objects(place.folder)}
    assert len(left) == 2
    assert fresh in left
    assert unknown not in left
    assert (await place.carry(await place.claim())).id == known


async def test_sweep_objects_whose_rows_went_before_a_crash(place: Site) -> None:
    await place.load("crm", GOOD)
    await age(place, "imports", "finished_at", 8)
    async with await connect(place.url, "test") as tx:
        assert len(await uploads.expire(tx, 7 * DAY, limit=1)) == 1
    age_objects(place, 25)

    await sweep(place)

    assert objects(place.folder) == []


async def test_sweep_dead_workers_go_but_not_whose_import_is_to_be_taken_over(place: Site) -> None:
    await place.query(
        """insert into rollcall.workers (name, beat) select name, clock_timestamp() - age
             from (values ('dead', interval '25 hours'), ('holds', '25 hours'), ('lives', '1 hour')) w (name, age)"""
    )
    await place.post("crm", GOOD)
    await place.query(
        """update rollcall.imports set state = 'running', attempt = 1,
                  worker = (select seq from rollcall.workers where name = 'holds')"""
    )

    await sweep(place)

    assert await place.query("select name from rollcall.workers order by name") == [("holds",), ("lives",)]


async def test_sweep_one_at_a_time(place: Site) -> None:
    await place.load("crm", GOOD)
    async with await connect(place.url, "test") as other:
        assert await lock_alone(other, SWEEP_LOCK)
        await sweep(place, retention=timedelta(0))
        assert len(objects(place.folder)) == 1

    await asyncio.gather(*(sweep(place, retention=timedelta(0)) for _ in range(4)))

    assert objects(place.folder) == []


async def test_sweep_a_worker_sweeps_as_it_is_told_and_survives_what_goes_wrong(
    place: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SWEEP_SECONDS", 0.02)
    first = await place.load("crm", BAD)
    gone: list[str] = []

    async def broken(store: FileStore, keys: Iterable[str]) -> None:
        gone.extend(keys)
        raise OSError

    delete = FileStore.delete_many
    monkeypatch.setattr(FileStore, "delete_many", broken)
    stop = asyncio.Event()
    settings = place.settings(retention="PT0S", rejects_retention="0")
    with capture_logs() as logs:
        working = asyncio.create_task(worker.run(settings, place.url, stop=stop))

        async def failed() -> bool:
            return bool(gone)

        await until(failed, 10, "the sweep has failed once")
        monkeypatch.setattr(FileStore, "delete_many", delete)
        second = await place.post("crm", GOOD)
        await place.final(second)

        async def swept() -> bool:
            rows: list[Any] = await place.query("select key from rollcall.segments")
            return not rows and len(objects(place.folder)) == 1  # the one that failed: no row knows it

        await until(swept, 10, "the second file is deleted")
        stop.set()
        await asyncio.wait_for(working, 20)

    assert await place.query("select record from rollcall.rejects where import_id = %s", first.id) == []
    assert [line["event"] for line in logs].count("sweep.failed") == 1
    age_objects(place, 25)

    async def swept_too() -> bool:
        await sweep(place)  # not while the worker's session still holds the lock of the sweep
        return objects(place.folder) == []

    await until(swept_too, 10, "the object that no row knows is deleted")
