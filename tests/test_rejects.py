"""Rejects as they are kept: the first of an import, exactly as they were found; all of them counted, by their codes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from io import BytesIO
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pyarrow as pa
import pytest

from faults.harness import Site, part_records, site
from faults.proxy import Harm, Link, proxy
from rollcall import control
from rollcall.imports import Import
from rollcall.records import inspect, parts
from rollcall.telemetry import worker_counters

BROKEN = [
    b"Ann,nowhere,1",
    b",bob@x.org,2",
    b"Cy,,3",
    b'"Dee"d,dee@x.org,4',
    b"Eve\xff,eve@x.org,5",
    b"Flo,flo@x.org,\0six",
    b"Gus,gus@x.org,7,8,9",
    b"H\x1bal,hal@x.org,10",
    "Zoë,zoë@x.org,Ærø".encode(),
    b'Ida,"a' + b"i" * 300 + b' b",11',
    b"J" + b"j" * 70_000 + b",jo,12",
]
COUNT, ROOM = 600, 57
PART_RECORDS = 100


def mixed(count: int = COUNT) -> bytes:
    """Every third Record is none, in all kinds of ways."""
    lines = [BROKEN[at // 3 % 10] if at % 3 == 1 else b"Ann,u%d@x.org,%d" % (at, at) for at in range(count)]
    return b"\n".join([b"name,email,note", *lines])


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(PART_RECORDS):
        async with site(database_url, tmp_path) as here:
            yield here


def found(data: bytes) -> list[tuple[Any, ...]]:
    """The Rejects of a file: record, field, code, value, raw."""
    rejects = pa.concat_tables(part.rejects for part in parts(BytesIO(data), inspect(BytesIO(data))))
    return [tuple(row.values()) for row in rejects.to_pylist()]


def codes(data: bytes) -> Counter[str]:
    return Counter(code for _, _, code, *_ in found(data))


async def stored(place: Site, job: Import) -> list[tuple[Any, ...]]:
    return await place.query(
        "select record, field, code, value, raw from rollcall.rejects where import_id = %s order by record", job.id
    )


async def test_rejects_they_are_stored_as_they_were_found(place: Site) -> None:
    """Nulls, empty values, bytes that are no text, long ones."""
    data = b"\n".join([b"name,email,note", b"Ann,ann@x.org,1", *BROKEN, b"Bo,bo@x.org,2"])

    job = await place.load("crm", data)

    assert job.state == "succeeded"
    rows = await stored(place, job)
    assert rows == found(data)
    assert [row[0] for row in rows] == list(range(2, 2 + len(BROKEN)))
    assert {row[1] for row in rows} >= {"email", "name", "note", None}
    assert [row[4][:20] for row in rows] == [raw[:20] for raw in BROKEN]
    assert job.by_code == codes(data)


async def test_rejects_the_first_are_stored_and_all_are_counted(place: Site) -> None:
    await place.post("crm", mixed())

    job = await place.carry(await place.claim(), rejects_max=ROOM)

    assert (job.state, job.rejected) == ("succeeded", COUNT // 3)
    assert await stored(place, job) == found(mixed())[:ROOM]
    assert job.by_code == codes(mixed())
    assert len(job.by_code) > 5


@pytest.mark.parametrize("rejects_max", [1, PART_RECORDS // 3 * 2, 200, 201])
async def test_rejects_room_that_ends_with_a_part_or_with_the_file(place: Site, rejects_max: int) -> None:
    await place.post("crm", mixed())

    job = await place.carry(await place.claim(), rejects_max=rejects_max)

    assert await stored(place, job) == found(mixed())[:rejects_max]
    assert job.by_code == codes(mixed())


async def let_go(place: Site, rejects_max: int) -> Import:
    """Claim, commit one Part and let go."""
    draining = asyncio.Event()
    draining.set()
    return await place.carry(await place.claim(), draining=draining, rejects_max=rejects_max)


@pytest.mark.parametrize("records", [PART_RECORDS, 37])
async def test_rejects_who_goes_on_knows_what_is_stored(place: Site, records: int) -> None:
    """Also when the Parts are cut otherwise by then."""
    await place.post("crm", mixed())
    job = await let_go(place, ROOM)
    assert 0 < len(await stored(place, job)) == job.rejected < ROOM
    assert sum(job.by_code.values()) == job.rejected

    with part_records(records):
        job = await place.carry(await place.take(job.id), rejects_max=ROOM)

    assert job.state == "succeeded"
    assert await stored(place, job) == found(mixed())[:ROOM]
    assert job.by_code == codes(mixed())


async def test_rejects_more_room_on_the_way_leaves_no_gap(place: Site) -> None:
    """What was not stored is not there: what follows it is not stored either."""
    await place.post("crm", mixed())
    job = await let_go(place, 10)
    assert job.rejected > 10

    job = await place.carry(await place.take(job.id), rejects_max=1000)

    assert await stored(place, job) == found(mixed())[:10]
    assert job.by_code == codes(mixed())


async def test_rejects_a_ledger_that_goes_back_takes_its_rejects_along(database_url: str, tmp_path: Path) -> None:
    """As a crash of Postgres does it, here at the third commit of the loader that writes them: it rewinds."""
    commits = 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal commits
        if not link.name.endswith(":1:0") or b"COMMIT\0" not in data:
            return "pass"
        commits += 1
        if commits != 3:
            return "pass"
        with psycopg.connect(database_url) as connection:
            last = "(select max(first) from rollcall.import_parts where loader = 0)"
            connection.execute(f"delete from rollcall.rejects where record >= {last}".encode())
            connection.execute(f"delete from rollcall.import_parts where loader = 0 and first = {last}".encode())
        return "cut"

    async with proxy(database_url) as between, site(database_url, tmp_path, through=between.url) as place:
        between.judge = judge
        rewinds = worker_counters()["rollcall_retries", "rewind"]
        with part_records(PART_RECORDS):
            await place.post("crm", mixed())
            job = await place.carry(await place.claim(), rejects_max=ROOM)

    assert worker_counters()["rollcall_retries", "rewind"] == rewinds + 1
    assert (job.state, job.attempt, job.rejected) == ("succeeded", 1, COUNT // 3)
    assert await stored(place, job) == found(mixed())[:ROOM]
    assert job.by_code == codes(mixed())


async def test_rejects_a_check_pass_keeps_to_it(place: Site) -> None:
    await place.post("crm", mixed(), onInvalid="fail")

    job = await place.carry(await place.claim(), rejects_max=ROOM)

    assert (job.error_code, job.total, job.rejected) == ("INVALID_RECORDS", COUNT, COUNT // 3)
    assert await stored(place, job) == found(mixed())[:ROOM]
    assert job.by_code == codes(mixed())
    await place.retry(job.id)
    assert (await place.show(job.id)).by_code == {}
    again = await place.carry(await place.claim(), rejects_max=ROOM + 50)
    assert (again.by_code, len(await stored(place, again))) == (job.by_code, ROOM + 50)


async def test_rejects_codes_are_there_while_it_runs_and_when_it_was_cancelled(place: Site) -> None:
    await place.post("crm", mixed())
    running = await let_go(place, ROOM)
    assert running.by_code == codes(mixed(PART_RECORDS))

    await control.cancel(place.database, running.id)

    assert (await place.show(running.id)).by_code == running.by_code
    assert await by_code_of_row(place, running.id) == running.by_code


async def by_code_of_row(place: Site, job_id: UUID) -> dict[str, int]:
    """As it stands on the import itself, however the ledger is."""
    rows = await place.query("select by_code from rollcall.imports where id = %s", job_id)
    return dict(rows[0][0])
