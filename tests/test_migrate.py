"""The migrations: each once, whole or not at all, and the schema they come to."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

from rollcall.database import Incompatible
from rollcall.embedded import programs
from rollcall.errors import DatabaseDown
from rollcall.migrations import migrate
from service import rows, until

SCHEMA = Path(__file__).parents[1] / "docs" / "schema.sql"
REFRESH = "WRITE_SCHEMA=1 .venv/bin/pytest tests/test_migrate.py -k schema"
WAIT = """
create function wait() returns event_trigger language plpgsql as $$ begin
    perform pg_advisory_xact_lock_shared(1) from pg_event_trigger_ddl_commands() where object_identity = '{}';
end $$;
create event trigger wait on ddl_command_end execute function wait()
"""


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


async def test_migrate_every_file_is_applied_once(empty_database_url: str) -> None:
    applied = await migrate(empty_database_url)
    assert applied[0] == "0001_spine.sql"
    assert applied == sorted(applied)
    assert await migrate(empty_database_url) == []


async def test_migrate_many_at_once(empty_database_url: str) -> None:
    """As when several services start together."""
    applied = await asyncio.gather(*(migrate(empty_database_url) for _ in range(4)))
    assert len([each for each in applied if each]) == 1


async def test_migrate_an_applied_file_that_has_changed_is_refused(database_url: str) -> None:
    execute(database_url, "update rollcall.migrations set sha256 = 'of another text' where name like '0001%'")
    with pytest.raises(Incompatible, match=r"0001_spine\.sql has changed"):
        await migrate(database_url)


async def test_migrate_a_newer_schema_is_refused(database_url: str) -> None:
    execute(database_url, "insert into rollcall.migrations (name, sha256) values ('9999_later.sql', '')")
    with pytest.raises(Incompatible, match=r"newer than this version .*9999_later\.sql.* Upgrade"):
        await migrate(database_url)


async def test_migrate_a_user_who_may_not_is_told(empty_database_url: str) -> None:
    url = as_nobody(empty_database_url)
    with pytest.raises(Incompatible, match="permission denied for database"):
        await migrate(url)


def as_nobody(url: str) -> str:
    """The URL for a user without any rights."""
    execute(url, "do $$ begin create role rollcall_nobody; exception when duplicate_object then null; end $$")
    return psycopg.conninfo.make_conninfo(url, options="-c role=rollcall_nobody")


async def test_migrate_a_database_that_is_not_there(cluster: str) -> None:
    with pytest.raises(DatabaseDown):
        await migrate(psycopg.conninfo.make_conninfo(cluster, dbname="nowhere"))


@pytest.mark.parametrize("place", ["rollcall.migrations", "public.contacts", "rollcall.rejects"])
async def test_migrate_killed_in_the_middle(empty_database_url: str, place: str) -> None:
    """A process that dies by kill -9 while it migrates leaves nothing, and the next one does it all."""
    url = empty_database_url
    execute(url, WAIT.format(place))
    migrating = "import asyncio, sys; from rollcall.migrations import migrate; asyncio.run(migrate(sys.argv[1]))"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(1)")
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", migrating, url)
        waiting = "select 1 from pg_stat_activity where wait_event = 'advisory' and datname = current_database()"
        await until(lambda: bool(connection.execute(waiting.encode()).fetchall()) or process.returncode is not None)
        assert process.returncode is None
        process.kill()
        await process.wait()
        connection.execute("select pg_advisory_unlock(1)")

    applied = await migrate(url)

    assert applied[0] == "0001_spine.sql"
    assert len(rows(url, "select name from rollcall.migrations")) == len(applied)


def test_migrate_the_schema_is_the_one_that_is_written_down(database_url: str, bin_dir: Path | None) -> None:
    folder, _ = programs.find(bin_dir)
    command: list[str | Path] = [
        folder / "pg_dump",
        "--schema-only",
        "--no-owner",
        "--no-privileges",
        "--dbname",
        database_url,
    ]
    dump = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    kept = [
        re.sub(r"CONSTRAINT \w+_not_null ", "", line)  # of a renamed column, as Postgres 18 shows it
        for line in dump.splitlines()
        if not re.match(r"--|SET |SELECT pg_catalog|\\|$|(CREATE SCHEMA public)", line)
    ]
    text = f"-- The schema as pg_dump says it. Written by: {REFRESH}\n" + "".join(f"{line}\n" for line in kept)
    if os.environ.get("WRITE_SCHEMA"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text, f"If this change is meant: {REFRESH}"
