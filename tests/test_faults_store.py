"""The store fails: nothing is kept of what could not be written, and no import ends well from what cannot be read."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import httpx
import pytest

from faults import oracle
from faults.disk import small_disk
from faults.harness import Site, part_records, site
from faults.invariants import assert_sound
from faults.oracle import File
from rollcall import receive, segment_writer
from rollcall.options import Options
from rollcall.storage import files
from service import objects, rows, served

FILE = File("crm", 0, 1000)
HEADERS = {"Content-Type": "text/csv", "X-Source": "crm"}
SEGMENT_BYTES = 8_000


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await oracle.instrument(database_url)
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


# Written


@contextmanager
def files_end_at(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: the write fails, as on a broken disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def body(mib: int) -> bytes:
    return b"name,email\n" + b"Ann,ann@x.org\n" * (mib * 75_000)


async def arriving() -> AsyncIterator[bytes]:
    data = body(5)
    for begin in range(0, len(data), 1 << 20):
        yield data[begin : begin + (1 << 20)]


async def assert_refused(client: httpx.AsyncClient, place: Site, status: int, code: str) -> None:
    """In one Segment and in many, of a length that is known before or not; nothing is kept."""
    for resumable, known in product(("false", "true"), (True, False)):
        headers, content = HEADERS | {"X-Use-Resumable": resumable}, body(5) if known else arriving()
        answer = await client.post("/import", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert int(answer.headers["Retry-After"]) > 0
        assert objects(place.folder) == []
        assert not rows(place.url, "select id from rollcall.uploads union all select id from rollcall.imports")


async def test_store_a_write_that_fails(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment_writer, "RETRY_SECONDS", (0, 0))
    async with served(place.url, place.folder, upload_chunk_size=3 << 20) as client:
        with files_end_at(2 << 20):
            await assert_refused(client, place, 503, "STORE_UNAVAILABLE")
        assert (await client.post("/import", content=body(5), headers=HEADERS)).status_code == 200


async def test_store_a_full_disk(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "RESERVE_BYTES", 0, raising=False)
    with small_disk(place.folder / "store", "4m", owner=os.geteuid()) as disk:
        async with served(place.url, place.folder, upload_chunk_size=3 << 20) as client:
            await assert_refused(client, place, 507, "NO_SPACE")
            assert (await client.post("/import", content=body(2), headers=HEADERS)).status_code == 200
            health = await client.get("/health/live")
        assert health.status_code == 200
        assert len([path for path in disk.rglob("*") if path.is_file()]) == 1


# Read


async def post_in_segments(place: Site) -> list[Path]:
    """Queue the file; its objects in their order."""

    async def arriving() -> AsyncIterator[bytes]:
        yield FILE.csv()

    await receive.receive(
        arriving(),
        database=place.database,
        store=place.store,
        wish=lambda: ("crm", Options.parse({})),
        segment_bytes=SEGMENT_BYTES,
    )
    keys = await place.query('select key from rollcall.segments order by "offset"')
    return [place.folder / "store" / key[:2] / key for (key,) in keys]


def addresses(file: File) -> set[str]:
    return {contact[0] for contact in map(file.contact, range(1, file.count + 1)) if contact}


def damage(stored: Path, harm: str, after: int = 0) -> bytes:
    """Take something of an object, or all; what it was."""
    data = stored.read_bytes()
    at = data.index(b"@example.org", after)
    if harm == "gone":
        stored.unlink()
    elif harm == "shorter":
        stored.write_bytes(data[:at])
    else:
        stored.write_bytes(data[: at - 1] + bytes([data[at - 1] ^ 1]) + data[at:])  # another address, a valid one
    return data


@pytest.mark.parametrize(("harm", "which"), [("gone", 0), ("shorter", 2), ("flipped", -1)])
async def test_store_a_segment_that_is_not_what_was_stored(place: Site, harm: str, which: int) -> None:
    """What comes before it may be loaded, nothing of itself is; put back, the import goes on from there."""
    stored = (await post_in_segments(place))[which]
    kept = damage(stored, harm)

    job = await place.carry(await place.claim())

    assert (job.state, job.error_code) == ("failed", "OBJECT_MISSING" if harm == "gone" else "OBJECT_CORRUPT")
    assert {email for (email,) in await place.query("select email from public.contacts")} <= addresses(FILE)
    await place.retry(job.id)
    assert (await place.carry(await place.claim())).error_code == job.error_code

    stored.write_bytes(kept)
    await place.retry(job.id)
    job = await place.carry(await place.claim())
    assert job.state == "succeeded"
    await assert_sound(place, {job.id: FILE})


async def test_store_gone_in_the_middle_of_a_load(place: Site) -> None:
    """An attempt is over and committed something; the next one finds the file gone, and then back."""
    stored = await post_in_segments(place)
    draining = asyncio.Event()
    draining.set()
    job = await place.carry(await place.claim(), draining=draining)
    assert 0 < job.read < FILE.count
    kept = damage(stored[-1], "gone")

    failed = await place.carry(await place.take(job.id))
    assert (failed.state, failed.error_code) == ("failed", "OBJECT_MISSING")
    assert failed.read >= job.read
    stored[-1].write_bytes(kept)
    await place.retry(job.id)

    job = await place.carry(await place.claim())
    assert (job.state, job.attempt) == ("succeeded", 3)
    await assert_sound(place, {job.id: FILE})


async def test_store_a_flipped_byte_in_one_long_segment(place: Site) -> None:
    """What comes before its block may be loaded, nothing of the block is; put back, the import goes on from there."""
    lines = [b"Ann,u%d@example.org,%b\n" % (number, b"n" * 4000) for number in range(4000)]
    await place.post("crm", b"name,email,note\n" + b"".join(lines))
    [stored] = objects(place.folder)
    kept = damage(stored, "flipped", after=2 * len(lines[-1]) * len(lines) // 3)

    job = await place.carry(await place.claim())

    assert (job.state, job.error_code, job.total) == ("failed", "OBJECT_CORRUPT", None)
    found = {email.encode() for (email,) in await place.query("select email from public.contacts")}
    assert len(found) == job.created > 0
    assert found <= {line.split(b",")[1] for line in lines}
    stored.write_bytes(kept)
    await place.retry(job.id)
    job = await place.carry(await place.claim())
    assert (job.state, job.created) == ("succeeded", len(lines))


async def test_store_damaged_while_it_is_loaded(place: Site) -> None:
    """However late it happens: no attempt takes the word of an earlier one."""
    stored = await post_in_segments(place)
    draining = asyncio.Event()
    draining.set()
    job = await place.carry(await place.claim(), draining=draining)
    assert 0 < job.read < FILE.count
    kept = damage(stored[-1], "flipped")

    job = await place.carry(await place.take(job.id))

    assert (job.state, job.error_code, job.total) == ("failed", "OBJECT_CORRUPT", None)
    assert {email for (email,) in await place.query("select email from public.contacts")} <= addresses(FILE)
    stored[-1].write_bytes(kept)
    await place.retry(job.id)
    job = await place.carry(await place.claim())
    assert job.state == "succeeded"
    await assert_sound(place, {job.id: FILE})
