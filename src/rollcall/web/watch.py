"""One query for all requests of this process that wait for an import (`?wait`).

The query asks for the progress of all these imports. It runs when the database notifies, when a request begins to wait,
and otherwise every POLL_SECONDS: workers do not notify of progress, and a pooler may drop notifications. So a thousand
waiting requests cost as much as one, and hold no session of the pool.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Collection
from dataclasses import dataclass
from itertools import islice
from uuid import UUID

import psycopg
import structlog

from rollcall import imports
from rollcall.database import connect
from rollcall.errors import NotFound, RollcallError
from rollcall.imports import FINAL, Import, Progress
from rollcall.pool import Pool

POLL_SECONDS = 0.25
PAUSE_SECONDS = 0.02
"""Shortest pause between two queries; or twice the time that the last one took, if that is longer."""
LISTEN_SECONDS = 30.0
"""How often the listening connection is tested: a dead connection is as silent as a live one."""
REDIAL_SECONDS = 2.0
TOGETHER, FOUND_TOGETHER = 200, 50
"""Imports in one query for progress, and in one query for whole imports."""
MEMBER_BYTES = 256 << 10
"""Where one import is shown, a member of `options` or `plan` longer than this is null."""

log = structlog.get_logger()


@dataclass(eq=False)
class _Waiter:
    known: Collection[str]
    answer: asyncio.Future[Import | None]


class Watch:
    """Runs as one task (`run`). Any number of requests may call `find` and `wait`."""

    def __init__(self, database: Pool) -> None:
        self._database = database
        self._waiting: dict[UUID, set[_Waiter]] = {}
        self._anybody = asyncio.Event()
        self._due = asyncio.Event()
        self._stopped = False
        self._asked: dict[UUID, asyncio.Future[Import | None]] = {}
        self._finding: asyncio.Task[None] | None = None

    async def find(self, job_id: UUID) -> Import | None:
        """An import as it is now, or None. Requests that ask at the same time share one query and one session."""
        answer = self._asked.setdefault(job_id, asyncio.get_running_loop().create_future())
        if self._finding is None or self._finding.done():
            self._finding = asyncio.create_task(self._find())
        return await asyncio.shield(answer)

    async def _find(self) -> None:
        while some := {job_id: self._asked.pop(job_id) for job_id in list(islice(self._asked, FOUND_TOGETHER))}:
            try:
                async with self._database.session() as tx:
                    jobs = await imports.outline(tx, list(some), member_bytes=MEMBER_BYTES)
            except (RollcallError, psycopg.Error) as error:
                for answer in some.values():
                    answer.set_exception(error)
            else:
                found = {job.id: job for job in jobs}
                for job_id, answer in some.items():
                    answer.set_result(found.get(job_id))

    async def wait(self, job_id: UUID, known: Collection[str], seconds: float) -> Import | None:
        """Wait until the import's tag is none of `known`, or it is final; None after `seconds`.

        Raises NotFound when it was deleted meanwhile.
        """
        if self._stopped:
            return None
        waiter = _Waiter(known, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(job_id, set()).add(waiter)
        self._anybody.set()
        self._due.set()
        try:
            async with asyncio.timeout(seconds):
                return await waiter.answer
        except TimeoutError:
            return None
        finally:
            self._forget(job_id, waiter)

    def stop(self) -> None:
        """End all waits: the server stops."""
        self._stopped = True
        for waiter in [each for waiters in self._waiting.values() for each in waiters]:
            if not waiter.answer.done():
                waiter.answer.set_result(None)

    async def run(self) -> None:
        """Query as often as needed, until cancelled."""
        listening = asyncio.create_task(self._listen())
        try:
            while True:
                await self._anybody.wait()
                self._due.clear()
                began = time.monotonic()
                try:
                    await self._look()
                except (RollcallError, psycopg.Error) as error:
                    log.warning("watch.failed", error=type(error).__name__)
                await asyncio.sleep(max(PAUSE_SECONDS, 2 * (time.monotonic() - began)))
                await _event(self._due, POLL_SECONDS)
        finally:
            listening.cancel()

    async def _look(self) -> None:
        rest = iter(list(self._waiting))
        while some := list(islice(rest, TOGETHER)):
            async with self._database.session() as tx:
                found = {each.id: each for each in await imports.progress(tx, some)}
                changed = [job_id for job_id, now in found.items() if self._told(job_id, now)]
                jobs = await imports.outline(tx, changed, member_bytes=MEMBER_BYTES) if changed else []
            for job in jobs:
                for waiter in self._told(job.id, job.progress):
                    waiter.answer.set_result(job)
            for job_id in set(some) - found.keys():
                for waiter in self._waiting.get(job_id, set()):
                    if not waiter.answer.done():
                        waiter.answer.set_exception(NotFound("There is no import with this jobId."))

    def _told(self, job_id: UUID, now: Progress) -> list[_Waiter]:
        """The waiters that this progress is news for."""
        waiters = [each for each in self._waiting.get(job_id, set()) if not each.answer.done()]
        if now.state in FINAL:
            return waiters
        current = tag(now)
        return [each for each in waiters if current not in each.known and "*" not in each.known]

    def _forget(self, job_id: UUID, waiter: _Waiter) -> None:
        waiters = self._waiting[job_id]
        waiters.discard(waiter)
        if not waiters:
            del self._waiting[job_id]
        if not self._waiting:
            self._anybody.clear()

    async def _listen(self) -> None:
        while True:
            try:
                async with await connect(self._database.url, "rollcall:api:listen") as connection:
                    await connection.execute("listen rollcall")
                    self._due.set()
                    while True:
                        async for _ in connection.notifies(timeout=LISTEN_SECONDS):
                            self._due.set()
                        await connection.execute("select 1")
            except (psycopg.Error, OSError):
                await asyncio.sleep(REDIAL_SECONDS)


def tag(now: Progress) -> str:
    """The ETag. Weak (RFC 9110, 8.8.3), because `rate` and `eta` change with the clock and are not in it."""
    return hashlib.blake2b(repr(now).encode(), digest_size=8).hexdigest()


def is_known(now: Progress, known: Collection[str]) -> bool:
    """Whether the client has this already. `*` stands for any tag (RFC 9110, 13.1.2)."""
    return "*" in known or tag(now) in known


async def _event(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
