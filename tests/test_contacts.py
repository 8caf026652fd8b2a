"""The merge, row by row: what becomes of a contact, and what the account says about it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID, uuid4

import pyarrow as pa
import pytest

from rollcall import contact_pages, contacts
from rollcall.contacts import Ids, Outcome
from rollcall.database import Connection, connect

Row = tuple[str, str, str]
QUICKER = """
create function be_quicker() returns trigger language plpgsql as $$ begin
    insert into public.contacts (id, name, email, source, imported_at)
    values (gen_random_uuid(), 'Theirs', 'a@x.org', 'crm', now());
    return null; end $$;
create trigger quicker before insert on public.contacts for each statement when (pg_trigger_depth() = 0)
    execute function be_quicker();
"""


@pytest.fixture
async def tx(database_url: str) -> AsyncIterator[Connection]:
    async with await connect(database_url, "test") as connection:
        await contacts.prepare(connection)
        yield connection


def folded(*rows: Row) -> pa.Table:
    email, name, attributes = zip(*rows, strict=True)
    columns: dict[str, Any] = {"email": email, "name": name, "attributes": attributes}
    return pa.table(columns | {"record": pa.array(range(1, len(rows) + 1), pa.int64())})


async def merge(
    tx: Connection,
    *rows: Row,
    source: str = "crm",
    job: UUID | None = None,
    update: bool = True,
    exclusive: bool = True,
) -> Outcome:
    encoded = contacts.encode(folded(*rows), Ids(0), source=source, import_id=job or uuid4())
    async with tx.transaction():
        return await contacts.upsert(tx, encoded, update=update, exclusive=exclusive)


async def stored(tx: Connection) -> dict[str, tuple[str, dict[str, Any]]]:
    rows = await (await tx.execute("select email, name, attributes from public.contacts")).fetchall()
    return {email: (name, attributes) for email, name, attributes in rows}


async def test_contacts_new_updated_unchanged(tx: Connection) -> None:
    assert await merge(tx, ("a@x.org", "Ann", "{}"), ("b@x.org", "Bob", '{"k":1}')) == Outcome(2, 0, 0, 0, 0)
    again = await merge(tx, ("a@x.org", "Anna", "{}"), ("b@x.org", "Bob", "{}"), ("c@x.org", "Zoë", '{"ü":"\\"\\n"}'))
    assert again == Outcome(created=1, updated=1, unchanged=1, skipped=0, duplicate=0)
    assert await stored(tx) == {"a@x.org": ("Anna", {}), "b@x.org": ("Bob", {"k": 1}), "c@x.org": ("Zoë", {"ü": '"\n'})}


async def test_contacts_attributes_merge_and_blanks_never_erase(tx: Connection) -> None:
    await merge(tx, ("a@x.org", "Ann", '{"phone":"1","company":"X"}'))
    assert (await merge(tx, ("a@x.org", "Ann", '{"phone":"2"}'))).updated == 1
    assert await stored(tx) == {"a@x.org": ("Ann", {"phone": "2", "company": "X"})}


async def test_contacts_a_row_of_the_same_import_is_a_duplicate(tx: Connection) -> None:
    job = uuid4()
    await merge(tx, ("a@x.org", "Ann", "{}"), job=job)
    assert (await merge(tx, ("a@x.org", "Anna", "{}"), job=job)) == Outcome(0, 0, 0, 0, 1)
    assert await stored(tx) == {"a@x.org": ("Anna", {})}


async def test_contacts_skip_leaves_what_is_there(tx: Connection) -> None:
    await merge(tx, ("a@x.org", "Ann", "{}"))
    job = uuid4()
    first = await merge(tx, ("a@x.org", "Anna", "{}"), ("b@x.org", "Bob", "{}"), job=job, update=False)
    assert first == Outcome(created=1, updated=0, unchanged=0, skipped=1, duplicate=0)
    second = await merge(tx, ("b@x.org", "Bobby", "{}"), job=job, update=False)
    assert second == Outcome(0, 0, 0, 0, duplicate=1)
    assert await stored(tx) == {"a@x.org": ("Ann", {}), "b@x.org": ("Bob", {})}


async def test_contacts_new_and_found_in_one_batch(tx: Connection) -> None:
    await merge(tx, ("b@x.org", "Bob", "{}"), ("d@x.org", "Dan", "{}"))
    for exclusive, names in ((True, "ac"), (False, "eg")):
        rows = [(f"{name}@x.org", "New", "{}") for name in names] + [
            ("b@x.org", f"{exclusive}", "{}"),
            ("d@x.org", "Dan", "{}"),
        ]
        assert await merge(tx, *sorted(rows), exclusive=exclusive) == Outcome(2, 1, 1, 0, 0)
        assert await merge(tx, *sorted(rows), exclusive=exclusive, update=False) == Outcome(0, 0, 0, 4, 0)
    assert set(await stored(tx)) == {f"{name}@x.org" for name in "abcdeg"}


async def test_contact_that_comes_just_before(tx: Connection) -> None:
    """Somebody else is quicker with a contact that was missing a moment ago."""
    await tx.execute(QUICKER)
    with pytest.raises(contacts.ConcurrentWrite):
        await merge(tx, ("a@x.org", "Ann", "{}"), exclusive=True)
    with pytest.raises(contacts.ConcurrentWrite):
        await merge(tx, ("a@x.org", "Ann", "{}"), ("b@x.org", "Bob", "{}"), exclusive=False)
    assert await stored(tx) == {}


async def test_contacts_sources_do_not_meet(tx: Connection) -> None:
    await merge(tx, ("a@x.org", "Ann", "{}"), source="one")
    assert (await merge(tx, ("a@x.org", "Anna", "{}"), source="two")).created == 1


async def test_contacts_nothing_at_all(tx: Connection) -> None:
    rows = contacts.encode(folded(("a@x.org", "Ann", "{}")).slice(0, 0), Ids(0), source="crm", import_id=uuid4())
    async with tx.transaction():
        assert await contacts.upsert(tx, rows, update=True, exclusive=True) == Outcome(0, 0, 0, 0, 0)


async def test_contacts_unchanged_writes_nothing(tx: Connection) -> None:
    await merge(tx, ("a@x.org", "Ann", "{}"))
    before = await (await tx.execute("select xmin::text, ctid::text, xmax::text from public.contacts")).fetchone()
    await merge(tx, ("a@x.org", "Ann", "{}"))
    after = await (await tx.execute("select xmin::text, ctid::text, xmax::text from public.contacts")).fetchone()
    assert before == after


async def test_contacts_pages_newest_first(tx: Connection) -> None:
    await merge(tx, *((f"{n}@x.org", "N", "{}") for n in range(5)))
    first, after = await contact_pages.page(
        tx, source="crm", email=None, after=None, offset=0, limit=3, bytes_max=10_000
    )
    rest, end = await contact_pages.page(tx, source="crm", email=None, after=after, offset=0, limit=3, bytes_max=10_000)
    assert [contact.email[0] for contact in first + rest] == ["4", "3", "2", "1", "0"]
    assert end is None
    [only], _ = await contact_pages.page(
        tx, source=None, email="3@X.org", after=None, offset=0, limit=3, bytes_max=10_000
    )
    assert only.record == 4


async def test_contacts_page_of_an_email_reads_little_however_many_contacts_there_are(tx: Connection) -> None:
    """In every version of Postgres; here, of some Sources that have 20,000 contacts each."""
    await tx.execute(
        """insert into public.contacts select gen_random_uuid(), 'N', n || '@x.org', s, '{}', now(), null, n
             from generate_series(1, 20000) n, unnest(array['a', 'b', 'c']) s"""
    )
    await tx.execute("analyze public.contacts")
    found, _ = await contact_pages.page(
        tx, source=None, email="77@X.org", after=None, offset=0, limit=9, bytes_max=10_000
    )
    assert sorted(contact.source for contact in found) == ["a", "b", "c"]
    values = {"email": "77@x.org", "after": None, "limit": 9, "offset": 0}
    cursor = await tx.execute("explain (analyze, buffers, format json) " + contact_pages.PAGE_OF_EMAIL, values)
    [[[plan]]] = await cursor.fetchall()
    assert plan["Plan"]["Shared Hit Blocks"] + plan["Plan"]["Shared Read Blocks"] < 100


def test_contacts_ids_rise_and_are_version_7() -> None:
    ids = Ids(1)
    data = ids.take(2) + ids.take(1)
    three = [UUID(bytes=data[at : at + 16]) for at in (0, 16, 32)]
    assert sorted(three) == three
    assert {each.version for each in three} == {7}
