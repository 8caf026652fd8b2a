"""Whatever is imported, however it is cut: the account adds up, and contacts are what ten lines of Python say."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import os
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from uuid import uuid4

import orjson
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from faults.harness import Site, part_records, site
from rollcall.imports import Import

COLUMNS = ("name", "email", "phone", "city")
Record = dict[str, str]

people = (
    "ann@example.com",
    "ANN@example.com",
    " bob@x.org",
    "c.o@sub.example.co.uk",
    "dé@x.org",
    "no address",
    "",
    "f@x.yz",
)
values = st.sampled_from(
    ["", " ", "Ann", " Bob ", 'a "quoted" one', "comma, here", "semi;colon", "Zoë\u00a0", "1\n2", "a\x1bb", "0"]
)
records = st.fixed_dictionaries({"name": values, "email": st.sampled_from(people), "phone": values, "city": values})
files = st.lists(
    records.filter(lambda record: any(value.strip() for value in record.values())), min_size=1, max_size=30
)
formats = st.sampled_from(["csv", "tsv", "array", "envelope", "ndjson"])
compressions = st.sampled_from(["plain", "gzip", "zstd"])


def model(contacts: dict[str, tuple[str, Record]], file: Iterable[Record]) -> int:
    """Load the file into the contacts, as it is promised; how many Records were rejected."""
    rejected = 0
    for record in file:
        email, name = record["email"].strip().lower(), record["name"].strip()
        if not name or "\x1b" in name or not email.isascii() or " " in email or "@" not in email:
            rejected += 1
            continue
        attributes = {key: record[key].strip() for key in ("phone", "city") if record[key].strip()}
        contacts[email] = (name, contacts.get(email, ("", {}))[1] | attributes)
    return rejected


def written(file: list[Record], form: str, compression: str) -> bytes:
    out = io.StringIO()
    match form:
        case "csv" | "tsv":
            writer = csv.DictWriter(out, COLUMNS, dialect="excel" if form == "csv" else "excel-tab")
            writer.writeheader()
            writer.writerows(file)
            data = out.getvalue().encode()
        case "array":
            data = orjson.dumps(file, option=orjson.OPT_INDENT_2)
        case "envelope":
            data = orjson.dumps({"source": "other", "data": file, "useResumable": False})
        case _:
            data = b"\n".join(map(orjson.dumps, file))
    match compression:
        case "gzip":
            return gzip.compress(data)
        case "zstd":
            return zstandard.compress(data)
        case _:
            return data


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path) as here:
        yield here


@settings(
    max_examples=500 if "ROLLCALL_LONG" in os.environ else 30, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    file=files,
    form=formats,
    compression=compressions,
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rows=st.sampled_from([-1, 5, 100]),
    loaders=st.integers(1, 4),
    room=st.sampled_from([1, 3, 100]),
    how=st.sampled_from(["once", "twice", "halves", "interrupted"]),
)
async def test_account_and_contacts(
    place: Site,
    file: list[Record],
    form: str,
    compression: str,
    sizes: tuple[int, int],
    rows: int,
    loaders: int,
    room: int,
    how: str,
) -> None:
    source = str(uuid4())
    half = len(file) // 2
    files = {"twice": [file, file], "halves": [each for each in (file[:half], file[half:]) if each]}.get(how, [file])
    expected: dict[str, tuple[str, Record]] = {}
    for number, each in enumerate(files):
        known = set(expected)
        rejected = model(expected, each)

        await place.post(source, written(each, form, compression))
        job = await carry(place, sizes, rows, loaders, room, interrupted=how == "interrupted")

        counts = job.counts
        assert (job.state, job.total, counts.read) == ("succeeded", len(each), len(each))
        assert (counts.created, counts.rejected, counts.skipped) == (len(set(expected) - known), rejected, 0)
        assert counts.created + counts.updated + counts.unchanged + counts.duplicate + counts.rejected == len(each)
        if not number:
            assert counts.updated + counts.unchanged == 0
        assert sum(job.by_code.values()) == rejected
        rejects = await place.query("select count(*) from rollcall.rejects where import_id = %s", job.id)
        assert rejects == [(min(rejected, room),)]
    there = await place.query("select email, name, attributes from public.contacts where source = %s", source)
    assert {email: (name, attributes) for email, name, attributes in there} == expected


async def carry(
    place: Site, sizes: tuple[int, int], rows: int, loaders: int, room: int, *, interrupted: bool
) -> Import:
    """Carry the next import with Parts of one size; interrupted, let go after a Part, and go on with the other size.

    `rows`: Parts that have so many make one batch. `room`: for so many Rejects.
    """
    job = await place.claim()
    if interrupted:
        draining = asyncio.Event()
        draining.set()
        with part_records(sizes[1], rows):
            job = await place.carry(job, loaders=loaders, draining=draining, rejects_max=room)
        if job.state == "succeeded":
            return job
        assert (job.state, job.worker) == ("running", None)
        job = await place.take(job.id)
    with part_records(sizes[0], rows):
        return await place.carry(job, loaders=loaders, rejects_max=room)
