"""Whether this service can take and run imports, found out once for all who ask.

One check runs at a time, however many ask and however long the database is silent: an answer comes within
ANSWER_SECONDS, at most one session of the pool is held, and whoever asks very often is told what was found last.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

import psycopg
import structlog

from rollcall import contacts, liveness, workers
from rollcall.errors import RollcallError, Unavailable
from rollcall.pool import Pool
from rollcall.storage import Store
from rollcall.telemetry import where

ANSWER_SECONDS = 2.0
CHECKS_A_SECOND = 20

log = structlog.get_logger()


class NoWorker(Unavailable):
    """No worker is running."""

    code = "NO_WORKER"


class Checks:
    """`fault` is called by any number of requests."""

    def __init__(self, database: Pool, store: Store) -> None:
        self._database, self._store = database, store
        self._running: asyncio.Task[RollcallError | None] | None = None
        self._began: deque[float] = deque(maxlen=CHECKS_A_SECOND)
        self._last: RollcallError | None = None
        self._asked = ""

    async def fault(self) -> RollcallError | None:
        """What is in the way of imports; None when nothing is."""
        now = time.monotonic()
        if self._running is None or self._running.done():
            if len(self._began) == CHECKS_A_SECOND and now - self._began[0] < 1:
                return self._last
            self._began.append(now)
            self._running = asyncio.create_task(self._check())
        left = max(0.05, self._began[-1] + ANSWER_SECONDS - now)
        # Not cancelled when it is late: ending a statement that a frozen server never answers takes seconds, too.
        done, _ = await asyncio.wait([self._running], timeout=left)
        self._last = self._running.result() if done else Unavailable(f"The {self._asked} does not answer.")
        return self._last

    def stop(self) -> None:
        """The service stops."""
        if self._running:
            self._running.cancel()

    async def _check(self) -> RollcallError | None:
        """Read the contacts, look for a worker, ask the store."""
        try:
            self._asked = "database"
            async with self._database.session() as tx:
                await contacts.readable(tx)
                alive = await workers.count_alive(tx, liveness.STALE_SECONDS)
            self._asked = "store"
            await self._store.check()
        except RollcallError as error:
            return error
        except psycopg.Error as error:
            log.error("health.failed", error=type(error).__name__, where=where(error))
            return Unavailable("The contacts cannot be read.")
        return None if alive else NoWorker()
