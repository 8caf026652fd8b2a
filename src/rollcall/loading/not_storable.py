"""Contacts that pass every rule, and that Postgres cannot store: each of them becomes a Reject, the others are loaded.

A contact may have grown beyond what Postgres allows, or an index or a column of the user's does not take a value. The
error does not say which row it was: the rows are halved until it is found, each half in a savepoint.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

import psycopg
import pyarrow as pa

from rollcall import contacts, imports, rejects
from rollcall.contacts import Outcome, Rows
from rollcall.database import Connection
from rollcall.errors import ContactsRefused, Fenced
from rollcall.loading.attempt import Attempt
from rollcall.loading.refusal import is_not_storable
from rollcall.records import Plan, cut_records
from rollcall.records.rules import NOT_STORABLE, VALUE_LENGTH_MAX
from rollcall.waiting import in_thread

ROWS_MAX = 1_000
"""More rows of one batch than this are no matter of single contacts: the table does not take them."""

Write = Callable[[Rows], Awaitable[Outcome]]


async def write_all(rows: Rows, write: Write) -> Outcome:
    """Write all rows at once."""
    return await write(rows)


async def write_storable(tx: Connection, rows: Rows, write: Write, *, left_out: dict[int, str]) -> Outcome:
    """Write all rows but those that cannot be stored: these are noted, by their Record, with what Postgres says.

    A row takes at most 2 log2(n) tries to find. Raises ContactsRefused when there are more than ROWS_MAX.
    """
    try:
        async with tx.transaction():
            await contacts.clear_incoming(tx)
            return await write(rows)
    except psycopg.Error as error:
        if not is_not_storable(error):
            raise
        if len(rows) == 1:
            left_out[int(rows.records[0])] = error.diag.message_primary or ""
            if len(left_out) > ROWS_MAX:
                raise ContactsRefused(
                    f"The table contacts does not take thousands of these contacts (SQLSTATE {error.sqlstate}). Look"
                    " at its indexes, its triggers and the types of its columns."
                ) from error
            return Outcome()
    half = len(rows) // 2
    done = await write_storable(tx, rows.slice(0, half), write, left_out=left_out)
    return done + await write_storable(tx, rows.slice(half), write, left_out=left_out)


def as_rejects(found: dict[int, str]) -> pa.Table:
    """Rejects of these Records, each with what Postgres says of it. Their bytes follow later (`add_raw`)."""
    values = [why.replace("\0", "")[:VALUE_LENGTH_MAX] for why in found.values()]
    rows = [
        {"record": record, "code": NOT_STORABLE, "value": value, "raw": b""}
        for record, value in zip(found, values, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=rejects.SCHEMA)


async def add_raw(attempt: Attempt, plan: Plan) -> None:
    """Give every such Reject the bytes of its Record: the file is read once more, if there is one that lacks them.

    Raises Fenced, and what reading the file raises.
    """
    job = attempt.job
    if not (numbers := await attempt.ask(lambda tx: rejects.without_raw(tx, job.id))):
        return
    with attempt.open_file() as stream:
        coming = cut_records(stream, plan, numbers)
        while found := await in_thread(lambda: next(coming, None)):
            await attempt.ask(partial(_set_raw, attempt=attempt, found=found))


async def _set_raw(tx: Connection, *, attempt: Attempt, found: Iterable[tuple[int, bytes]]) -> None:
    async with tx.transaction():
        if not await imports.fence(tx, attempt.job):
            raise Fenced
        await rejects.set_raw(tx, attempt.job.id, found)
