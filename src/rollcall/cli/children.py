"""The processes that `rollcall up` keeps running: each is started again when it dies, or when it is frozen.

Nothing here blocks the event loop. Assumes that processes are started from the main thread, which never ends before
them: the death signal that they get is that of the thread which forked them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import httpx
import psycopg
import structlog

from rollcall import embedded, liveness, workers
from rollcall.database import Connection, connect
from rollcall.errors import RollcallError
from rollcall.telemetry import where

LOOK_SECONDS = 0.2
LIVE_MISSES, FIRST_MISSES = (
    int(seconds / liveness.BEAT_SECONDS) for seconds in (liveness.STALE_SECONDS, liveness.START_SECONDS)
)
"""An API that did not answer so many looks in a row is frozen."""
BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 5.0)
"""Pauses before the restarts of a child that keeps dying; one that lived a minute begins anew."""
LIVED_SECONDS = 60.0

# Asked for in the child itself, before it becomes rollcall: `preexec_fn` may deadlock where there are threads.
LAUNCH = """
import ctypes, os, signal, sys
owner, *command = sys.argv[1:]
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() == int(owner):
    os.execv(command[0], command)
"""

log = structlog.get_logger()


@dataclass
class Child:
    """One process that is to run for as long as `up` does."""

    name: str
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    deaths: int = 0
    due: float = 0.0

    def start(self) -> None:
        """Only from the main thread: the death signal comes when the thread that forked ends."""
        command = [sys.executable, "-m", "rollcall", self.name]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(os.getpid()), *command],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.started = time.monotonic()

    def tend(self) -> None:
        """Start it again, if it died and its pause is over."""
        now = time.monotonic()
        if self.process is not None and (status := self.process.poll()) is not None:
            self.deaths = 1 if now - self.started > LIVED_SECONDS else self.deaths + 1
            self.due = now + pause(self.deaths)
            self.process = None
            log.error("up.restart", child=self.name, status=status)
        if self.process is None and now >= self.due:
            self.start()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


def pause(deaths: int) -> float:
    """Seconds before the next start, after so many deaths in a row (from 1 on)."""
    return BACKOFF_SECONDS[min(deaths, len(BACKOFF_SECONDS)) - 1]


async def keep(*children: Child) -> None:
    """Start them again for ever."""
    while True:
        for child in children:
            child.tend()
        await asyncio.sleep(LOOK_SECONDS)


async def keep_postgres(server: embedded.Server) -> None:
    """Start it again for ever, as often as it takes: it may not start while the disk is full, say."""
    failures = 0
    while True:
        if server.alive:
            failures = 0
            await asyncio.sleep(LOOK_SECONDS)
            continue
        if not failures:
            log.error("up.restart", child="postgres")
        try:
            await _start(server)
        except Exception as error:
            failures += 1
            code = error.code if isinstance(error, RollcallError) else type(error).__name__
            log.error("up.cannot_restart", child="postgres", code=code, where=where(error), log=str(server.log))
            await asyncio.sleep(pause(failures + 1))


async def _start(server: embedded.Server) -> None:
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    try:
        await asyncio.shield(starting)
    except asyncio.CancelledError:
        server.interrupt()
        await asyncio.wait([starting])
        raise


async def kill_when_frozen(child: Child, frozen: Callable[[Child], Awaitable[bool]]) -> None:
    """Look at it again and again; `keep` starts it again then."""
    while True:
        found, _ = await asyncio.gather(frozen(child), asyncio.sleep(liveness.BEAT_SECONDS))
        if found:
            log.error("up.frozen", child=child.name)
            child.kill()


@dataclass
class WorkerWatch:
    """Whether the worker still beats; its own connection, dialled again whenever it is lost."""

    url: str
    connection: Connection | None = None
    stale: tuple[int, int] = field(default=(0, 0))

    async def frozen(self, worker: Child) -> bool:
        """True when this very process was silent at two looks; a database that is away says nothing."""
        if worker.process is None:
            return False
        pid = worker.process.pid
        try:
            async with asyncio.timeout(liveness.BEAT_SECONDS):
                self.connection = self.connection or await connect(self.url, "rollcall:up")
                silence = await workers.seconds_since_beat(self.connection, workers.name_of(pid))
        except (psycopg.Error, TimeoutError):
            await self.close()
            return False
        times = self.stale[1] + 1 if self.stale[0] == pid else 1
        self.stale = (pid, times) if silence is not None and silence > liveness.STALE_SECONDS else (0, 0)
        return self.stale[1] >= 2

    async def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


@dataclass
class ApiWatch:
    """Whether the API at `url` still answers; what it answers does not matter. The process `answered` has done so."""

    url: str
    answered: int = 0
    misses: tuple[int, int] = field(default=(0, 0))

    async def frozen(self, api: Child) -> bool:
        """True when this very process did not answer several looks in a row."""
        if api.process is None:
            return False
        pid = api.process.pid
        if self.misses[0] != pid:
            self.misses = (pid, 0)
        try:
            async with (
                asyncio.timeout(liveness.BEAT_SECONDS),
                httpx.AsyncClient(trust_env=False, timeout=liveness.BEAT_SECONDS) as http,
                http.stream("GET", f"{self.url}/health/live"),
            ):
                self.misses, self.answered = (pid, 0), pid
        except (httpx.HTTPError, TimeoutError):
            self.misses = (pid, self.misses[1] + 1)
        return self.misses[1] >= (LIVE_MISSES if self.answered == pid else FIRST_MISSES)


async def run_until(stopping: asyncio.Event, *work: Coroutine[Any, Any, None]) -> None:
    """Run the work side by side until it is done, some of it fails, or `stopping` is set; then cancel what is left.

    Raises what the work raises.
    """
    tasks = [asyncio.create_task(each) for each in work]
    stop = asyncio.create_task(stopping.wait())
    try:
        while not stopping.is_set() and (left := [task for task in tasks if not task.done()]):
            await asyncio.wait([stop, *left], return_when=asyncio.FIRST_COMPLETED)
            if any(task.done() and not task.cancelled() and task.exception() for task in tasks):
                break
    finally:
        for task in (stop, *tasks):
            task.cancel()
        await asyncio.gather(stop, *tasks, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            task.result()
