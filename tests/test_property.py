"""Whatever is imported, however it is cut: the account adds up, and contacts are what ten lines of Python say."""

from __future__ import annotations

import csv
import gzip
import io
import os
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import psycopg
import pytest
import zstandard
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from faults.harness import Site, part_records, site
from faults.proxy import Harm, Link, Proxy, proxy
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
records = st.fixed_dictionaries(
    {"name": values, "email": st.sampled_from(people), "phone": values, "city": values}
).filter(lambda record: any(value.strip() for value in record.values()))
files = st.lists(records, min_size=1, max_size=30)
formats = st.sampled_from(["csv", "tsv", "array", "envelope", "ndjson"])
compressions = st.sampled_from(["plain", "gzip", "zstd"])


def model(contacts: dict[str, tuple[str, Record]], file: Iterable[Record], on_duplicate: str) -> Counter[str]:
    """Load the file into the contacts, as it is promised; its account."""
    counts, met = Counter[str](), set[str]()
    for record in file:
        email, name = record["email"].strip().lower(), record["name"].strip()
        if not name or "\x1b" in name or not email.isascii() or " " in email or "@" not in email:
            counts["rejected"] += 1
            continue
        attributes = {key: record[key].strip() for key in ("phone", "city") if record[key].strip()}
        before = contacts.get(email)
        after = name, (before[1] if before else {}) | attributes
        if email in met:
            counts["duplicate"] += 1
        elif before is None:
            counts["created"] += 1
        elif on_duplicate == "skip":
            counts["skipped"] += 1
        else:
            counts["unchanged" if before == after else "updated"] += 1
        met.add(email)
        if before is None or on_duplicate == "update":
            contacts[email] = after
    return counts


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
async def between(database_url: str) -> AsyncIterator[Proxy]:
    async with proxy(database_url) as before:
        yield before


@pytest.fixture
async def place(database_url: str, between: Proxy, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path, through=between.url) as here:
        yield here


@settings(
    max_examples=500 if "ROLLCALL_LONG" in os.environ else 30,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    file=files,
    form=formats,
    compression=compressions,
    sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    rows=st.sampled_from([-1, 5, 100]),
    loaders=st.integers(1, 4),
    room=st.sampled_from([1, 3, 100]),
    before=st.lists(records, max_size=8),
    on_duplicate=st.sampled_from(["update", "skip"]),
    stops=st.lists(st.integers(1, 12), max_size=3),
)
async def test_account_and_contacts(
    place: Site,
    between: Proxy,
    file: list[Record],
    form: str,
    compression: str,
    sizes: tuple[int, int],
    rows: int,
    loaders: int,
    room: int,
    before: list[Record],
    on_duplicate: str,
    stops: list[int],
) -> None:
    """What was there before came in another file; the last one is let go in the middle, as often as there are stops."""
    source = str(uuid4())
    expected: dict[str, tuple[str, Record]] = {}
    for each in filter(None, (before, file)):
        counts = model(expected, each, on_duplicate)

        await place.post(source, written(each, form, compression), onDuplicate=on_duplicate)
        job = await carry(place, sizes, rows, loaders, room, between, stops if each is file else [])

        assert (job.state, job.total) == ("succeeded", len(each))
        assert +Counter(asdict(job.counts)) == counts + Counter(read=len(each))
        assert sum(job.by_code.values()) == counts["rejected"]
        rejects = await place.query("select count(*) from rollcall.rejects where import_id = %s", job.id)
        assert rejects == [(min(counts["rejected"], room),)]
    there = await place.query("select email, name, attributes from public.contacts where source = %s", source)
    assert {email: (name, attributes) for email, name, attributes in there} == expected


async def carry(
    place: Site, sizes: tuple[int, int], rows: int, loaders: int, room: int, between: Proxy, stops: list[int]
) -> Import:
    """Carry the next import with Parts of one size, take it away at each of these batches, go on with the other size.

    `rows`: Parts that have so many make one batch. `room`: for so many Rejects. Every fifth commit is lost, or
    its answer.
    """
    job = await place.claim()
    with psycopg.connect(place.url, autocommit=True) as aside:
        aside.execute("set lock_timeout = '20ms'")
        for number, batches in enumerate([*stops, 0]):
            between.judge = harming(aside, job, batches)
            with part_records(sizes[number % 2], rows):
                job = await place.carry(job, loaders=loaders, rejects_max=room)
            between.judge = lambda link, data: "pass"
            if job.state == "succeeded":
                break
    return job


def harming(aside: psycopg.Connection[Any], job: Import, batches: int) -> Callable[[Link, bytes], Harm]:
    """Give the import to the next attempt just before the so many-th fence; 0: never."""
    fences = commits = 0

    def judge(link: Link, data: bytes) -> Harm:
        nonlocal fences, commits
        if not re.fullmatch(r"rollcall:[\w-]+:\d+:\d", link.name):
            return "pass"
        fences += b"for share" in data
        if b"for share" in data and fences >= batches > 0:
            with suppress(psycopg.errors.LockNotAvailable):  # another loader holds it: then before the next one
                aside.execute("update rollcall.imports set attempt = %s where id = %s", (job.attempt + 1, job.id))
        commits += b"COMMIT\0" in data
        lost = b"COMMIT\0" in data and not commits % 5
        return ("cut", "answerless")[commits // 5 % 2] if lost else "pass"

    return judge
