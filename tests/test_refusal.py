"""A table contacts that does not take what it is given: the import ends with the true reason, and no count is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from faults.harness import Site, part_records, site
from rollcall.loading import retries

CSV = b"name,email\n" + b"".join(b"Ann,a%d@x.org\n" % at for at in range(40))
CHANGED = CSV.replace(b"Ann", b"Bea")
TRIGGER = """
create function meddle() returns trigger language plpgsql as $$ begin {} end $$;
create trigger meddling {} on public.contacts for each row execute function meddle();
"""
LEAVE_OUT = "if new.email = 'a7@x.org' then return null; end if; return new;"
REWRITE = "new.email := 'x' || new.email; return new;"
TAKE_AWAY = "delete from public.contacts where id = new.id and email = 'a7@x.org'; return null;"


@pytest.fixture
async def place(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Site]:
    monkeypatch.setattr(retries, "PAUSE_SECONDS", (0.0, 0.01))
    with part_records(10):
        async with site(database_url, tmp_path) as here:
            yield here


@pytest.mark.parametrize(
    ("body", "when"),
    [
        (LEAVE_OUT, "before insert"),
        (LEAVE_OUT, "before update"),
        (REWRITE, "before insert"),
        (REWRITE, "before update"),
        (TAKE_AWAY, "after insert"),
        ("raise exception 'no'; return new;", "before insert or update"),
    ],
)
@pytest.mark.parametrize("source_is_empty", [True, False])
async def test_refusal_trigger_that_meddles_ends_the_import(
    place: Site, body: str, when: str, *, source_is_empty: bool
) -> None:
    if "update" in when and source_is_empty:
        await place.load("crm", CSV)
    elif not source_is_empty:
        await place.load("crm", CSV if "update" in when else CSV[:40])
    await place.query(TRIGGER.format(body, when))

    job = await asyncio.wait_for(place.load("crm", CHANGED), 30)

    assert (job.state, job.error_code) == ("failed", "CONTACTS_REFUSED")
    assert "trigger" in str(job.error_message)
    assert "a7" not in str(job.error_message)
    created = await place.query("select count(*) from public.contacts where import_id = %s", job.id)
    assert created == [(job.created + job.updated,)]


async def test_refusal_trigger_that_only_changes_names_is_no_fault(place: Site) -> None:
    await place.query(TRIGGER.format("new.name := upper(new.name); return new;", "before insert or update"))

    first, second = await place.load("crm", CSV), await place.load("crm", CHANGED)

    assert (first.state, first.created, second.state, second.updated) == ("succeeded", 40, "succeeded", 40)


async def test_refusal_unique_index_that_is_gone_ends_the_import(place: Site) -> None:
    await place.load("crm", CSV)
    await place.query("alter table public.contacts drop constraint contacts_source_email_key")

    job = await asyncio.wait_for(place.load("crm", CHANGED), 30)

    assert (job.state, job.error_code) == ("failed", "CONTACTS_REFUSED")
    assert "unique index on (source, email)" in str(job.error_message)


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("alter table public.contacts add check (email <> 'a7@x.org')", "constraint"),
        ("create unique index on public.contacts (lower(name))", "constraint"),
        ("alter table public.contacts drop column record", "column"),
        ("create rule meddling as on update to public.contacts do instead nothing", "rule"),
    ],
)
async def test_refusal_table_that_refuses_ends_the_import(place: Site, statement: str, why: str) -> None:
    await place.load("crm", CSV[:24])
    await place.query(statement)

    job = await asyncio.wait_for(place.load("crm", CHANGED), 30)

    assert (job.state, job.error_code) == ("failed", "CONTACTS_REFUSED")
    assert why in str(job.error_message)
    assert "SQLSTATE" in str(job.error_message)


async def test_refusal_contention_that_goes_on_is_said_as_such(place: Site) -> None:
    """Somebody is always quicker with one of the contacts, and takes it back at once."""
    await place.query(
        """create function be_quicker() returns trigger language plpgsql as $$ begin
               insert into public.contacts (id, name, email, source, imported_at)
               values (gen_random_uuid(), 'Theirs', 'a7@x.org', 'crm', now());
               return null; end $$;
           create trigger quicker before insert on public.contacts for each statement when (pg_trigger_depth() = 0)
               execute function be_quicker()"""
    )
    await place.post("crm", CHANGED)

    with part_records(40):
        job = await asyncio.wait_for(place.carry(await place.claim(), loaders=1), 30)

    assert (job.state, job.error_code) == ("failed", "CONTACTS_CONTENDED")
