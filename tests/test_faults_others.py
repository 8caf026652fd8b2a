"""Somebody else writes the very contacts that an import brings: the account is true for what Rollcall did.

Every write to `contacts` is noted by a trigger, with who made it. What Rollcall says it created are its INSERTs, and
what it says it updated are its UPDATEs of rows that were not this import's, unless it had written that key before.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from faults import oracle
from faults.harness import Site, part_records, site
from faults.invariants import assert_nothing_left, watched
from faults.oracle import File
from rollcall import worker
from rollcall.database import connect
from rollcall.imports import Import

FILE = File("crm", 1, 1200)
NOTED = """
create table oracle.writes (
    what text, who text, email text, own boolean, job uuid, ord bigint generated always as identity);
create function oracle.note_write() returns trigger language plpgsql as $$ begin
    if tg_op = 'INSERT' then
        insert into oracle.writes select tg_op, current_setting('application_name'), email, false, import_id from after;
    elsif tg_op = 'DELETE' then
        insert into oracle.writes select tg_op, current_setting('application_name'), email, false, null from before;
    else
        insert into oracle.writes select tg_op, current_setting('application_name'), a.email,
            b.import_id is not distinct from a.import_id, a.import_id from after a join before b using (id);
    end if;
    return null;
end $$;
create trigger inserted after insert on public.contacts referencing new table as after
    for each statement execute function oracle.note_write();
create trigger updated after update on public.contacts referencing new table as after old table as before
    for each statement execute function oracle.note_write();
create trigger deleted after delete on public.contacts referencing old table as before
    for each statement execute function oracle.note_write();
"""
INSERT = """insert into public.contacts (id, name, email, source, imported_at)
            select gen_random_uuid(), 'Somebody', email, 'crm', now() from unnest(%s::text[]) email
            on conflict (source, email) do nothing"""
UPDATE = "update public.contacts set name = 'Somebody ' || random() where source = 'crm' and email = any(%s)"
DELETE = "delete from public.contacts where source = 'crm' and email = any(%s)"


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    await oracle.instrument(database_url, slow=0.02)
    with part_records(150):
        async with site(database_url, tmp_path) as here:
            await here.query(NOTED)
            yield here


@pytest.fixture
async def at_work(place: Site) -> AsyncIterator[None]:
    stop = asyncio.Event()
    work = asyncio.create_task(worker.run(place.settings(), place.url, stop=stop))
    yield
    stop.set()
    await asyncio.wait_for(work, 30)


def emails() -> list[str]:
    """The keys of the file that somebody else writes to: every third."""
    found = (FILE.contact(number) for number in range(1, FILE.count + 1))
    return sorted({contact[0] for contact in found if contact is not None})[::3]


async def meddle(url: str, over: asyncio.Event, seed: int, done: Counter[str]) -> None:
    """Insert, update and delete those keys in any order, now and then in long transactions, until it is over."""
    chance, keys = random.Random(seed), emails()
    while not over.is_set():
        async with await connect(url, "somebody") as tx:
            await tx.execute("set deadlock_timeout = '50ms'")
            try:
                async with tx.transaction():
                    for _ in range(chance.randint(1, 3)):
                        statement = chance.choice([INSERT, UPDATE, DELETE])
                        await tx.execute(statement.encode(), (chance.sample(keys, 20),))
                        await asyncio.sleep(chance.choice([0, 0.02]))
                done["committed"] += 1
            except psycopg.OperationalError as error:  # a lock that it did not get, a deadlock that it lost
                done[error.sqlstate or ""] += 1
        await asyncio.sleep(0)


async def loaded_among_others(place: Site, seed: int) -> Import:
    over, done = asyncio.Event(), Counter[str]()
    others = [asyncio.create_task(meddle(place.url, over, seed * 2 + each, done)) for each in range(2)]
    try:
        async with watched(place):
            job_id = await place.post(FILE.source, FILE.csv())
            job = await place.final(job_id, 60)
    finally:
        over.set()
        await asyncio.gather(*others)
    assert done["committed"] > 10, "nobody meddled: this test tests nothing"
    return job


async def assert_true(place: Site, job: Import) -> None:
    """The account adds up, and says what this import's sessions wrote; who nobody else wrote to is as in the file."""
    written = await place.query(
        """select count(*) filter (where what = 'INSERT'),
                  count(*) filter (where what = 'UPDATE' and not own and not exists (
                      select from oracle.writes b where b.email = w.email and b.who = w.who and b.ord < w.ord)),
                  count(*) filter (where what = 'DELETE')
             from oracle.writes w where who ~ ('^rollcall:' || %s || ':')""",
        job.id,
    )
    assert written == [(job.created, job.updated, 0)]
    assert (job.state, job.total, job.read) == ("succeeded", FILE.count, FILE.count)
    invalid = [number for number in range(1, FILE.count + 1) if FILE.contact(number) is None]
    assert await place.query("select record from rollcall.rejects order by record") == [(each,) for each in invalid]
    rows = await place.query(
        """select email, name, attributes from public.contacts c where source = 'crm' and not exists
             (select from oracle.writes w where w.email = c.email and who = 'somebody')"""
    )
    there = {email: (name, attributes) for email, name, attributes in rows if name != "Before"}
    wanted: dict[str, tuple[str, dict[str, str]]] = {}
    for contact in (FILE.contact(number) for number in range(1, FILE.count + 1)):
        if contact is not None:
            email, (name, attributes) = contact
            wanted[email] = name, wanted.get(email, ("", {}))[1] | attributes
    touched = {email for (email,) in await place.query("select distinct email from oracle.writes where who='somebody'")}
    assert there == {email: contact for email, contact in wanted.items() if email not in touched}
    assert there
    assert touched
    await assert_nothing_left(place)


@pytest.mark.usefixtures("at_work")
async def test_faults_in_a_vacant_source(place: Site) -> None:
    """The keys were new for sure, until somebody else brought them."""
    await assert_true(place, await loaded_among_others(place, 1))


@pytest.mark.usefixtures("at_work")
async def test_faults_in_a_filled_source(place: Site) -> None:
    """Every second contact of the file is there already, by another name."""
    await place.query(
        """insert into public.contacts (id, name, email, source, imported_at)
           select gen_random_uuid(), 'Before', 'u' || number || '@example.org', 'crm', now()
             from generate_series(400, 1650, 2) number"""
    )
    await place.query("truncate oracle.writes")

    job = await loaded_among_others(place, 2)

    assert min(job.created, job.updated, job.duplicate) > 0
    await assert_true(place, job)
