"""A loader: one connection's way through an import, batch after batch of its stretch of addresses, each one
transaction.

    settings of a batch → fence → ledger row → add, merge → Rejects (loader 0) → fill the row → COMMIT

Commits are asynchronous: ledger and contacts are in one WAL, so they vanish or stay together, and the closing statement
commits synchronously. Hence the rule for every lost connection: read attempt, state and ledger again before going on.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial

import numpy as np
import psycopg
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from rollcall import contacts, imports, ledger, rejects
from rollcall.contacts import Rows
from rollcall.database import Connection, classify
from rollcall.errors import ContactsContended, ContactsRefused, Fenced
from rollcall.loading.attempt import Attempt
from rollcall.loading.batch import LoadBatch
from rollcall.loading.not_storable import as_rejects, write_all, write_storable
from rollcall.loading.partition import UNFOLDED, fold, split
from rollcall.loading.queue import LoaderQueue, QueuedRows
from rollcall.loading.refusal import NOT_STORABLE_FAILS, NOT_UNIQUE, TRIGGERED, is_not_storable, refusal
from rollcall.loading.retries import Patience, end_others
from rollcall.loading.seen import Met, Seen
from rollcall.records.rules import NOT_STORABLE
from rollcall.telemetry import add_seconds, timed

CONFLICTS_MAX = 20
"""How often a batch may meet what somebody else has just written. Then it is no coincidence."""

log = structlog.get_logger()


class Rewind(Exception):
    """The ledger is not where this attempt left it: load again from what it says."""


class Loader:
    """Loads its queued rows until they end: `run`. `position` is the last Record loaded.

    What waits becomes one batch when the one before it is sent. The loaders of an import take turns in making theirs
    ready: that is when most memory is needed.

    The file and the contacts that were there before decide what the account says of a Record. So a loader has to know
    which keys the import has met. If there was no contact of this Source, whatever is there now is the import's: `seen`
    only tells what is new for sure, and goes straight into the table. Should somebody else write contacts of this
    Source meanwhile, the loader finds out, and from there on it merges as one who is not exclusive. Otherwise `seen`
    gives the exact answer, also for the Records that were loaded before, which it is shown again.
    """

    def __init__(
        self,
        attempt: Attempt,
        number: int,
        position: int,
        queue: LoaderQueue,
        *,
        seen: Seen | Met | None,
        fold_lock: asyncio.Lock,
    ) -> None:
        self.position, self._loaded, self._queue = position, position, queue
        self._exclusive, self._triggers, self._seen = True, False, seen
        self._database, self._job, self._number = attempt.database, attempt.job, number
        options = attempt.options
        self._update, self._strict = options.on_duplicate == "update", options.on_invalid == "fail"
        self._rejects_max, self._fold_lock = attempt.rejects_max, fold_lock
        self._ids = contacts.Ids(number)
        self._connection: Connection | None = None

    async def run(self) -> None:
        """Commit batch after batch; while one is sent, the next is made ready.

        Raises Fenced, Rewind, what `down` makes, or what the database refuses for good.
        """
        coming = asyncio.create_task(self._next())
        try:
            while (batch := await coming) is not None:
                coming = asyncio.create_task(self._next())
                await self._load(batch)
        except BaseException:
            coming.cancel()
            await self._disconnect()
            await asyncio.gather(coming, return_exceptions=True)
            raise
        if self._connection is not None:
            await self._database.give_back(self._connection)

    async def _next(self) -> LoadBatch | None:
        if not (portions := await self._queue.take()):
            return None
        async with self._fold_lock:
            with timed("fold"):
                return await asyncio.to_thread(self._prepare, portions, self._seen)

    def _prepare(self, portions: list[QueuedRows], seen: Seen | Met | None) -> LoadBatch:
        """Nothing is held longer than it is needed: a batch is in memory once as it came, and once as it goes."""
        begin, last, position = portions[0].first, portions[-1].last, portions[-1].position
        rejected = pa.concat_tables([portion.rejects for portion in portions])
        together = pa.concat_tables([portion.contacts for portion in portions])
        portions.clear()
        if begin <= self._loaded:
            together, rejected = self._behind(together, seen), rejected.filter(pc.field("record") > self._loaded)
        if isinstance(seen, Met):
            others, repeated = split(together, seen.meet)
            new, repeats = others.slice(0, 0), len(repeated)
            later, merged = fold(repeated) if self._update else (repeated.slice(0, 0), UNFOLDED)
        else:
            folded, merged = fold(together, "last" if self._update else "first")
            repeats = len(together) - len(folded)
            met = np.ones(len(folded), bool) if seen is None else seen.meet(folded["email"].combine_chunks())
            new, others, later = folded.filter(pa.array(~met)), folded.filter(pa.array(met)), folded.slice(0, 0)
            del folded
        del together
        rows = self._encode(new), self._encode(others), self._encode(later)
        return LoadBatch(last, position, *rows, repeats, merged, rejected)

    def _behind(self, together: pa.Table, seen: Seen | Met | None) -> pa.Table:
        """Without what was loaded before this attempt; its keys are met once more."""
        if isinstance(seen, Met):
            seen.meet(together.filter(pc.field("record") <= self._loaded)["email"].combine_chunks())
        return together.filter(pc.field("record") > self._loaded)

    def _encode(self, rows: pa.Table) -> Rows:
        return contacts.encode(rows, self._ids, source=self._job.source, import_id=self._job.id)

    async def _load(self, batch: LoadBatch) -> None:
        patience, conflicts = Patience(), 0
        while self.position < batch.last:
            try:
                if self._connection is None:
                    await self._connect(batch.last)
                else:
                    await self._commit(self._connection, batch)
                    self.position = batch.last
            except contacts.ConcurrentWrite as error:
                conflicts += not self._exclusive
                self._exclusive, self._seen = False, self._seen if isinstance(self._seen, Met) else None
                if conflicts > CONFLICTS_MAX:
                    raise self._conflict() from error
                await patience.pause(error)
            except psycopg.Error as error:
                if is_not_storable(error) and not batch.careful:
                    if self._strict:
                        raise ContactsRefused(f"{NOT_STORABLE_FAILS} (SQLSTATE {error.sqlstate}).") from error
                    batch = replace(batch, careful=True)
                    continue
                await self._recover(error)
                await patience.pause(error)

    def _conflict(self) -> ContactsRefused | ContactsContended:
        """Why the same batch meets somebody else's write every time."""
        return ContactsRefused(TRIGGERED) if self._triggers else ContactsContended()

    async def _commit(self, tx: Connection, batch: LoadBatch) -> None:
        async with tx.transaction():
            with timed("merge"):
                written = await self._write(tx, batch)
            began = time.perf_counter()
        add_seconds("commit", time.perf_counter() - began)
        # A row was there: a commit of ours whose answer was lost. Only if it ends where we end is it this batch.
        if not written and await ledger.last_of(tx, self._job.id, self._number, self.position + 1) != batch.last:
            raise Rewind

    async def _write(self, tx: Connection, batch: LoadBatch) -> bool:
        """All of a batch's statements; False when the ledger has a row for it already."""
        job, first = self._job, self.position + 1
        by_code = rejects.by_code(batch.rejects)
        table = await contacts.begin_batch(tx)
        if not await imports.fence(tx, job):
            raise Fenced
        if not await ledger.enter(
            tx, job.id, self._number, first=first, last=batch.last, attempt=job.attempt, position=batch.position
        ):
            return False
        try:
            done, left_out = await self._write_contacts(tx, batch, table)
        except psycopg.Error as error:
            raise refusal(error) or error from error
        if batch.rejects:
            await self._store(tx, batch.rejects)
        if left_out:
            by_code[NOT_STORABLE] = len(left_out)
            await rejects.add(tx, job.id, as_rejects(left_out))
        read = len(batch.new) + len(batch.others) + batch.repeats + len(batch.rejects)
        rejected = sum(by_code.values())
        outcome = (done.created, done.updated, done.unchanged, done.skipped, done.duplicate, rejected)
        await ledger.fill(tx, job.id, self._number, first, (read, *outcome), by_code)
        return True

    async def _write_contacts(
        self, tx: Connection, batch: LoadBatch, table: contacts.TableState
    ) -> tuple[contacts.Outcome, dict[int, str]]:
        """What became of them, and the Records that cannot be stored, each with the reason. Where there are triggers,
        rows are written so that it can be seen what became of them."""
        if not table.unique:
            raise ContactsRefused(NOT_UNIQUE)
        self._triggers = table.triggers
        exclusive = self._exclusive and not table.triggers
        upsert = partial(contacts.upsert, tx, exclusive=exclusive, verify=table.triggers)
        new, others = batch.new, batch.others
        if not exclusive:
            new, others = new.only(np.zeros(len(new), bool)), new + others
        rows_out = dict[int, str]()
        write = partial(write_storable, tx, left_out=rows_out) if batch.careful else write_all
        done = again = contacts.Outcome()
        if new:
            done = await write(new, partial(contacts.insert_new, tx))
        if others:
            done += await write(others, partial(upsert, update=self._update))
        first_out = len(rows_out)
        if batch.later:
            await contacts.clear_incoming(tx)
            again = await write(batch.later, partial(upsert, update=True))
        left_out = {each: why for record, why in rows_out.items() for each in batch.folded.with_record(record)}
        created = done.created + again.created  # again: what is not there although it was brought
        repeats = batch.repeats - (len(left_out) - first_out)
        return replace(done, created=created, duplicate=done.duplicate + repeats - again.created), left_out

    async def _store(self, tx: Connection, found: pa.Table) -> None:
        """Of an import's Rejects the first are stored: only what the ledger has before this batch decides, so that
        no attempt leaves one out between two others, whatever the one before it let in."""
        last, before = await ledger.rejects_so_far(tx, self._job.id)
        if before < self._rejects_max and await rejects.count(tx, self._job.id, last) == before:
            await rejects.add(tx, self._job.id, found.slice(0, self._rejects_max - before))

    async def _connect(self, due: int) -> None:
        """Connect and look: still mine, and is the ledger where I left it (or already where I am going)?"""
        job = self._job
        self._connection = await self._database.connect(f"rollcall:{job.id}:{job.attempt}:{self._number}")
        if await imports.state_and_attempt(self._connection, job.id) != ("running", job.attempt):
            raise Fenced
        stands = (await ledger.positions(self._connection, job.id, self._number + 1))[self._number]
        if stands == due:
            self.position = due
        elif stands != self.position:
            raise Rewind
        await contacts.prepare(self._connection)

    async def _recover(self, error: psycopg.Error) -> None:
        match classify(error, self._connection):
            case "fault":
                raise error
            case "locked":
                await end_others(self._connection, self._job, self._number)
            case "lost" | "again":  # dialling may have come half way only
                await self._disconnect()
        log.info("loader.again", import_id=str(self._job.id), loader=self._number, sqlstate=error.sqlstate)

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
