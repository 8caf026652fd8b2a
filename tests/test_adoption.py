"""A contacts table that was there before: adopted when it fits, and otherwise named and left alone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from faults.harness import site
from rollcall import contact_pages, migrations
from rollcall.cli import app
from rollcall.database import Incompatible, connect
from rollcall.errors import Unavailable
from rollcall.imports import Counts
from rollcall.migrations import migrate
from service import rows

BRIEF = """create table contacts (
    id uuid primary key default gen_random_uuid(), name text not null, email text not null, source text not null,
    imported_at timestamptz default now())"""
SHAPES = {
    "the brief's": BRIEF,
    "lengths, no time zone, no key": """create table contacts (id uuid default gen_random_uuid(), name varchar(255),
        email varchar(255), source varchar(100), imported_at timestamp default now())""",
    "another id": """create table contacts (old_id bigint generated always as identity primary key, name text,
        email text, source text, imported_at timestamptz, tenant text not null default 'us')""",
    "no more than it must": "create table contacts (name text, email text, source text)",
    "citext": """create extension citext; create table contacts (id uuid primary key default gen_random_uuid(),
        name citext not null, email citext not null, source citext not null, imported_at timestamptz)""",
    "other collations": """create table contacts (id uuid primary key default gen_random_uuid(),
        name text collate "C", email text collate "POSIX", source text collate "C", unique (source, email))""",
    "attributes of its own": BRIEF[:-1] + ", attributes jsonb, record bigint, import_id uuid)",
}
FILL = "insert into contacts (name, email, source) values ('Ann', 'ann@x.org', 'crm'), ('Bob', 'bob@x.org', 'crm')"
IN_THE_WAY = {
    "missing": ("alter table contacts rename email to mail", "email is missing"),
    "type": ("alter table contacts drop id, add id bigint generated always as identity", "id is bigint, not uuid"),
    "no_default": (
        "alter table contacts add tenant text not null default 'us'; alter table contacts alter tenant drop default",
        "tenant is not null and has no default",
    ),
    "view": ("create view people as select email from contacts", "these read it: people"),
    "unique": ("create unique index one on contacts (lower(email))", "index one allows a contact only once"),
    "null": (
        "alter table contacts alter name drop not null; insert into contacts (email, source) values ('a', 'b')",
        "no name",
    ),
    "not_a_table": (
        "alter table contacts rename to people; create view contacts as table people",
        "not an ordinary table",
    ),
}


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def everything(url: str) -> list[Any]:
    """What a migration could have changed."""
    return [
        rows(url, "select md5(string_agg(c::text, '|' order by c::text)), count(*) from contacts c"),
        rows(url, "select table_schema, table_name, column_name, data_type, is_nullable, column_default, collation_name"
                  " from information_schema.columns where table_schema in ('public', 'rollcall') order by 1, 2, 3"),
        rows(url, "select indexdef from pg_indexes where schemaname = 'public' order by 1"),
    ]  # fmt: skip


async def refused(url: str, **options: Any) -> dict[str, str]:
    """Code and message of everything that stands in the way, after which nothing is changed."""
    before = everything(url)
    with pytest.raises(Incompatible) as found:
        await migrate(url, **options)
    assert everything(url) == before
    assert "@" not in str(found.value.issues)
    return {issue["code"]: issue["message"] for issue in found.value.issues or []} or {"": str(found.value)}


@pytest.mark.parametrize("shape", SHAPES)
async def test_adopt_what_fits_is_adopted(empty_database_url: str, tmp_path: Path, shape: str) -> None:
    url = empty_database_url
    execute(url, SHAPES[shape], FILL)

    await migrate(url)

    columns = """select column_name, data_type, is_nullable, collation_name from information_schema.columns
                  where table_name = 'contacts' and column_name = any (array['id', 'name', 'email', 'source',
                        'attributes', 'imported_at', 'import_id', 'record']) order by 1"""
    assert rows(url, columns) == [
        ("attributes", "jsonb", "NO", None),
        ("email", "text", "NO", "C"),
        ("id", "uuid", "NO", None),
        ("import_id", "uuid", "YES", None),
        ("imported_at", "timestamp with time zone", "NO", None),
        ("name", "text", "NO", None),
        ("record", "bigint", "YES", None),
        ("source", "text", "NO", "C"),
    ]
    assert len(rows(url, "select 1 from pg_index where indrelid = 'contacts'::regclass and indisunique")) == 2
    async with site(url, tmp_path) as place:
        job = await place.load("crm", b"name,email,phone\nAnn,ann@x.org,\nBo,bob@x.org,1\nCy,cy@x.org,\n")
    assert (job.state, job.counts) == ("succeeded", Counts(read=3, created=1, updated=1, unchanged=1))
    async with await connect(url, "test") as tx:
        found, _ = await contact_pages.page(
            tx, source="crm", email=None, after=None, offset=0, limit=10, bytes_max=10_000
        )
    assert {(each.name, each.imported_at.tzinfo is None) for each in found} == {
        ("Ann", False),
        ("Bo", False),
        ("Cy", False),
    }
    assert await migrate(url) == []


@pytest.mark.parametrize("code", IN_THE_WAY)
async def test_adopt_what_does_not_fit_is_named(empty_database_url: str, code: str) -> None:
    statement, message = IN_THE_WAY[code]
    execute(empty_database_url, BRIEF, FILL, statement)
    problems = await refused(empty_database_url)
    assert next(iter(problems)) == code
    assert message in problems[code]


async def test_adopt_everything_that_does_not_fit_is_named_at_once(empty_database_url: str) -> None:
    execute(empty_database_url, BRIEF, *(IN_THE_WAY[code][0] for code in ("type", "no_default", "view", "unique")))
    assert list(await refused(empty_database_url)) == ["view", "type", "no_default", "unique"]


@pytest.mark.parametrize("force", [True, False])
async def test_adopt_row_security_is_named(empty_database_url: str, force: bool) -> None:
    """Where it would hide contacts from imports; the owner is not concerned."""
    url = empty_database_url
    execute(
        url,
        "do $$ begin create role rollcall_owner; exception when duplicate_object then null; end $$",
        BRIEF,
        "alter table contacts enable row level security",
        "alter table contacts owner to rollcall_owner",
        "do $$ begin execute format('grant create on database %I to rollcall_owner', current_database()); end $$",
        "grant all on schema public to rollcall_owner",
    )
    if force:
        execute(url, "alter table contacts force row level security")
    as_owner = psycopg.conninfo.make_conninfo(url, options="-c role=rollcall_owner")
    if not force:
        assert await migrate(as_owner)
        return
    problems = await refused(as_owner)
    assert list(problems) == ["row_security"]
    assert "BYPASSRLS" in problems["row_security"]


MESSY = """
insert into contacts (id, name, email, source, imported_at)
select lpad(n::text, 32, '0')::uuid, 'n' || n, 'u' || n || '@example.org', 'crm',
       timestamptz '2026-01-01' + n * interval '1 s' from generate_series(1, 100000) n;
insert into contacts (id, name, email, source, imported_at)
select lpad((200000 + n)::text, 32, '0')::uuid, 'newer',
       case n % 2 when 0 then 'U' else E'\\u00a0 u' end || n || '@Example.org ', 'crm',
       timestamptz '2027-01-01' from generate_series(1, 300) n;
insert into contacts (id, name, email, source, imported_at)
select lpad((300000 + n)::text, 32, '0')::uuid, 'older', 'u' || n || '@example.org', 'crm', null
  from generate_series(250, 260) n;
insert into contacts (name, email, source) values ('elsewhere', 'u1@example.org', 'shop')
"""


async def test_adopt_duplicates_are_named_and_left_alone(empty_database_url: str) -> None:
    execute(empty_database_url, BRIEF, MESSY)
    problems = await refused(empty_database_url)
    assert list(problems) == ["duplicate", "spelling"]
    assert problems["duplicate"].startswith("311 contacts have the source and email of a newer one.")
    assert problems["spelling"].startswith("300 contacts have capitals or blanks in their email.")
    named = [f"00000000-0000-0000-0000-0000000000{n:02}" for n in range(1, 21)]
    assert problems["duplicate"].endswith(f": {', '.join(named)}, …")
    assert all("--keep-newest" in message for message in problems.values())


async def test_adopt_keep_newest(empty_database_url: str, tmp_path: Path) -> None:
    url = empty_database_url
    execute(url, BRIEF, MESSY)

    await migrate(url, keep_newest=True)

    assert rows(url, "select source, count(*), count(distinct email) from contacts group by source order by 1") == [
        ("crm", 100_000, 100_000),
        ("shop", 1, 1),
    ]
    assert rows(url, "select count(*) from contacts where email !~ '^u[0-9]+@example.org$'") == [(0,)]
    assert rows(url, "select count(*), min(right(id::text, 6)) from contacts where name = 'newer'") == [(300, "200001")]
    async with site(url, tmp_path) as place:
        job = await place.load("crm", b"name,email\nnewer,u7@example.org\nnew,u0@example.org\n")
    assert job.counts == Counts(read=2, created=1, unchanged=1)


async def test_adopt_keep_newest_changes_nothing_when_something_else_is_in_the_way(empty_database_url: str) -> None:
    url = empty_database_url
    execute(url, BRIEF, FILL, FILL, "create table calls (contact uuid references contacts)")
    execute(url, "insert into calls select id from contacts")
    assert "foreign key" in (await refused(url, keep_newest=True))[""]
    execute(url, "drop table calls", IN_THE_WAY["null"][0])
    assert list(await refused(url, keep_newest=True)) == ["null"]


async def test_adopt_a_table_that_others_use(empty_database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migrations, "LOCK_SECONDS", 0.2)
    execute(empty_database_url, BRIEF)
    with psycopg.connect(empty_database_url) as other:
        other.execute(FILL.encode())
        with pytest.raises(Unavailable, match="nothing was changed"):
            await migrate(empty_database_url)
    assert await migrate(empty_database_url)


def test_adopt_on_the_command_line(empty_database_url: str) -> None:
    execute(empty_database_url, BRIEF, FILL, FILL)
    environment = {"DATABASE_URL": empty_database_url}
    told = CliRunner().invoke(app, ["migrate"], env=environment)
    assert told.exit_code == 1
    assert "2 contacts have the source and email of a newer one. `rollcall migrate --keep-newest`" in told.stderr
    done = CliRunner().invoke(app, ["migrate", "--keep-newest"], env=environment)
    assert (done.exit_code, done.stdout.splitlines()[0]) == (0, "applied 0001_spine.sql")
    assert "contacts.adopted" in done.stderr
    assert asyncio.run(migrate(empty_database_url)) == []
