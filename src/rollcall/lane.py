"""A Lane: one connection's way through an import, Share after Share of its stretch of addresses, each one transaction.

    settings of a Share → fence → ledger row → add, merge → Rejects (Lane 0) → fill the row → COMMIT

Commits are asynchronous: ledger and contacts are in one WAL, so they vanish or stay together, and the closing statement
commits synchronously. Hence the rule for every lost connection: read attempt, state and ledger again before going on.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Literal, TypeVar

import numpy as np
import psycopg
import pyarrow as pa
import structlog

from rollcall import contacts, imports, ledger, rejects
from rollcall.contacts import Rows
from rollcall.database import Connection, Database, asynchronous_commit, down, end_sessions, meaning
from rollcall.errors import Fenced
from rollcall.imports import Import
from rollcall.portions import Portion, Portions
from rollcall.records import fold
from rollcall.records.seen import Seen
from rollcall.telemetry import RETRIES, spend, spending

PATIENCE_SECONDS = 300.0
"""How long a database may be away before the work is given back."""
FULL_PATIENCE_SECONDS = 10.0
"""The same for one that is there but has no room: people are to hear of it soon."""
PAUSE_SECONDS = (0.05, 0.3)
REST_SECONDS = 5.0
DESK = 99
"""The lane number under which an import's single statements run; no Lane has it."""

NOTHING = contacts.Outcome(0, 0, 0, 0, 0)

log = structlog.get_logger()
Answer = TypeVar("Answer")


class Rewind(Exception):
    """The ledger is not where this attempt left it: load again from what it says."""


class Patience:
    """Waits between tries, and how long in all; counts from the first trouble."""

    def __init__(self) -> None:
        self._since: float | None = None

    async def pause(self, error: Exception) -> None:
        """Raises DatabaseDown or DatabaseFull when it has lasted too long."""
        self._since = self._since or time.monotonic()
        full = isinstance(error, psycopg.errors.DiskFull)
        if time.monotonic() - self._since > (FULL_PATIENCE_SECONDS if full else PATIENCE_SECONDS):
            raise down(error) from error
        RETRIES.labels(_why(error)).inc()
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311  spreads retries, guards nothing


@dataclass(frozen=True)
class Share:
    """Portions, one after the other, made ready; one row a key. `new` cannot be among the contacts, `rest` may be."""

    last: int
    position: int
    new: Rows
    rest: Rows
    repeats: int
    rejects: pa.Table


class Lane:
    """Loads its Portions until they end: `run`. `position` is the last Record loaded.

    What waits becomes one Share when the one before it is sent. The Lanes of an import take turns in making theirs
    ready: that is when most memory is needed.

    `vacant`: there was no contact of this Source when the load began. Then a key that this Lane has not met yet is new,
    and goes straight into the table. Should somebody else write contacts of this Source meanwhile, it finds out, and
    from there on it merges as one who is not alone.
    """

    def __init__(
        self,
        database: Database,
        job: Import,
        number: int,
        position: int,
        portions: Portions,
        *,
        update: bool,
        vacant: bool,
        rejects_max: int,
        turn: asyncio.Lock,
    ) -> None:
        self.position, self._portions = position, portions
        self._alone, self._seen = True, Seen() if vacant else None
        self._database, self._job, self._number, self._update = database, job, number, update
        self._rejects_max, self._turn = rejects_max, turn
        self._ids = contacts.Ids(number)
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Commit Share after Share; while one is sent, the next is made ready.

        Raises Fenced, Rewind, what `down` makes, or what the database refuses for good.
        """
        coming = asyncio.create_task(self._next())
        try:
            while (share := await coming) is not None:
                coming = asyncio.create_task(self._next())
                await self._load(share)
        except BaseException:
            coming.cancel()
            await self._hang_up()
            await asyncio.gather(coming, return_exceptions=True)
            raise
        if self._connection is not None:
            await self._database.give_back(self._connection)

    async def _next(self) -> Share | None:
        if not (portions := await self._portions.take()):
            return None
        async with self._turn:
            with spending("fold"):
                return await asyncio.to_thread(self._ready, portions, self._seen)

    def _ready(self, portions: list[Portion], seen: Seen | None) -> Share:
        """Nothing is held longer than it is needed: a Share is in memory once as it came, and once as it goes."""
        last, position = portions[-1].last, portions[-1].position
        rejected = pa.concat_tables([portion.rejects for portion in portions])
        together = pa.concat_tables([portion.contacts for portion in portions])
        portions.clear()
        folded, repeats = fold(together, "last" if self._update else "first")
        del together
        met = np.ones(len(folded), bool) if seen is None else seen.meet(folded["email"].combine_chunks())
        new, rest = folded.filter(pa.array(~met)), folded.filter(pa.array(met))
        del folded
        return Share(last, position, self._encoded(new), self._encoded(rest), repeats, rejected)

    def _encoded(self, rows: pa.Table) -> Rows:
        return contacts.encode(rows, self._ids, source=self._job.source, import_id=self._job.id)

    async def _load(self, share: Share) -> None:
        patience = Patience()
        while self.position < share.last:
            try:
                if self._connection is None:
                    await self._dial(share.last)
                else:
                    await self._commit(self._connection, share)
                    self.position = share.last
            except contacts.Contended as error:
                await patience.pause(error)
            except psycopg.errors.UniqueViolation:
                if not self._alone:
                    raise
                self._alone, self._seen = False, None
            except psycopg.Error as error:
                await self._recover(error)
                await patience.pause(error)

    async def _commit(self, tx: Connection, share: Share) -> None:
        async with tx.transaction():
            with spending("merge"):
                written = await self._write(tx, share)
            began = time.perf_counter()
        spend("commit", time.perf_counter() - began)
        # A row was there: a commit of ours whose answer was lost. Only if it ends where we end is it this Share.
        if not written and await ledger.last_of(tx, self._job.id, self._number, self.position + 1) != share.last:
            raise Rewind

    async def _write(self, tx: Connection, share: Share) -> bool:
        """All of a Share's statements; False when the ledger has a row for it already."""
        job, first = self._job, self.position + 1
        by_code = rejects.by_code(share.rejects)
        rejected = sum(by_code.values())
        await asynchronous_commit(tx)
        if not await imports.fence(tx, job):
            raise Fenced
        if not await ledger.enter(
            tx, job.id, self._number, first=first, last=share.last, attempt=job.attempt, position=share.position
        ):
            return False
        done = await self._bring(tx, share)
        if share.rejects:
            await self._store(tx, share.rejects)
        read = len(share.new) + len(share.rest) + share.repeats + rejected
        outcome = (done.created, done.updated, done.unchanged, done.skipped, share.repeats + done.duplicate, rejected)
        await ledger.fill(tx, job.id, self._number, first, (read, *outcome), by_code)
        return True

    async def _bring(self, tx: Connection, share: Share) -> contacts.Outcome:
        new, rest = share.new, share.rest
        if not self._alone:
            new, rest = new.only(np.zeros(len(new), bool)), new + rest
        if new:
            await contacts.add(tx, new)
        done = await contacts.merge(tx, rest, update=self._update, alone=self._alone) if rest else NOTHING
        return replace(done, created=len(new) + done.created)

    async def _store(self, tx: Connection, found: pa.Table) -> None:
        """Of an import's Rejects the first are stored: only what the ledger has before this Share decides, so that
        no attempt leaves one out between two others, whatever the one before it let in."""
        last, before = await ledger.judged(tx, self._job.id)
        if before < self._rejects_max and await rejects.count(tx, self._job.id, last) == before:
            await rejects.add(tx, self._job.id, found.slice(0, self._rejects_max - before))

    async def _dial(self, due: int) -> None:
        """Connect and look: still mine, and is the ledger where I left it (or already where I am going)?"""
        job = self._job
        self._connection = await self._database.connect(f"rollcall:{job.id}:{job.attempt}:{self._number}")
        if await imports.standing(self._connection, job.id) != ("running", job.attempt):
            raise Fenced
        stands = (await ledger.positions(self._connection, job.id, self._number + 1))[self._number]
        if stands == due:
            self.position = due
        elif stands != self.position:
            raise Rewind
        await contacts.prepare(self._connection)

    async def _recover(self, error: psycopg.Error) -> None:
        match meaning(error, self._connection):
            case "fault":
                raise error
            case "locked":
                await end_others(self._connection, self._job, self._number)
            case "lost" | "again":  # dialling may have come half way only
                await self._hang_up()
        log.info("lane.again", import_id=str(self._job.id), lane=self._number, sqlstate=error.sqlstate)

    async def _hang_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


def _why(error: Exception) -> Literal["conflict", "locked", "lost"]:
    """For people who count retries; what to do about it is decided by `meaning`."""
    if not isinstance(error, psycopg.Error) or (found := meaning(error)) == "again":
        return "conflict"
    return "locked" if found == "locked" else "lost"


async def end_others(connection: Connection | None, job: Import, lane: int | None = None) -> None:
    """End what holds a lock we need: sessions of older attempts, and older ones of this very Lane; or of all Lanes."""
    if connection is not None:
        with suppress(psycopg.Error):
            await end_sessions(connection, job.id, attempt=job.attempt - 1)
            await end_sessions(connection, job.id, attempt=job.attempt, lane=lane)


async def settle(database: Database, job: Import, work: Callable[[Connection], Awaitable[Answer]]) -> Answer:
    """Do a piece of this import's work on a connection of its own, again and again until the database answers.

    `work` must be safe to do twice. No Lane of this attempt is at work: a session of one that is in the way is only
    left over, and holds the fence. Raises DatabaseDown, DatabaseFull when patience ends.
    """
    patience = Patience()
    while True:
        connection: Connection | None = None
        try:
            connection = await database.connect(f"rollcall:{job.id}:{job.attempt}:{DESK}")
            answer = await work(connection)
            await database.give_back(connection)
            connection = None
            return answer
        except psycopg.Error as error:
            match meaning(error, connection):
                case "fault":
                    raise
                case "locked":
                    await end_others(connection, job)
            await patience.pause(error)
        finally:
            if connection is not None:
                await connection.close()


async def rest(draining: asyncio.Event) -> None:
    """Before an import is let go that could not be worked on: who takes it next, at once, meets the same trouble."""
    with suppress(TimeoutError):
        await asyncio.wait_for(draining.wait(), REST_SECONDS)


def gravest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several Lanes' faults the one that decides: fenced before rewind before all others."""
    return min(group.exceptions, key=lambda fault: (not isinstance(fault, Fenced), not isinstance(fault, Rewind)))
