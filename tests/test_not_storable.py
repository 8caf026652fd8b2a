"""Contacts that Postgres cannot store: their Records are rejected with the reason, all others are loaded."""

from __future__ import annotations

import asyncio
import csv
import io
import secrets
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import orjson
import psycopg
import pyarrow as pa
import pytest

from faults.harness import Site, part_records, site
from rollcall import contacts, export
from rollcall.database import connect
from rollcall.errors import NotFound
from rollcall.imports import Import
from rollcall.loading import not_storable
from rollcall.loading.not_storable import write_storable
from rollcall.loading.refusal import is_not_storable

NOTE_INDEX = "create index on public.contacts ((attributes->>'note'))"
WHOLE_INDEX = "create index on public.contacts ((attributes::text))"
AGE_INDEX = "create index on public.contacts (((attributes->>'age')::int))"
LONG = 3000
"""Hexadecimal digits: more than an entry of an index may have (2,704 bytes), however they are compressed."""


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(20):
        async with site(database_url, tmp_path) as here:
            yield here


def lines(*rows: tuple[str, str], column: str = "note") -> bytes:
    return f"name,email,{column}\n".encode() + "".join(f"Ann,{email},{note}\n" for email, note in rows).encode()


def people(count: int, letters: str = "an") -> list[tuple[str, str]]:
    """Some for each of two loaders."""
    return [(f"{letters[at % 2]}{at}@x.org", "short") for at in range(count)]


def digits(count: int = LONG) -> str:
    return secrets.token_hex(count)[: 2 * count]


async def stored(place: Site, job_id: UUID) -> list[tuple[Any, ...]]:
    return await place.query(
        "select record, field, code, raw from rollcall.rejects where import_id = %s order by record", job_id
    )


async def exported(place: Site, job: Import) -> list[dict[str, str]]:
    async with place.database.session() as tx:
        found = await export.find(tx, job.id)
    blocks = export.file(place.database, place.store, found, "csv", cpu_slots=asyncio.Semaphore(1))
    return list(csv.DictReader(io.StringIO(b"".join([block async for block in blocks]).decode())))


@pytest.mark.parametrize("source_is_empty", [True, False])
@pytest.mark.parametrize("on_duplicate", ["update", "skip"])
@pytest.mark.parametrize("kept", [0, 1000])
async def test_not_storable_load_rejects_rows_that_an_index_does_not_take(
    place: Site, on_duplicate: str, kept: int, *, source_is_empty: bool
) -> None:
    """One of each loader, beside a Record that breaks a rule. All are in the file of rejects, whatever is stored."""
    if not source_is_empty:
        await place.load("crm", lines(*people(10)))
    await place.query(NOTE_INDEX)
    rows = people(100)
    rows[30] = ("a30@x.org", digits())
    rows[71] = ("n71@x.org", digits())
    rows[50] = ("nobody", "short")
    await place.post("crm", lines(*rows), onDuplicate=on_duplicate)

    job = await place.carry(await place.claim(), rejects_max=kept)

    there = 0 if source_is_empty else 10
    assert (job.state, job.read, job.rejected, job.created) == ("succeeded", 100, 3, 97 - there)
    assert job.unchanged + job.skipped == there
    assert job.by_code == {"not_storable": 2, "email_invalid": 1}
    assert await place.query("select count(*) from public.contacts") == [(97,)]
    bad: list[tuple[Any, ...]] = [
        (at + 1, None, "not_storable", f"Ann,{rows[at][0]},{rows[at][1]}".encode()) for at in (30, 71)
    ]
    ruled = [(51, "email", "email_invalid", b"Ann,nobody,short")] if kept else []
    assert await stored(place, job.id) == sorted(bad + ruled)
    found = await exported(place, job)
    assert {(row["rollcall_record"], row["email"], row["note"]) for row in found} == {
        (str(at + 1), *rows[at]) for at in (30, 50, 71)
    }
    said = next(row["rollcall_message"] for row in found if row["rollcall_record"] == "31")
    assert "index row" in said
    assert "exceeds" in said


async def test_not_storable_load_rejects_a_contact_that_has_grown_too_large(place: Site) -> None:
    """By an import, and within a file: what was there before stays as it was."""
    await place.query(WHOLE_INDEX)
    half = digits(900)
    await place.load("crm", lines(("a1@x.org", half), ("n1@x.org", "short"), column="one"))

    rows = [*people(50), ("a1@x.org", digits(900)), ("b@x.org", "1"), ("n1@x.org", "2"), ("n1@x.org", digits())]
    job = await place.load("crm", lines(*rows, column="two"))

    assert (job.state, job.created, job.updated, job.duplicate) == ("succeeded", 50, 1, 0)
    assert [(record, code) for record, _, code, _ in await stored(place, job.id)] == [
        (51, "not_storable"),
        (53, "not_storable"),  # it was folded with the next one
        (54, "not_storable"),
    ]
    rows_now = await place.query(
        "select email, attributes from public.contacts where email in ('a1@x.org', 'n1@x.org')"
    )
    assert dict(rows_now) == {"a1@x.org": {"one": half}, "n1@x.org": {"one": "short", "two": "short"}}


async def test_not_storable_load_rejects_every_record_that_was_folded_into_a_row(place: Site) -> None:
    await place.query(WHOLE_INDEX)
    data = [{"name": "Ann", "email": "a@x.org", key: digits(900)} for key in ("one", "two")]
    people_ = [{"name": "Bob", "email": f"b{at}@x.org"} for at in range(10)]

    job = await place.load("crm", orjson.dumps([*people_, *data]))

    assert (job.state, job.created, job.rejected, job.duplicate) == ("succeeded", 10, 2, 0)
    assert [(record, raw) for record, _, _, raw in await stored(place, job.id)] == [
        (11, orjson.dumps(data[0])),
        (12, orjson.dumps(data[1])),
    ]


async def test_not_storable_first_record_is_rejected_and_a_later_one_makes_the_contact(place: Site) -> None:
    await place.load("crm", lines(("z@x.org", "short")))
    await place.query(NOTE_INDEX)

    job = await place.load("crm", lines(("a@x.org", digits()), ("b@x.org", "short"), ("a@x.org", "mended")))

    assert (job.state, job.created, job.rejected, job.duplicate) == ("succeeded", 2, 1, 0)
    assert await place.query("select attributes from public.contacts where email = 'a@x.org'") == [
        ({"note": "mended"},)
    ]


async def test_not_storable_load_rejects_values_that_a_cast_does_not_take(place: Site) -> None:
    await place.query(AGE_INDEX)

    job = await place.load("crm", lines(*people(40), column="city").replace(b"city", b"age").replace(b"short", b"7"))
    assert (job.state, job.created) == ("succeeded", 40)
    rows = [("a0@x.org", "8"), ("a2@x.org", "old"), ("n1@x.org", "9" * 30)]
    job = await place.load("crm", lines(*rows, column="age"))

    assert (job.state, job.updated, job.by_code) == ("succeeded", 1, {"not_storable": 2})
    [first, _] = await exported(place, job)
    assert 'invalid input syntax for type integer: "old"' in first["rollcall_message"]


async def test_not_storable_max_rejects_counts_what_is_not_storable(place: Site) -> None:
    await place.query(NOTE_INDEX)
    rows = [*people(30), ("a99@x.org", digits()), ("n99@x.org", digits())]

    job = await place.load("crm", lines(*rows), maxRejects="1")

    assert (job.state, job.error_code, job.created) == ("failed", "TOO_MANY_REJECTS", 30)
    assert len(await exported(place, job)) == 2


async def test_not_storable_on_invalid_fail_ends_with_the_reason(place: Site) -> None:
    await place.query(NOTE_INDEX)

    job = await place.load("crm", lines(("a@x.org", digits())), onInvalid="fail")

    assert (job.state, job.error_code, job.rejected) == ("failed", "CONTACTS_REFUSED", 0)
    assert "SQLSTATE 54000" in str(job.error_message)


async def test_not_storable_table_that_takes_none_ends_the_import(place: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(not_storable, "ROWS_MAX", 5)
    await place.query(NOTE_INDEX)

    job = await place.load("crm", lines(*((f"a{at}@x.org", digits()) for at in range(12))))

    assert (job.state, job.error_code) == ("failed", "CONTACTS_REFUSED")
    assert "SQLSTATE 54000" in str(job.error_message)


async def test_not_storable_rejects_that_were_deleted_are_said_to_be(place: Site) -> None:
    await place.query(NOTE_INDEX)
    job = await place.load("crm", lines(("a@x.org", digits()), ("b@x.org", "short")))
    await place.query("delete from rollcall.rejects")

    async with place.database.session() as tx:
        with pytest.raises(NotFound, match="REJECTS_RETENTION"):
            await export.find(tx, job.id)


async def test_not_storable_write_storable_finds_a_row_in_few_tries(place: Site) -> None:
    """2 log2(n) at most; each in a savepoint of its own."""
    tries = list[int]()
    async with await connect(place.url, "test") as tx:
        await contacts.prepare(tx)

        async def write(rows: contacts.Rows) -> contacts.Outcome:
            tries.append(len(rows))
            await tx.execute("select case when 700 = any(%s) then repeat('9', 30)::int end", (rows.records.tolist(),))
            return contacts.Outcome(created=len(rows))

        rows = contacts.Rows(pa.chunked_array([[b"x"] * 1024]), np.arange(1024))
        left_out = dict[int, str]()
        async with tx.transaction():
            done = await write_storable(tx, rows, write, left_out=left_out)

    assert (done.created, list(left_out)) == (1023, [700])
    assert len(tries) <= 1 + 2 * 10


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("select repeat('x', 1000000000)::text || repeat('x', 500000000)", True),
        ("select 'old'::int", True),
        ("select convert_from('\\xff', 'utf8')", True),
        ("select 1 / 0", True),
        ("select no_such_column", False),
    ],
)
async def test_not_storable_is_not_storable_knows_the_errors_of_one_row(
    place: Site, statement: str, *, expected: bool
) -> None:
    with pytest.raises(psycopg.Error) as caught:
        await place.query(statement)
    assert is_not_storable(caught.value) is expected


@pytest.mark.parametrize("type_", ["int", "boolean"])
async def test_not_storable_column_of_another_type_ends_the_import(place: Site, type_: str) -> None:
    await place.query(f"alter table public.contacts alter column name type {type_} using null")

    job = await place.load("crm", lines(("a@x.org", "short")))

    assert (job.state, job.error_code) == ("failed", "CONTACTS_REFUSED")
