"""The HTTP service for tests: in this process without a wire, or listening on a port of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg

from rollcall import app
from rollcall.settings import Settings


@asynccontextmanager
async def served(database_url: str, folder: Path, **settings: Any) -> AsyncGenerator[httpx.AsyncClient, None]:
    """A client of a service whose files lie in `folder`."""
    api = app.create(Settings(data_dir=folder, **settings), database_url=database_url)
    async with (
        api.router.lifespan_context(api),
        httpx.AsyncClient(transport=httpx.ASGITransport(api), base_url="http://rollcall.test") as client,
    ):
        yield client


@asynccontextmanager
async def listening(database_url: str, folder: Path, **settings: Any) -> AsyncGenerator[int, None]:
    """The port of a real server."""
    api = app.create(Settings(data_dir=folder, **settings), database_url=database_url)
    server = app.server(api, port=0, grace_seconds=1)
    running = asyncio.create_task(server.serve())
    await until(lambda: server.started or running.done())
    try:
        yield int(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        await running


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
