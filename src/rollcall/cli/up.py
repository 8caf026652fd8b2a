"""`rollcall up`: one process that owns the others: Postgres (unless DATABASE_URL is set), the API, a worker.

    up ─┬─ postgres           embedded; restarted in place when it dies, again and again until it starts
        ├─ rollcall api       restarted when it dies, killed and restarted when it does not answer
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
import time
from collections.abc import Iterator

import httpx
import typer

from rollcall import embedded, keys, liveness, telemetry
from rollcall.cli.children import (
    LOOK_SECONDS,
    ApiWatch,
    Child,
    WorkerWatch,
    keep,
    keep_postgres,
    kill_when_frozen,
    run_until,
)
from rollcall.database import connection_limit
from rollcall.errors import RollcallError
from rollcall.migrations import migrate
from rollcall.pool import POOL_SIZE, Pool
from rollcall.settings import BadSettings, Settings

STOP_SECONDS = 15.0
CONTACT = '{"source":"demo","data":[{"name":"Zoë Ångström","email":"zoe@example.com"}]}'


class CannotListen(RollcallError):
    """The API cannot listen there."""

    code = "CANNOT_LISTEN"


class StartFailed(RollcallError):
    """The service did not start. What it said stands above."""

    code = "START_FAILED"


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
    async with Pool(url, name="rollcall:up") as database, database.session() as tx:
        settings.check_connections(
            await connection_limit(tx), besides=POOL_SIZE + 2
        )  # the API's pool, the one it listens on, and our own


async def keys_made(url: str) -> bool:
    """Whether the API asks for keys. Raises DatabaseDown."""
    async with Pool(url, name="rollcall:up") as database, database.session() as tx:
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
    await run_until(stopping, _prepare(settings, url))
    if stopping.is_set():
        return
    telemetry.configure(settings.log_format)
    environment = os.environ | {
        "DATABASE_URL": url,
        "HOST": settings.host,
        "PORT": str(settings.port),
        "DATA_DIR": str(settings.data_dir.absolute()),
    }
    api, worker = Child("api", environment), Child("worker", environment)
    here = f"http://{f'[{settings.host}]' if ':' in settings.host else settings.host}:{settings.port}"
    watch = WorkerWatch(url)
    try:
        api.start()
        worker.start()
        await run_until(stopping, _ready(here, (api, worker), url))
        await run_until(
            stopping,
            keep(api, worker),
            kill_when_frozen(worker, watch.frozen),
            kill_when_frozen(api, ApiWatch(here, answered=api.process.pid if api.process else 0).frozen),
            *([keep_postgres(server)] if server is not None else []),
        )
    finally:
        await watch.close()
        _stop((api, worker))


async def _prepare(settings: Settings, url: str) -> None:
    await migrate(url)
    await refuse_too_many(settings, url)
    await refuse_public(settings, url)


async def _ready(here: str, children: tuple[Child, ...], url: str) -> None:
    """Wait until the service is healthy, and say where it is. Raises StartFailed when a child dies before."""
    end = time.monotonic() + liveness.START_SECONDS
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        while True:
            if time.monotonic() > end or any(child.process and child.process.poll() is not None for child in children):
                raise StartFailed
            with contextlib.suppress(httpx.TransportError):
                if (await http.get(f"{here}/health")).is_success:
                    _say(f"Rollcall listens on {here} (Ctrl-C stops it). Try:")
                    key = ' -H "Authorization: Bearer $ROLLCALL_API_KEY"' if await keys_made(url) else ""
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
