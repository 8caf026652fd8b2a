"""`rollcall import`: bring one file in and account for it, in this process (`here`) or through a service (`there`).

Both are one story: send, follow, account, and the file of Rejects. Ctrl-C cancels the import; what is committed stays,
and is counted. Here the file is stored and loaded as by the service: after a crash the next command or service that
uses the same database goes on with it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import tempfile
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

import typer

from rollcall import control, embedded, export, imports, telemetry, worker
from rollcall.cli import show
from rollcall.cli.files import NewFile
from rollcall.cli.up import database as own_database
from rollcall.client import OPEN, Client, blocks, length_of
from rollcall.errors import EmbeddedInUse, RollcallError, Unavailable
from rollcall.imports import FINAL, Import
from rollcall.migrations import migrate
from rollcall.options import Options
from rollcall.pool import Pool
from rollcall.receive import Limits, receive
from rollcall.settings import Settings
from rollcall.storage import Store, open_store
from rollcall.uploads import Incoming

PAUSE_SECONDS = 0.25
LOOK_SECONDS = 0.25
"""Between two looks at an import that this process runs; its end is noticed at once."""
PATIENCE_SECONDS = 60.0
"""How long a service or a database may be away while an import is followed."""


class Interrupted(RollcallError):
    """Interrupted before the file was whole; nothing was imported."""

    code = "INTERRUPTED"


class LocalClient:
    """What a Client does, done in this process."""

    def __init__(self, database: Pool, store: Store, limits: Limits, working: asyncio.Task[None]) -> None:
        self._database, self._store, self._limits, self._working = database, store, limits, working

    async def send(self, file: Path, *, source: str, options: dict[str, str], sent: Callable[[int], None]) -> str:
        wish = (source, Options.parse(options))
        job_id = await receive(
            blocks(file, length_of(file), sent),
            database=self._database,
            store=self._store,
            wish=lambda: wish,
            segment_bytes=None,
            incoming=Incoming(name=file.name),
            limits=self._limits,
        )
        return str(job_id)

    async def show(self, job_id: str, *, wait: float = 0, since: dict[str, Any] | None = None) -> dict[str, Any]:
        if since is not None:
            await asyncio.wait([self._working], timeout=min(wait, LOOK_SECONDS))
        if self._working.done():
            self._working.result()  # raises what the worker died of
        async with self._database.session() as tx:
            job = await imports.show(tx, UUID(job_id))
        assert job is not None
        return _shown(job)

    async def cancel(self, job_id: str) -> dict[str, Any]:
        await control.cancel(self._database, UUID(job_id))
        return await self.show(job_id)

    async def first_rejects(self, job_id: str, limit: int) -> list[dict[str, Any]]:
        async with self._database.session() as tx:
            found, _ = await export.page(tx, UUID(job_id), after=0, limit=limit)
        return found

    async def rejects(self, job_id: str, form: export.Form) -> AsyncGenerator[bytes, None]:
        async with self._database.session() as tx:
            found = await export.find(tx, UUID(job_id))
        async with aclosing(
            export.file(self._database, self._store, found, form, cpu_slots=asyncio.Semaphore())
        ) as blocks_:
            async for block in blocks_:
                yield block


def _shown(job: Import) -> dict[str, Any]:
    """What of the service's answer is shown to people."""
    rate, eta = job.pace
    return {
        "source": job.source,
        "state": job.state,
        "counts": asdict(job.counts),
        "unprocessed": job.total - job.read if job.state in FINAL and job.total is not None else None,
        "bytes": {"read": job.position, "total": job.bytes_total},
        "sameFileAs": job.same_file_as,
        "rate": rate,
        "eta": eta,
        "ahead": job.ahead,
        "error": {"code": job.error_code, "message": job.error_message or ""} if job.error_code else None,
        "plan": job.plan,
    }


def import_locally(file: Path, source: str, options: dict[str, str], settings: Settings) -> bool:
    """Import the file with a worker of this process's own; whether it succeeded. Raises what stands in the way."""
    Options.parse(options)
    telemetry.configure("console")
    logging.getLogger().setLevel(logging.ERROR)  # progress is shown, not logged

    async def run(url: str) -> bool:
        await migrate(url)
        stop = asyncio.Event()
        working = asyncio.create_task(worker.run(settings, url, stop=stop))
        try:
            async with Pool(url) as database:
                store = open_store(settings.data_dir, reserve=embedded.reserve(settings.data_dir, url))
                limits = Limits(arriving=settings.max_arriving_uploads, queued=settings.max_queued_imports)
                return await import_file(file, source, options, LocalClient(database, store, limits, working))
        finally:
            stop.set()
            await working

    try:
        with own_database(settings) as url:
            return asyncio.run(run(url))
    except EmbeddedInUse as error:
        raise EmbeddedInUse(
            f"{error} If that is `rollcall up`, send the file to it: add --to http://127.0.0.1:{settings.port}"
        ) from error


def import_by_service(file: Path, source: str, options: dict[str, str], url: str, key: str | None) -> bool:
    """Import the file through the service at `url`; whether it succeeded. Raises ServiceDown, ServiceRefused."""

    async def run() -> bool:
        async with Client(url, key) as service:
            return await import_file(file, source, options, service)

    return asyncio.run(run())


async def import_file(file: Path, source: str, options: dict[str, str], service: Client | LocalClient) -> bool:
    began, length = time.monotonic(), length_of(file)
    with show.progress() as moved:
        try:
            job_id = await service.send(
                file, source=source, options=options, sent=lambda count: moved("storing", count, length, "")
            )
        except asyncio.CancelledError:
            raise Interrupted from None
        try:
            job = await _follow(service, job_id, moved)
        except asyncio.CancelledError:
            job = await service.cancel(job_id)
    show.account(file.name, job, time.monotonic() - began)
    if job["state"] == "cancelled":
        typer.echo("Cancelled. What is counted above stays; import the file again to bring in the rest.")
    if rejected := job["counts"]["rejected"]:
        show.rejects(await service.first_rejects(job_id, show.REJECTS_SHOWN), rejected)
        typer.echo(f"\nAll of them: {await _keep(file, service.rejects(job_id, 'csv'))}")
    return bool(job["state"] == "succeeded")


async def _follow(service: Client | LocalClient, job_id: str, moved: show.Moved) -> dict[str, Any]:
    """The import once it is final."""
    job, heard = None, time.monotonic()
    while job is None or job["state"] in OPEN:
        try:
            job = await service.show(job_id, wait=show.LINE_SECONDS, since=job)
        except Unavailable:
            if time.monotonic() - heard > PATIENCE_SECONDS:
                raise
            await asyncio.sleep(PAUSE_SECONDS)
        else:
            heard = time.monotonic()
            moved("importing", job["bytes"]["read"], job["bytes"]["total"], show.pace(job))
    return job


async def _keep(file: Path, rejects: AsyncGenerator[bytes, None]) -> Path:
    """Write the Rejects to a new file in the current directory, or where temporary files go; its path."""
    folder = Path() if os.access(Path(), os.W_OK) else Path(tempfile.gettempdir())
    async with aclosing(rejects) as coming:
        with NewFile(folder) as out:
            async for block in coming:
                out.write(block)
            return out.name(_names(f"{file.name}.rejects"))


def _names(stem: str) -> Iterator[str]:
    """A file that is there is never replaced: the next one is numbered."""
    yield f"{stem}.csv"
    yield from (f"{stem}.{number}.csv" for number in itertools.count(2))
