"""The two sides of every comparison: Rollcall as its users run it, and psql as its users write it.

Both load into a database of their own, cloned from one that Rollcall's migrations made, on the same server. Nothing
here measures; every function that loads checks nothing either: `same` does, when the clock has stopped.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
from psycopg import sql

from data import SOURCE, Files
from measure import Server
from rollcall import migrations
from rollcall.client import OPEN, Client
from rollcall.contacts import COLUMNS
from rollcall.embedded import programs

READY_SECONDS = 30.0
UPSERT = f"""
begin;
create temp table incoming (like public.contacts) on commit drop;
\\copy incoming ({COLUMNS}) from pstdin
insert into public.contacts select * from incoming
    on conflict (source, email) do update
       set name = excluded.name, attributes = contacts.attributes || excluded.attributes,
           imported_at = excluded.imported_at, import_id = excluded.import_id, record = excluded.record;
commit;
"""
DIGEST = """
select count(*),
       sum(hashtextextended(concat_ws(e'\\t', source, email, name, attributes::text, record::text), 0)::numeric)
  from public.contacts
"""


class WrongResult(Exception):
    """One side did not load what it should have."""


@dataclass(frozen=True)
class Service:
    """A running API and worker; their process ids."""

    url: str
    heads: dict[str, int]


@contextmanager
def databases(server: Server, server_url: str, *names: str) -> Iterator[list[str]]:
    """New databases with Rollcall's tables; their URLs."""
    if not server.execute("select 1 from pg_database where datname = 'template'").fetchone():
        server.execute("create database template")
        asyncio.run(migrations.migrate(_url(server_url, "template")))
    for name in names:
        server.execute(sql.SQL("create database {} template template").format(sql.Identifier(name)))
    yield [_url(server_url, name) for name in names]
    for name in names:
        server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextmanager
def service(url: str, folder: Path) -> Iterator[Service]:
    """`rollcall api` and `rollcall worker`, as `rollcall up` runs them; their logs in `folder`."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = _environment(url, folder) | {"PORT": str(port)}
    children: list[subprocess.Popen[bytes]] = []
    try:
        for role in ("api", "worker"):
            with (folder / f"{role}.log").open("ab") as log:
                children.append(subprocess.Popen(_rollcall(role), env=environment, stdout=log, stderr=log))
        here = f"http://127.0.0.1:{port}"
        _wait_until_healthy(here, children)
        yield Service(here, {"api": children[0].pid, "worker": children[1].pid})
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()


def send(running: Service, file: Path) -> dict[str, Any]:
    """POST a file and wait until its import is final; the import."""

    async def story() -> dict[str, Any]:
        async with Client(running.url) as client:
            job_id = await client.send(file, source=SOURCE)
            job = await client.show(job_id)
            while job["state"] in OPEN:
                job = await client.show(job_id, wait=10, since=job)
            return job

    return asyncio.run(story())


def command(url: str, folder: Path, file: Path) -> None:
    """`rollcall import`, everything in one process."""
    done = subprocess.run(
        [*_rollcall("import"), str(file), "--source", SOURCE],
        env=_environment(url, folder),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise WrongResult(f"rollcall import ended with {done.returncode}: {done.stdout}{done.stderr}")


def copy(url: str, rows: Path) -> None:
    """psql's `\\copy` of the clean rows, one stream."""
    _psql(url, f"\\copy public.contacts ({COLUMNS}) from pstdin", rows)


def upsert(url: str, rows: Path) -> None:
    """What one writes by hand to bring the same rows in again: `\\copy` aside, then one upsert."""
    _psql(url, UPSERT, rows)


def settle(*urls: str) -> None:
    """What autovacuum would do within minutes, so that it does not do it while the clock runs."""
    for url in urls:
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute("vacuum (analyze) public.contacts")


def same(files: Files, *urls: str) -> None:
    """All of these databases hold the contacts that the clean rows are. Raises WrongResult."""
    found = []
    for url in urls:
        with psycopg.connect(url) as connection:
            found.append(connection.execute(DIGEST).fetchone())
    if len(set(found)) != 1 or found[0] is None or found[0][0] != files.created:
        raise WrongResult(f"The contacts differ: {files.created} expected, {found} found.")


def accounted(files: Files, job: dict[str, Any], *, again: bool) -> None:
    """The import says what it should. `again`: of a repeated address the older record differs from what is there, so
    it updates, and the newer one is a duplicate. Raises WrongResult."""
    counts = job["counts"]
    old = counts["updated"] + counts["unchanged"]
    right = (
        job["state"] == "succeeded"
        and (counts["read"], counts["rejected"], counts["duplicate"]) == (files.read, files.rejected, files.duplicate)
        and (counts["created"], old) == ((0, files.created) if again else (files.created, 0))
        and counts["updated"] <= files.duplicate
    )
    if not right:
        raise WrongResult(f"The account is wrong: {job} for {files}")


def _psql(url: str, script: str, rows: Path) -> None:
    folder, _ = programs.find(None)
    script = script.replace("pstdin", f"'{rows}'")
    command = [str(folder / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", url]
    subprocess.run(command, input=script, text=True, check=True)


def _rollcall(role: str) -> list[str]:
    return [sys.executable, "-m", "rollcall", role]


def _environment(url: str, folder: Path) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": url, "DATA_DIR": str(folder / "data")}


def _wait_until_healthy(here: str, children: list[subprocess.Popen[bytes]]) -> None:
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and all(child.poll() is None for child in children):
        try:
            if httpx.get(f"{here}/health", trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise WrongResult("The service did not start; its logs say why.")


def _url(server_url: str, name: str) -> str:
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()
