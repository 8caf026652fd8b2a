"""Try again, for how long, and what then: the retries of everything that an import does in the database.

An error that may pass (`database.classify`) is waited out; one that has not passed in time is the Unavailable that says
what is missing. Nothing here decides whether an import has failed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Literal, TypeVar

import psycopg

from rollcall import liveness
from rollcall.database import Connection, Dialler, classify, end_sessions, to_unavailable
from rollcall.imports import Import
from rollcall.telemetry import RETRIES

PAUSE_SECONDS = (0.05, 0.3)
BACK_OFF_SECONDS = 5.0
CONTROL_SESSION = 99
"""The loader number under which an import's single statements run; no loader has it."""

Answer = TypeVar("Answer")


class Patience:
    """Waits between tries, and how long in all; counts from the first trouble."""

    def __init__(self) -> None:
        self._since: float | None = None

    async def pause(self, error: Exception) -> None:
        """Raises DatabaseDown or DatabaseFull when it has lasted too long."""
        self._since = self._since or time.monotonic()
        full = isinstance(error, psycopg.errors.DiskFull)
        if time.monotonic() - self._since > (liveness.FULL_PATIENCE_SECONDS if full else liveness.PATIENCE_SECONDS):
            raise to_unavailable(error) from error
        RETRIES.labels(_retry_reason(error)).inc()
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311  spreads retries, guards nothing


def _retry_reason(error: Exception) -> Literal["conflict", "locked", "lost"]:
    """For people who count retries; what to do about it is decided by `meaning`."""
    if not isinstance(error, psycopg.Error) or (found := classify(error)) == "again":
        return "conflict"
    return "locked" if found == "locked" else "lost"


async def end_others(connection: Connection | None, job: Import, loader: int | None = None) -> None:
    """End what holds a lock we need: sessions of older attempts, and older ones of this very loader; or of all
    loaders."""
    if connection is not None:
        with suppress(psycopg.Error):
            await end_sessions(connection, job.id, attempt=job.attempt - 1)
            await end_sessions(connection, job.id, attempt=job.attempt, loader=loader)


async def with_retries(database: Dialler, job: Import, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do a piece of this import's work on a connection of its own, again and again until the database answers.

    `work` must be safe to do twice. No loader of this attempt is at work: a session of one that is in the way is only
    left over, and holds the fence. Raises DatabaseDown, DatabaseFull when patience ends.
    """
    patience = Patience()
    while True:
        connection: Connection | None = None
        try:
            connection = await database.connect(f"rollcall:{job.id}:{job.attempt}:{CONTROL_SESSION}")
            answer = await work(connection)
            await database.give_back(connection)
            connection = None
            return answer
        except psycopg.Error as error:
            match classify(error, connection):
                case "fault":
                    raise
                case "locked":
                    await end_others(connection, job)
            await patience.pause(error)
        finally:
            if connection is not None:
                await connection.close()


async def back_off(draining: asyncio.Event) -> None:
    """Before an import is let go that could not be worked on: who takes it next, at once, meets the same trouble."""
    with suppress(TimeoutError):
        await asyncio.wait_for(draining.wait(), BACK_OFF_SECONDS)
