"""The worker: claims imports, carries each in a slot, shows that it lives, takes over what others dropped.

Everything that decides who works is said on one connection, the control connection, which also holds the worker's
advisory lock and listens. When it is lost the loaders go on; it is dialled again, locked again, and only then looked
around with: what was seen before counts for nothing. SIGTERM drains: Parts under way are committed, imports given back.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from uuid import UUID

import psycopg
import structlog

from rollcall import imports, liveness, pipeline, sweep, workers
from rollcall.database import Connection, Dialler, classify, connect, connection_limit, end_sessions
from rollcall.errors import DatabaseDown
from rollcall.imports import CRASHES_MAX, LARGE_BYTES, Import, Stalled
from rollcall.loading import retries
from rollcall.loading.part_reader import PART_READ
from rollcall.process import share_memory, tell_systemd
from rollcall.settings import Settings
from rollcall.slots import Slot, admitted
from rollcall.storage import Store, open_store
from rollcall.telemetry import TAKEOVERS, CounterValues, where, worker_counters

DRAIN_SECONDS = 20.0
REDIAL_SECONDS = 0.25
SWEEP_SECONDS = 600.0
ONE_LOADER_BYTES = 256 << 10
"""A file up to this size is loaded before a second connection would be of use."""

log = structlog.get_logger()


async def run(settings: Settings, database_url: str, *, once: bool = False, stop: asyncio.Event | None = None) -> None:
    """Work until SIGTERM or SIGINT (or until `stop` is set, if given); with `once`, until no import is open.

    Raises BadSettings when they need more connections than the database allows; DatabaseDown when that stays away for
    five minutes.
    """
    share_memory()
    draining = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(3 * settings.worker_concurrency))
    if stop is None:
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, draining.set)
    async with Dialler(database_url) as database:
        await Worker(settings, database, open_store(settings.data_dir), draining, once=once).run()


class Worker:
    """One process's slots and its control connection."""

    def __init__(
        self, settings: Settings, database: Dialler, store: Store, draining: asyncio.Event, *, once: bool
    ) -> None:
        self._settings, self._database, self._store = settings, database, store
        self._draining, self._once = draining, once
        self._name = workers.name_of(os.getpid())
        self._number = 0
        self._slots: dict[tuple[str, int], Slot] = {}
        self._large: set[UUID] = set()  # of those that are open: found to be large
        self._seen: dict[tuple[object, ...], float] = {}
        self._isolating = False
        self._held_back = False  # something may be queued that only waits for one of the slots
        self._control: Connection | None = None
        self._last_beat = 0.0
        self._reported: CounterValues = {}

    async def run(self) -> None:
        """The control loop."""
        sweeping, draining = asyncio.create_task(self._sweep()), asyncio.create_task(self._drain())
        try:
            while True:
                try:
                    control = self._control or await self._connect()
                    if control is None or await self._tick(control):
                        break
                except psycopg.Error as error:
                    if (found := classify(error, self._control)) == "fault":
                        raise
                    if found != "locked":
                        await self._disconnect()
            await self._shut_down()
        finally:
            tasks = [sweeping, draining, *self._tasks()]
            for task in tasks:
                task.cancel()
            await self._disconnect()
            await asyncio.wait(tasks, timeout=liveness.GRACE_SECONDS)

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [slot.task for slot in self._slots.values() if slot.task is not None]

    async def _drain(self) -> None:
        """When it is time to: have all slots give their imports back."""
        await self._draining.wait()
        for slot in self._slots.values():
            slot.stop.set()

    async def _tick(self, control: Connection) -> bool:
        """One look around; True when there is nothing more to do."""
        await self._show_life(control)
        if self._draining.is_set():
            return True
        await self._take_over(control)
        await self._claim(control)
        if self._once and not self._slots and not await imports.count_open(control):
            return True
        await self._wait(control)
        return False

    async def _show_life(self, control: Connection) -> None:
        """Beat, when it is time to. Looking for work may be rarer than that."""
        tell_systemd("WATCHDOG=1")
        if time.monotonic() - self._last_beat >= liveness.BEAT_SECONDS:
            await workers.beat(control, self._number, self._name)
            await self.report(control)
            self._last_beat = time.monotonic()

    async def _wait(self, control: Connection) -> None:
        """Until there may be work: a notification, a slot that was missing, the end of the poll interval; or the drain.

        A worker that is suspected of being dead is looked at again soon, however long the interval is.
        """
        seconds = self._settings.worker_poll_interval / 1000
        end = time.monotonic() + (min(seconds, liveness.GRACE_SECONDS) if self._seen else seconds)
        while (left := end - time.monotonic()) > 0:
            await self._show_life(control)
            listening = asyncio.create_task(_notified(control, min(left, liveness.BEAT_SECONDS)))
            draining = asyncio.create_task(self._draining.wait())
            missing = self._tasks() if self._once or self._held_back else []
            try:
                await asyncio.wait([listening, draining, *missing], return_when=asyncio.FIRST_COMPLETED)
            finally:
                draining.cancel()
                listening.cancel()
                await asyncio.wait([listening])
            if listening.cancelled() or await listening:
                return

    async def report(self, control: Connection) -> None:
        """What was counted since the last time; again, if the answer is lost."""
        counted = worker_counters()
        await workers.report(control, {key: value - self._reported.get(key, 0) for key, value in counted.items()})
        self._reported = counted

    async def _connect(self) -> Connection | None:
        """Connect, lock, beat, listen; for as long as patience lasts. None when it is to stop before that."""
        self._seen.clear()
        since = time.monotonic()
        while not self._draining.is_set():
            tell_systemd("WATCHDOG=1")
            try:
                self._control = await self._register()
            except psycopg.Error as error:
                if time.monotonic() - since > liveness.PATIENCE_SECONDS:
                    raise DatabaseDown from error
                await self._disconnect()
                await asyncio.sleep(REDIAL_SECONDS)
            else:
                return self._control
        return None

    async def _register(self) -> Connection:
        if not self._number:
            first = await connect(self._database.url, "rollcall:worker")
            async with first:
                self._settings.check_connections(await connection_limit(first))
                self._number = await workers.register(first, self._name)
        control = await connect(self._database.url, workers.session_name(self._number), idle_seconds=5)
        try:
            while not await workers.lock(control, self._number):
                await workers.end_older_session(control, self._number)
                await asyncio.sleep(REDIAL_SECONDS / 5)
            await workers.beat(control, self._number, self._name)
            self._last_beat = time.monotonic()
            await control.execute("listen rollcall")
        except BaseException:
            await control.close()
            raise
        log.info("worker.ready", worker=self._number)
        return control

    async def _claim(self, control: Connection) -> None:
        self._held_back = True
        while not self._isolating and self._room(crashes=0):
            most, without = admitted(self._slots.values(), self._settings.worker_concurrency)
            job = await imports.claim(control, self._number, bytes_max=most, without=without)
            if job is None:
                self._held_back = most is not None or bool(without)
                return
            self._begin(job, "claimed")

    async def _take_over(self, control: Connection) -> None:
        mine = [f"{job}:{attempt}" for job, attempt in self._slots]
        now, standing = time.monotonic(), set()
        self._isolating = False
        running = await imports.list_stalled(control, self._number, mine, liveness.STALE_SECONDS)
        self._large &= {stalled.id for stalled in running} | {slot.job.id for slot in self._slots.values()}
        for stalled in running:
            if stalled.released:
                why, wait = "released", 0.0
            elif not stalled.locked:
                why, wait = "gone", liveness.GRACE_SECONDS
            elif stalled.stale:
                why, wait = "stale", liveness.BEAT_SECONDS
            else:
                continue
            key = (stalled.id, stalled.attempt, why, stalled.beat)
            standing.add(key)
            if now - self._seen.setdefault(key, now) < wait:
                continue
            large = stalled.bytes_total > LARGE_BYTES or stalled.id in self._large
            if large and any(slot.large for slot in self._slots.values()):
                continue
            if self._room(crashes=stalled.crashes):
                await self._take(control, stalled, why)
            elif stalled.crashes >= 2:
                self._isolating = True
        self._seen = {key: since for key, since in self._seen.items() if key in standing}

    async def _take(self, control: Connection, stalled: Stalled, why: str) -> None:
        counted = why != "released" and not stalled.restarted
        try:
            job = await imports.take_over(control, self._number, stalled, counted=counted)
        except psycopg.errors.LockNotAvailable:
            await end_sessions(control, stalled.id, attempt=stalled.attempt)
            return
        if job is not None and job.state == "running":
            TAKEOVERS.labels(why).inc()
            self._begin(job, why)
        elif job is not None:
            log.error("import.crashed", import_id=str(job.id), crashes=CRASHES_MAX)

    def _room(self, *, crashes: int) -> bool:
        """An import that has brought workers down twice runs alone: its neighbours are not to blame.

        It waits until the slots are empty, and nothing is claimed meanwhile: else they may never be.
        """
        if self._slots and (crashes >= 2 or any(slot.job.crashes >= 2 for slot in self._slots.values())):
            return False
        return len(self._slots) < self._settings.worker_concurrency

    def _begin(self, job: Import, how: str) -> None:
        log.info("import.begun", import_id=str(job.id), attempt=job.attempt, how=how, worker=self._number)
        slot = Slot(job, large=job.bytes_total > LARGE_BYTES or job.id in self._large)
        if self._draining.is_set():
            slot.stop.set()
        slot.task = asyncio.create_task(self._run_import(job, slot))
        self._slots[str(job.id), job.attempt] = slot

    def _read(self, slot: Slot, count: int) -> None:
        """An import that turns out to be large, while another one runs, has to wait for it."""
        if slot.grown(count):
            self._large.add(slot.job.id)
            if any(other.large for other in self._slots.values() if other is not slot):
                log.info("import.waits", import_id=str(slot.job.id), attempt=slot.job.attempt)
                slot.stop.set()

    async def _run_import(self, job: Import, slot: Slot) -> None:
        PART_READ.set(partial(self._read, slot))
        try:
            await pipeline.run_import(
                job,
                database=self._database,
                store=self._store,
                loaders=self._settings.loaders if job.bytes_total > ONE_LOADER_BYTES else 1,
                draining=slot.stop,
                rejects_max=self._settings.max_stored_rejects,
            )
        except Exception as error:  # the database is away for long, or refuses for good to have it ended
            log.error("import.stranded", import_id=str(job.id), attempt=job.attempt, error=type(error).__name__)
            await retries.back_off(self._draining)
        finally:
            del self._slots[str(job.id), job.attempt]

    async def _sweep(self) -> None:
        """From time to time, beginning now: a process that lives for one import sweeps too."""
        while True:
            try:
                await sweep.sweep(
                    self._database,
                    self._store,
                    retention=self._settings.retention,
                    rejects_retention=self._settings.rejects_retention,
                    imports_retention=self._settings.imports_retention,
                )
            except Exception as error:  # next time, perhaps; imports go on
                log.warning("sweep.failed", error=type(error).__name__, where=where(error))
            await asyncio.sleep(SWEEP_SECONDS)

    async def _shut_down(self) -> None:
        """Let the slots commit what they have in hand and give their imports back."""
        if self._slots:
            await asyncio.wait(self._tasks(), timeout=DRAIN_SECONDS)
        if left := self._tasks():
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=liveness.GRACE_SECONDS)
        if self._control is not None and not self._slots:
            with suppress(psycopg.Error):
                await self.report(self._control)
                await workers.deregister(self._control, self._number)
        log.info("worker.drained", worker=self._number)

    async def _disconnect(self) -> None:
        control, self._control = self._control, None
        if control is not None:
            await control.close()


async def _notified(control: Connection, seconds: float) -> bool:
    """Whether a notification came within this time."""
    found = False
    async for _ in control.notifies(timeout=seconds, stop_after=1):
        found = True  # left early, the generator would keep the connection
    return found
