"""The HTTP service for tests: in this process without a wire, or listening on a port of its own."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
from fastapi import FastAPI

from rollcall import app
from rollcall.settings import Settings

Process = subprocess.Popen[bytes]


@asynccontextmanager
async def served(database_url: str, folder: Path, **settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a service whose files lie in `folder`."""
    api = app.create(Settings(data_dir=folder, **settings), database_url=database_url)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://localhost") as client,
    ):
        yield client


@asynccontextmanager
async def listening(database_url: str, folder: Path, **settings: Any) -> AsyncGenerator[int, None]:
    """The port of a real server."""
    async with wired(app.create(Settings(data_dir=folder, **settings), database_url=database_url)) as port:
        yield port


@asynccontextmanager
async def wired(api: FastAPI) -> AsyncGenerator[int, None]:
    """The port of a real server of any application."""
    server = app.server(api, port=0, grace_seconds=1)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started or running.done())
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await running


@asynccontextmanager
async def api(database_url: str, folder: Path, **settings: str) -> AsyncGenerator[tuple[Process, int], None]:
    """`rollcall api` as it is run, and its port; what it says is in `folder`/api.log."""
    process, port = _start(database_url, folder, settings)

    async def answers() -> bool:
        assert process.poll() is None
        with suppress(httpx.TransportError):
            return (await client.get("/health/live")).is_success
        return False

    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await until(answers)
        yield process, port
    finally:
        process.kill()
        process.wait()


def _start(database_url: str, folder: Path, settings: dict[str, str]) -> tuple[Process, int]:
    with socket.socket() as looking:
        looking.bind(("127.0.0.1", 0))
        port = int(looking.getsockname()[1])
    environment = os.environ | {"DATABASE_URL": database_url, "DATA_DIR": str(folder), "PORT": str(port)} | settings
    with (folder / "api.log").open("ab") as log:
        command = [sys.executable, "-m", "rollcall", "api"]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log), port


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Wait for it; the test's own timeout ends what never comes."""
    while True:
        held = condition()
        if held if isinstance(held, bool) else await held:
            return
        await asyncio.sleep(0.02)


def rows(database_url: str, statement: str) -> list[Any]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(statement.encode()).fetchall()


def objects(folder: Path) -> list[Path]:
    """Everything in the store, half-written things too."""
    return [path for path in (folder / "store").rglob("*") if path.is_file()]
