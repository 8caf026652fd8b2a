"""A site without HTTP: files posted into it, imports carried in this process, worker processes to hurt.

Whoever waits here waits for a condition, with a deadline. Assumes a migrated database of the test's own.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import psycopg

from rollcall import control, imports, pipeline
from rollcall.database import Connection, Dialler, connect
from rollcall.imports import Import
from rollcall.loading import queue
from rollcall.options import Options
from rollcall.pool import Pool
from rollcall.receive import receive
from rollcall.records import parts
from rollcall.settings import Settings
from rollcall.storage import FileStore, Store

RUNNER = Path(__file__).with_name("runner.py")
T = TypeVar("T")


async def until(condition: Callable[[], Awaitable[T | None]], seconds: float, what: str) -> T:
    """The first true answer. Fails after so many seconds; a database that is away meanwhile is waited for."""
    end = time.monotonic() + seconds
    while True:
        try:
            if answer := await condition():
                return answer
        except psycopg.OperationalError:
            if time.monotonic() > end:
                raise
        assert time.monotonic() < end, f"after {seconds:g} s still not: {what}"
        await asyncio.sleep(0.02)


@contextmanager
def part_records(count: int, rows: int = -1) -> Iterator[None]:
    """Parts of at most so many Records, in this process; a batch is of one Part, or of those that have `rows`
    contacts of all loaders together (an empty queued rows has none: not 0, but -1 joins nothing)."""
    defaults = parts.__kwdefaults__
    assert defaults is not None
    before = defaults["part_records"], queue.BATCH_ROWS
    defaults["part_records"], queue.BATCH_ROWS = count, rows
    try:
        yield
    finally:
        defaults["part_records"], queue.BATCH_ROWS = before


class Database(Pool, Dialler):
    """What an API has and what a worker has, in one."""

    def __init__(self, url: str) -> None:
        Pool.__init__(self, url)
        Dialler.__init__(self, url)

    async def __aexit__(self, *_: object) -> None:
        await Pool.__aexit__(self)
        await Dialler.__aexit__(self)


@dataclass(frozen=True)
class Site:
    """A database and a store. What it asks itself it asks on a connection of its own, no pool between."""

    url: str
    folder: Path
    database: Database
    store: Store
    _asking: list[Connection] = field(default_factory=list)

    async def post(self, source: str, data: bytes, **options: str) -> UUID:
        """Queue an import, as an upload of one Segment does."""

        async def body() -> AsyncIterator[bytes]:
            yield data

        return await receive(
            body(),
            database=self.database,
            store=self.store,
            wish=lambda: (source, Options.parse(options)),
            segment_bytes=None,
        )

    async def query(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        async def ask(tx: Connection) -> list[tuple[Any, ...]]:
            cursor = await tx.execute(statement.encode(), values)
            return await cursor.fetchall() if cursor.description else []

        return await self._ask(ask)

    async def show(self, job_id: UUID) -> Import:
        job = await self._ask(lambda tx: imports.show(tx, job_id))
        assert job is not None
        return job

    async def _ask(self, work: Callable[[Connection], Awaitable[T]]) -> T:
        """If the connection was lost since the last time, on a new one."""
        if self._asking:
            try:
                return await work(self._asking[0])
            except psycopg.OperationalError:
                if not self._asking[0].closed:
                    raise
                await self.hang_up()
        self._asking.append(await connect(self.url, "test"))
        return await work(self._asking[0])

    async def hang_up(self) -> None:
        while self._asking:
            await self._asking.pop().close()

    async def shares(self, job_id: UUID, *, at_least: int = 0, attempt: int = 0) -> int:
        """How many batches are committed, by this attempt and later ones; 0 while they are fewer than `at_least`."""
        rows = await self.query(
            "select count(*) from rollcall.import_parts where import_id = %s and attempt >= %s", job_id, attempt
        )
        return int(rows[0][0]) if rows[0][0] >= at_least else 0

    async def somebody_waits(self) -> bool:
        """For a lock."""
        waiting = "select 1 from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        return bool(await self.query(waiting))

    async def crashes(self, job_id: UUID) -> int:
        """The most that were ever counted against it; its end forgets them. Needs the oracle's instruments."""
        rows = await self.query("select max(crashes) from oracle.history where import_id = %s", job_id)
        return int(rows[0][0])

    async def final(self, job_id: UUID, seconds: float = 30.0) -> Import:
        """The import, once nothing more happens to it."""

        async def look() -> Import | None:
            job = await self.show(job_id)
            return job if job.state in imports.FINAL else None

        return await until(look, seconds, f"{job_id} is final")

    async def idle(self, seconds: float = 30.0) -> None:
        """Wait until no import is open."""

        async def look() -> bool:
            rows = await self.query("select id from rollcall.imports where state in ('queued', 'running')")
            return not rows

        await until(look, seconds, "no import is open")

    async def claim(self, worker: int = 1) -> Import:
        """The next import, as a worker claims it."""
        async with await connect(self.url, "test") as tx:
            job = await imports.claim(tx, worker)
        assert job is not None
        return job

    async def take(self, job_id: UUID, worker: int = 1, *, counted: bool = False) -> Import:
        """A running import, as another worker takes it over."""
        async with await connect(self.url, "test") as tx:
            stalled = next(each for each in await imports.list_stalled(tx, 0, [], 20.0) if each.id == job_id)
            job = await imports.take_over(tx, worker, stalled, counted=counted)
        assert job is not None
        return job

    async def carry(
        self, job: Import, *, loaders: int = 2, draining: asyncio.Event | None = None, rejects_max: int = 100_000
    ) -> Import:
        """Carry a claimed import in this process; how it stands then."""
        await pipeline.run_import(
            job,
            database=self.database,
            store=self.store,
            loaders=loaders,
            draining=draining or asyncio.Event(),
            rejects_max=rejects_max,
        )
        return await self.show(job.id)

    async def load(self, source: str, data: bytes, **options: str) -> Import:
        """Post, claim and carry."""
        await self.post(source, data, **options)
        return await self.carry(await self.claim())

    async def retry(self, job_id: UUID) -> None:
        await control.retry(self.database, job_id)

    def settings(self, **changed: Any) -> Settings:
        """Of a worker in this process."""
        return Settings(data_dir=self.folder, worker_poll_interval=50, **changed)

    def worker(self, *options: str, records: int = 100, haste: float = 1.0, through: str | None = None) -> Worker:
        """Start a worker process. Its Parts have so many Records; it connects by `through`, if that is given.

        `haste` divides the times after which it cpu_slots others to be dead.
        """
        start = functools.partial(Forked, records, haste)
        return Worker(options, self.folder, through or self.url, start)


@asynccontextmanager
async def site(url: str, folder: Path, *, through: str | None = None) -> AsyncIterator[Site]:
    """A site on a migrated database, its files in the folder. What carries imports connects by `through`, if given."""
    async with Database(through or url) as database:
        place = Site(url, folder, database, FileStore(folder / "store"))
        try:
            yield place
        finally:
            await place.hang_up()


class Forked:
    """A worker process that runner.py has forked: as much of Popen as there is need of."""

    def __init__(
        self, records: int, haste: float, options: Sequence[str], environment: dict[str, str], log: str
    ) -> None:
        order = {
            "records": records,
            "haste": haste,
            "once": "--once" in options,
            "environment": environment,
            "log": log,
        }
        runner = _runner()
        assert runner.stdin is not None
        assert runner.stdout is not None
        runner.stdin.write(json.dumps(order) + "\n")
        runner.stdin.flush()
        self.pid = int(runner.stdout.readline())
        self._status = Path(f"{log}.status")

    def poll(self) -> int | None:
        return int(self._status.read_text()) if self._status.exists() else None

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self) -> None:
        while self.poll() is None:
            time.sleep(0.002)


@functools.cache
def _runner() -> subprocess.Popen[str]:
    """One for all tests of this process."""
    runner = subprocess.Popen([sys.executable, str(RUNNER)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    atexit.register(runner.communicate)
    return runner


def spawned(command: Sequence[str], environment: dict[str, str], log: str) -> subprocess.Popen[bytes]:
    """A process of its own."""
    with Path(log).open("wb") as said:
        return subprocess.Popen(command, env=environment, stdout=said, stderr=said)


class Worker:
    """A worker process and what it logs. Ended with the block at the latest, by kill -9."""

    def __init__(
        self,
        command: Sequence[str],
        folder: Path,
        url: str,
        start: Callable[[Sequence[str], dict[str, str], str], subprocess.Popen[bytes] | Forked] = spawned,
    ) -> None:
        self._log = (folder / f"worker-{time.monotonic_ns()}.log").open("w+b")
        environment = os.environ | {"DATABASE_URL": url, "DATA_DIR": str(folder), "WORKER_POLL_INTERVAL": "50"}
        self._process = start(command, environment, self._log.name)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()
        self._log.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._process.poll()

    def send(self, number: signal.Signals) -> None:
        if self.status is None:
            self._process.send_signal(number)

    async def exited(self, seconds: float) -> int:
        """Its exit status, once it has one."""

        async def look() -> bool:
            return self.status is not None

        await until(look, seconds, f"worker {self.pid} has exited; its log ends {self.said()[-500:]}")
        assert self.status is not None
        return self.status

    def said(self) -> str:
        return os.pread(self._log.fileno(), 1 << 24, 0).decode(errors="replace")

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it logged under this name."""
        lines = [json.loads(line) for line in self.said().splitlines() if line.startswith("{") and line.endswith("}")]
        return [line for line in lines if line["event"] == name]

    async def logged(self, name: str, seconds: float = 60.0) -> dict[str, Any]:
        """The first event of this name, once there is one."""

        async def look() -> list[dict[str, Any]]:
            return self.events(name)

        return (await until(look, seconds, f"worker {self.pid} says {name}: {self.said()[-500:]}"))[0]

    async def number(self) -> int:
        """Its number, once it has introduced itself."""
        return int((await self.logged("worker.ready"))["worker"])
