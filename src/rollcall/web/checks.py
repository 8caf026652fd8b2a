"""Whether this service can take and run imports: one check for all requests that ask.

One check runs at a time, however many requests ask and however long the database is silent. So an answer comes within
ANSWER_SECONDS, and the checks hold at most one session of the pool. Beyond CHECKS_A_SECOND the last result is answered.
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
    """Any number of requests may call `fault`."""

    def __init__(self, database: Pool, store: Store) -> None:
        self._database, self._store = database, store
        self._running: asyncio.Task[RollcallError | None] | None = None
        self._began: deque[float] = deque(maxlen=CHECKS_A_SECOND)
        self._last: RollcallError | None = None
        self._asked = ""

    async def fault(self) -> RollcallError | None:
        """The error that keeps imports from running; None when there is none."""
        now = time.monotonic()
        if self._running is None or self._running.done():
            if len(self._began) == CHECKS_A_SECOND and now - self._began[0] < 1:
                return self._last
            self._began.append(now)
            self._running = asyncio.create_task(self._check())
        left = max(0.05, self._began[-1] + ANSWER_SECONDS - now)
        # A late check is not cancelled: psycopg would wait seconds for a frozen server to confirm that.
        done, _ = await asyncio.wait([self._running], timeout=left)
        self._last = self._running.result() if done else Unavailable(f"The {self._asked} does not answer.")
        return self._last

    def stop(self) -> None:
        """Cancel the running check: the service stops."""
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
