"""`rollcall up`: one process that owns the others: Postgres (unless DATABASE_URL is set), the API, a worker.

    up ─┬─ postgres      embedded; restarted in place when it dies
        ├─ rollcall api       restarted when it dies
        └─ rollcall worker    restarted when it dies, killed and restarted when its beat stops

Children are sent SIGTERM by the kernel when `up` dies, whatever kills it. They are sessions of their own, so that
Ctrl-C reaches `up` alone, which then stops them in order. Decides nothing about imports: workers do, by the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx
import psycopg
import structlog
import typer

from rollcall import embedded, keys, telemetry, workers
from rollcall.database import POOL_SIZE, Connection, Database, connect, connection_limit
from rollcall.errors import RollcallError
from rollcall.migrations import migrate
from rollcall.settings import BadSettings, Settings

READY_SECONDS = 60.0
STOP_SECONDS = 15.0
LOOK_SECONDS = 0.2
BEAT_LOOK_SECONDS = 5.0
STALE_SECONDS = 20.0
"""A worker that did not beat for so long, at two looks, is frozen."""
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
CONTACT = '{"source":"demo","data":[{"name":"Zoë Ångström","email":"zoe@example.com"}]}'

log = structlog.get_logger()


class CannotListen(RollcallError):
    """The API cannot listen there."""

    code = "CANNOT_LISTEN"


class StartFailed(RollcallError):
    """The service did not start. What it said stands above."""

    code = "START_FAILED"


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
            self.due = now + BACKOFF_SECONDS[min(self.deaths, len(BACKOFF_SECONDS)) - 1]
            self.process = None
            log.error("up.restart", child=self.name, status=status)
        if self.process is None and now >= self.due:
            self.start()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()


@dataclass
class Watch:
    """Whether the worker still beats; its own connection, dialled again whenever it is lost."""

    url: str
    connection: Connection | None = None
    looked: float = 0.0
    stale: tuple[int, int] = field(default=(0, 0))

    async def frozen(self, worker: Child) -> bool:
        """True when this very process was silent at two looks; a database that is away says nothing."""
        if worker.process is None or time.monotonic() - self.looked < BEAT_LOOK_SECONDS:
            return False
        self.looked, pid = time.monotonic(), worker.process.pid
        try:
            async with asyncio.timeout(BEAT_LOOK_SECONDS):
                self.connection = self.connection or await connect(self.url, "rollcall:up")
                silence = await workers.seconds_since_beat(self.connection, workers.name_of(pid))
        except (psycopg.Error, TimeoutError):
            await self.close()
            return False
        times = self.stale[1] + 1 if self.stale[0] == pid else 1
        self.stale = (pid, times) if silence is not None and silence > STALE_SECONDS else (0, 0)
        return self.stale[1] >= 2

    async def close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()


@contextlib.contextmanager
def database(settings: Settings) -> Iterator[str]:
    """The address of the database: DATABASE_URL's, or an embedded one's that runs inside the block."""
    if settings.database_url is not None:
        yield settings.database_url
    else:
        with embedded.postgres(settings.data_dir) as server:
            yield server.url


def given_database(settings: Settings) -> str:
    """DATABASE_URL, for processes that own no Postgres. Raises BadSettings."""
    if settings.database_url is None:
        raise BadSettings("DATABASE_URL is not set. Set it, or run `rollcall up`, which brings a Postgres along.")
    return settings.database_url


async def refuse_public(settings: Settings, url: str) -> None:
    """Raises CannotListen for anything but loopback while there is no API key; DatabaseDown."""
    if not settings.loopback and not await keys_made(url):
        raise CannotListen(
            f"Rollcall does not listen on {settings.host}: there is no API key yet, and only this machine is trusted"
            " without one. Make one with `rollcall keys create NAME`, or listen on 127.0.0.1."
        )


async def refuse_too_many(settings: Settings, url: str) -> None:
    """Raises BadSettings when API and worker may need more connections than the database allows; DatabaseDown."""
    async with Database(url, name="rollcall:up") as database, database.session() as tx:
        settings.check_connections(await connection_limit(tx), besides=POOL_SIZE + 1)  # the API's, and our own


async def keys_made(url: str) -> bool:
    """Whether the API asks for keys. Raises DatabaseDown."""
    async with Database(url, name="rollcall:up") as database, database.session() as tx:
        return await keys.any_made(tx)


def run(settings: Settings) -> None:
    """Run everything until SIGINT or SIGTERM. Raises CannotListen, StartFailed; EmbeddedFailed and the like."""
    _refuse_taken(settings)
    server = None
    try:
        if settings.database_url is None:
            server = embedded.Server(settings.data_dir)
            server.start()
        asyncio.run(_supervise(settings, server))
    finally:
        if server is not None:
            server.stop()
    _say("Rollcall has stopped.")


async def _supervise(settings: Settings, server: embedded.Server | None) -> None:
    url = server.url if server else given_database(settings)
    stopping = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stopping.set)
    await migrate(url)
    await refuse_too_many(settings, url)
    await refuse_public(settings, url)
    telemetry.configure(settings.log_format)
    environment = os.environ | {
        "DATABASE_URL": url,
        "HOST": settings.host,
        "PORT": str(settings.port),
        "DATA_DIR": str(settings.data_dir.absolute()),
    }
    api, worker = Child("api", environment), Child("worker", environment)
    watch = Watch(url)
    try:
        api.start()
        worker.start()
        await _ready(settings, (api, worker), stopping, with_key=await keys_made(url))
        while not stopping.is_set():
            if server is not None and not server.alive:
                log.error("up.restart", child="postgres")
                server.start()
            if await watch.frozen(worker):
                log.error("up.frozen", child="worker")
                worker.kill()
            api.tend()
            worker.tend()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), LOOK_SECONDS)
    finally:
        await watch.close()
        _stop((api, worker))


async def _ready(settings: Settings, children: tuple[Child, ...], stopping: asyncio.Event, *, with_key: bool) -> None:
    """Wait until the service is healthy, and say where it is. Raises StartFailed when a child dies before."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    here = f"http://{host}:{settings.port}"
    end = time.monotonic() + READY_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        while not stopping.is_set():
            if time.monotonic() > end or any(child.process and child.process.poll() is not None for child in children):
                raise StartFailed
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{here}/health")).is_success:
                    _say(f"Rollcall listens on {here} (Ctrl-C stops it). Try:")
                    key = ' -H "Authorization: Bearer $ROLLCALL_API_KEY"' if with_key else ""
                    _say(f"  curl {here}/import{key} -H 'Content-Type: application/json' -d {shlex.quote(CONTACT)}")
                    return
            await asyncio.sleep(LOOK_SECONDS)


def _stop(children: tuple[Child, ...]) -> None:
    """SIGTERM to all; SIGKILL to those that are still there after STOP_SECONDS."""
    processes = [child.process for child in children if child.process is not None]
    for process in processes:
        process.terminate()
    end = time.monotonic() + STOP_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _refuse_taken(settings: Settings) -> None:
    """Look before anything is started: the API would only say it in its log."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as looking:
            looking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            looking.bind(address)
    except OSError as error:
        raise CannotListen(
            f"Rollcall cannot listen on {settings.host}, port {settings.port}: {error.strerror}. If another program is"
            " there, stop it, or choose another port with --port."
        ) from error


def _say(line: str) -> None:
    typer.echo(line, err=True)
