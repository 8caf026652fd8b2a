"""`rollcall keys`: make, list and revoke the API keys of a database, also while `rollcall up` runs on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TypeVar

import typer
from rich.text import Text

from rollcall import embedded, keys
from rollcall.cli import show
from rollcall.database import Connection
from rollcall.migrations import migrate
from rollcall.pool import Pool
from rollcall.settings import Settings

T = TypeVar("T")


def create(name: str, sources: list[str] | None, settings: Settings) -> None:
    """Print a new key on stdout, and nothing else there. Raises Conflict."""
    key = _do(settings, lambda tx: keys.create(tx, name, sources))
    typer.echo(key)
    typer.echo("This is the only time it is shown. Keep it where you keep passwords.", err=True)


def list_(settings: Settings) -> None:
    """Print what is known of the live keys."""
    found = _do(settings, keys.live)
    rows = show.table("key", "name", "sources", "created", "used", numbers=())
    for key in found:
        sources = ", ".join(key.sources) if key.sources else "all"
        rows.add_row(
            f"{keys.PREFIX}{key.id}_…", Text(key.name), Text(sources), _minute(key.created_at), _minute(key.used_at)
        )
    show.console().print(rows if found else "No keys.")


def revoke(name: str, settings: Settings) -> None:
    """Revoke a key, and say so. Raises NotFound."""

    async def story(tx: Connection) -> int:
        await keys.revoke(tx, name)
        return len(await keys.live(tx))

    left = _do(settings, story)
    typer.echo(f"The key {name} is revoked.")
    if not left:
        typer.echo("It was the last key: until you create another, the API answers nobody.")


def _do(settings: Settings, story: Callable[[Connection], Awaitable[T]]) -> T:
    async def run(url: str) -> T:
        await migrate(url)
        async with Pool(url) as database, database.session() as tx:
            return await story(tx)

    with _database(settings) as url:
        return asyncio.run(run(url))


@contextmanager
def _database(settings: Settings) -> Iterator[str]:
    if settings.database_url is not None:
        yield settings.database_url
    else:
        with embedded.reach(settings.data_dir) as url:
            yield url


def _minute(time: datetime | None) -> str:
    return "never" if time is None else f"{time:%Y-%m-%d %H:%M} UTC"
