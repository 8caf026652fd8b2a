"""The two sides of every comparison: Rollcall as its users run it, and psql as its users write it.

Each loads into a database of its own, cloned from one that Rollcall's migrations made, on the same server. Nothing here
measures, and nothing that loads cpu_slots the result.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import orjson
import psycopg
from psycopg import sql

from data import SOURCE
from measure import Server
from rollcall import migrations
from rollcall.client import OPEN, Client
from rollcall.contacts import COLUMNS
from rollcall.embedded import programs

READY_SECONDS = 30.0
SAID_SECONDS = 5.0
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


class WrongResult(Exception):
    """One side did not load what it should have."""


@dataclass(frozen=True)
class Service:
    """A running API and worker; their process ids; the folder of their logs."""

    url: str
    heads: dict[str, int]
    folder: Path

    def said(self, job: dict[str, Any]) -> dict[str, Any]:
        """What the worker's log says of an import that has succeeded; and its `loaders`."""
        job_id, end = job["jobId"].encode(), time.monotonic() + SAID_SECONDS
        while time.monotonic() < end:
            for line in (self.folder / "worker.log").read_bytes().splitlines():
                if b'"import.succeeded"' in line and job_id in line:
                    return dict(orjson.loads(line)) | {"loaders": job["plan"]["loaders"]}
            time.sleep(0.01)
        raise WrongResult(f"The worker's log does not say that {job['jobId']} has succeeded.")


@contextmanager
def databases(server: Server, server_url: str, *names: str) -> Iterator[list[str]]:
    """New databases with Rollcall's tables; their URLs."""
    if not server.execute("select 1 from pg_database where datname = 'template'").fetchone():
        server.execute("create database template")
        asyncio.run(migrations.migrate(_url(server_url, "template")))
    for name in names:
        server.execute(sql.SQL("create database {} template template").format(sql.Identifier(name)))
    try:
        yield [_url(server_url, name) for name in names]
    finally:
        for name in names:
            server.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


@contextmanager
def service(url: str, folder: Path, *roles: str, **settings: str) -> Iterator[Service]:
    """`rollcall api` and `rollcall worker` (or only some `roles`), as `rollcall up` runs them; what they store is gone
    at the end."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children: dict[str, subprocess.Popen[bytes]] = {}
    with tempfile.TemporaryDirectory(dir=folder, prefix="service-") as name:
        environment = _environment(url, Path(name)) | {"PORT": str(port), "LOG_FORMAT": "json"} | settings
        try:
            for role in roles or ("api", "worker"):
                with (Path(name) / f"{role}.log").open("ab") as log:
                    children[role] = subprocess.Popen(_rollcall(role), env=environment, stdout=log, stderr=log)
            running = Service(
                f"http://127.0.0.1:{port}", {role: child.pid for role, child in children.items()}, Path(name)
            )
            _wait_until_ready(running, children)
            yield running
        finally:
            for child in children.values():
                child.terminate()
            for child in children.values():
                child.wait()


@asynccontextmanager
async def sent(running: Service, file: Path) -> AsyncGenerator[asyncio.Task[dict[str, Any]], None]:
    """POST a file; the task that ends with its import, so that something can be done beside it."""
    async with Client(running.url) as client:
        posted = time.time()
        job_id = await client.send(file, source=SOURCE)

        async def follow() -> dict[str, Any]:
            job = await client.show(job_id)
            while job["state"] in OPEN:
                job = await client.show(job_id, wait=10, since=job)
            return job | {"posted": posted}

        following = asyncio.create_task(follow())
        yield following
        await following


def send(running: Service, file: Path) -> dict[str, Any]:
    """POST a file and wait until its import is final; the import."""

    async def story() -> dict[str, Any]:
        async with sent(running, file) as following:
            return await following

    return asyncio.run(story())


def finished(job: dict[str, Any]) -> float:
    """When an import ended, seconds since the epoch: a client that waits hears it up to a quarter of a second later."""
    return datetime.fromisoformat(job["finishedAt"]).timestamp()


def took(job: dict[str, Any]) -> float:
    """Seconds from the POST until its import has ended."""
    return float(finished(job) - job["posted"])


def command(url: str, folder: Path, file: Path) -> None:
    """`rollcall import`, everything in one process."""
    with tempfile.TemporaryDirectory(dir=folder, prefix="command-") as name:
        done = subprocess.run(
            [*_rollcall("import"), str(file), "--source", SOURCE],
            env=_environment(url, Path(name)),
            cwd=name,
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


def settle(url: str) -> None:
    """What autovacuum would do within minutes, so that it does not do it while the clock runs."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("vacuum (analyze) public.contacts")


def _psql(url: str, script: str, rows: Path) -> None:
    folder, _ = programs.find(None)
    script = script.replace("pstdin", f"'{rows}'")
    command = [str(folder / "psql"), "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", url]
    subprocess.run(command, input=script, text=True, check=True)


def _rollcall(role: str) -> list[str]:
    return [sys.executable, "-m", "rollcall", role]


def _environment(url: str, folder: Path) -> dict[str, str]:
    return os.environ | {"DATABASE_URL": url, "DATA_DIR": str(folder)}


def _wait_until_ready(running: Service, children: dict[str, subprocess.Popen[bytes]]) -> None:
    path = "/health" if "worker" in children else "/health/live"
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and all(child.poll() is None for child in children.values()):
        try:
            if httpx.get(running.url + path, trust_env=False).is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    logs = "\n".join(path.read_text() for path in running.folder.glob("*.log"))
    raise WrongResult(f"The service did not start:\n{logs}")


def _url(server_url: str, name: str) -> str:
    return urlsplit(server_url)._replace(path=f"/{name}").geturl()
