"""Which way Records go into contacts: keys of an empty Source straight, others when the index does not know them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from faults.harness import Site, part_records, site
from rollcall.imports import Counts

WAYS = """
create table ways (statement text);
create function note() returns trigger language plpgsql as $$
    begin insert into ways values (substring(current_query() from '[a-z]+')); return null; end $$;
create trigger note before insert on public.contacts for each statement execute function note();
"""
INTRUDER = """
create function intrude() returns trigger language plpgsql as $$ begin
    insert into public.contacts (id, name, email, source, imported_at)
    select gen_random_uuid(), 'Theirs', 'u' || n || '@x.org', 'crm', now() from generate_series(250, 450) n
     where n % 100 >= 50 on conflict do nothing;
    return null; end $$;
create trigger intrude after insert on rollcall.import_parts for each row when (new.first = 101)
    execute function intrude();
"""


def lines(*numbers: int) -> bytes:
    return b"name,email\n" + b"".join(b"N%d,u%d@x.org\n" % (number, number) for number in numbers)


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await asyncio.to_thread(_run, database_url, WAYS)
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


async def ways(place: Site) -> set[str]:
    return {way for (way,) in await place.query("delete from ways returning statement")}


async def test_import_by_every_way_what_is_new_is_copied_and_what_is_there_is_let_be(place: Site) -> None:
    first = await place.load("crm", lines(*range(300)))
    assert (first.counts, await ways(place)) == (Counts(read=300, created=300), {"copy"})

    again = await place.load("crm", lines(*range(300)))
    assert (again.counts, await ways(place)) == (Counts(read=300, unchanged=300), set())

    more = await place.load("crm", lines(*range(200, 400)))
    assert (more.counts, await ways(place)) == (Counts(read=200, created=100, unchanged=100), {"copy"})

    other = await place.load("shop", lines(*range(200), *range(50), 200))
    assert (other.counts, await ways(place)) == (Counts(read=251, created=201, duplicate=50), {"copy"})


async def test_import_by_every_way_somebody_else_writes_contacts_meanwhile(place: Site, database_url: str) -> None:
    """Keys that should be new are not: nothing is lost, the rest of the file is merged, what was made ready too."""
    await asyncio.to_thread(_run, database_url, INTRUDER)

    job = await place.load("crm", lines(*range(500)))

    assert (job.state, job.counts) == ("succeeded", Counts(read=500, created=399, updated=101))
    assert await place.query("select count(*), count(*) filter (where name = 'Theirs') from public.contacts") == [
        (500, 0)
    ]


async def test_import_by_every_way_another_key_of_theirs_that_a_contact_breaks(place: Site, database_url: str) -> None:
    """It is not somebody else who was quicker, however often one looks."""
    await asyncio.to_thread(_run, database_url, "create unique index on public.contacts (source, name)")

    await place.post("crm", b"name,email\nAnn,a@x.org\nAnn,c@x.org\n")
    job = await place.carry(await place.claim(), loaders=1)

    assert (job.state, job.error_code, job.read) == ("failed", "CONTACTS_REFUSED", 0)


async def test_import_by_every_way_a_merge_reads_only_the_contacts_it_meets(place: Site, database_url: str) -> None:
    file = lines(*range(5000))
    await place.load("crm", file)
    await asyncio.to_thread(_run, database_url, "analyze public.contacts")
    before = await read_by_scans(place)

    assert (await place.load("crm", file)).unchanged == 5000
    assert await read_by_scans(place) == before


async def read_by_scans(place: Site) -> int:
    """Contacts that were read by reading the whole table, as far as their sessions have ended."""
    rows = await place.query("select seq_tup_read from pg_stat_user_tables where relname = 'contacts'")
    return int(rows[0][0])


def _run(url: str, script: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute(script.encode())
