"""The connection on which a worker says that it lives and decides what to work on.

It holds the worker's advisory lock, beats, and listens for notifications. When it is lost it is dialled again: locked
first, then beaten on, and only then used. Assumes that one task uses it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress

import psycopg
import structlog

from rollcall import liveness, workers
from rollcall.database import Connection, connect, connection_limit
from rollcall.errors import DatabaseDown
from rollcall.process import tell_systemd
from rollcall.telemetry import CounterValues, worker_counters

REDIAL_SECONDS = 0.25

log = structlog.get_logger()


class ControlConnection:
    """`number`: of this worker, once it is registered. `connection`: None before `dial` and after `close`.

    `check_connections` gets the number of connections that the database allows, before anything else is done there.
    """

    def __init__(self, url: str, check_connections: Callable[[int], None], draining: asyncio.Event) -> None:
        self._url, self._check_connections, self._draining = url, check_connections, draining
        self._name = workers.name_of(os.getpid())
        self.number = 0
        self.connection: Connection | None = None
        self._last_beat = 0.0
        self._reported: CounterValues = {}

    async def dial(self) -> Connection | None:
        """Connect, lock, beat, listen. None when the worker is to stop before that.

        Raises DatabaseDown when that cannot be done for PATIENCE_SECONDS; what `check_connections` raises.
        """
        since = time.monotonic()
        while not self._draining.is_set():
            tell_systemd("WATCHDOG=1")
            try:
                self.connection = await self._register()
            except psycopg.Error as error:
                if time.monotonic() - since > liveness.PATIENCE_SECONDS:
                    raise DatabaseDown from error
                await self.close()
                await asyncio.sleep(REDIAL_SECONDS)
            else:
                return self.connection
        return None

    async def _register(self) -> Connection:
        if not self.number:
            first = await connect(self._url, "rollcall:worker")
            async with first:
                self._check_connections(await connection_limit(first))
                self.number = await workers.register(first, self._name)
        control = await connect(self._url, workers.session_name(self.number), idle_seconds=5)
        try:
            while not await workers.lock(control, self.number):
                await workers.end_older_session(control, self.number)
                await asyncio.sleep(REDIAL_SECONDS / 5)
            await workers.beat(control, self.number, self._name)
            self._last_beat = time.monotonic()
            await control.execute("listen rollcall")
        except BaseException:
            await control.close()
            raise
        log.info("worker.ready", worker=self.number)
        return control

    async def show_life(self, control: Connection) -> None:
        """Beat, when it is time to. Looking for work may be rarer than that."""
        tell_systemd("WATCHDOG=1")
        if time.monotonic() - self._last_beat >= liveness.BEAT_SECONDS:
            await workers.beat(control, self.number, self._name)
            await self.report(control)
            self._last_beat = time.monotonic()

    async def report(self, control: Connection) -> None:
        """What was counted since the last time; again, if the answer is lost."""
        counted = worker_counters()
        await workers.report(control, {key: value - self._reported.get(key, 0) for key, value in counted.items()})
        self._reported = counted

    async def deregister(self) -> None:
        """The worker ends, with nothing in hand: report and sign off, if the connection still stands."""
        if self.connection is not None:
            with suppress(psycopg.Error):
                await self.report(self.connection)
                await workers.deregister(self.connection, self.number)

    async def close(self) -> None:
        """Also when it is lost. The advisory lock goes with it."""
        connection, self.connection = self.connection, None
        if connection is not None:
            await connection.close()
