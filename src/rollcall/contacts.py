"""Contacts: the ways in (merge; add, for what is new). `contact_pages` lists them.

A batch's folded rows travel as binary COPY into a temporary table. One statement finds those that are contacts already,
changes what differs and says which are missing; those are copied into `contacts`. Counts come from returned rows, never
from a row count of `contacts`; no constraint's name and no unique id is relied on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import LiteralString
from uuid import UUID

import numpy as np
import numpy.typing as npt
import psycopg
import pyarrow as pa

from rollcall import binary_copy
from rollcall.binary_copy import Column
from rollcall.database import Connection
from rollcall.errors import ContactsRefused

COLUMNS: LiteralString = "id, name, email, source, attributes, imported_at, import_id, record"
TEMPORARY: LiteralString = """
create temp table if not exists incoming (id uuid, name text, email text collate "C", source text collate "C",
    attributes jsonb, imported_at timestamptz, import_id uuid, record bigint) on commit delete rows
"""
FOUND: LiteralString = """
with found as materialized (
       select o.import_id is not distinct from i.import_id as own,
              o.name <> i.name or (o.attributes <> i.attributes and o.attributes <> o.attributes || i.attributes)
                  as differs, i.*
         from incoming i join public.contacts o using (source, email)),
"""
CHANGE: LiteralString = """
     changed as (update public.contacts c
                    set name = f.name, attributes = c.attributes || f.attributes, import_id = f.import_id,
                        record = f.record, imported_at = f.imported_at
                   from found f where c.source = f.source and c.email = f.email and f.differs returning 1)
select count(*) filter (where own), count(*) filter (where not own and differs),
       count(*) filter (where not own and not differs), 0,
       (select count(*) from changed) = count(*) filter (where differs),
"""
KEEP: LiteralString = """
     nothing as (select)
select count(*) filter (where own), 0, 0, count(*) filter (where not own), true,
"""
MISSING: LiteralString = """
       case when count(*) < %s then (select string_agg(int8send(record), '') from incoming
                                      where record not in (select record from found)) end
  from found
"""
INSERT_MISSING: LiteralString = f"""
insert into public.contacts ({COLUMNS}) select {COLUMNS} from incoming order by email
    on conflict (source, email) do nothing returning record
"""
BEGIN_BATCH: LiteralString = """
select set_config('synchronous_commit', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('enable_mergejoin', 'off', true),
       exists (select from pg_index i where i.indrelid = t.oid and i.indisunique and i.indimmediate and i.indisvalid
                  and i.indpred is null and i.indexprs is null and i.indnkeyatts = 2
                  and array(select a.attname::text from pg_attribute a where a.attrelid = t.oid
                             and a.attnum = any(i.indkey[0:1]) order by 1) = array['email', 'source']),
       exists (select from pg_trigger g where g.tgrelid = t.oid and not g.tgisinternal and g.tgenabled <> 'D'
                  and g.tgtype::integer & 1 = 1 and g.tgtype::integer & 20 > 0)
  from (select 'public.contacts'::regclass as oid) t
"""
"""For a batch's transaction alone. `synchronous_commit`: do not wait for the disk at COMMIT; right on one Postgres
only, where ledger and contacts share one WAL. The joins: planned without these settings, the statement that updates
reads all of `contacts` for every batch, until there are millions of them. Then whether (source, email) is unique, and
whether there is a trigger for each row (bit 1 of tgtype) of INSERT or UPDATE (bits 4 and 16).
"""
WRITTEN: LiteralString = "select count(*) from incoming i join public.contacts c using (source, email)"
REFUSALS = {
    "23": "a constraint that is not Rollcall's",
    "P0": "a trigger raises an error",
    "27": "a trigger changes the contacts that are being written",
    "0A": "it has a rule, or another feature that an import cannot live with",
    "42501": "this user may not write to it",
    "42": "it lacks a column or an index, or another type stands in its place",
    "44": "a view's check option",
}
"""By the first characters of the SQLSTATE."""
NOT_UNIQUE = (
    "The table contacts has no unique index on (source, email) any more."
    " Create it: create unique index on public.contacts (source, email)."
)
TRIGGERED = (
    "A trigger of the table contacts leaves out contacts that an import writes, or gives them other addresses."
    " Nothing of them was kept. Drop or change the trigger, and retry the import."
)
ENCODED_ROWS = 8192
"""How many are encoded into one piece of memory: large pieces cost more than many."""
POSTGRES_EPOCH = 946_684_800


class ConcurrentWrite(Exception):
    """Somebody else wrote these contacts just now, it seems: the batch has to be tried again."""


@dataclass(frozen=True)
class TableState:
    """What stands about `contacts` in the catalog when a batch begins.

    `unique`: the index that makes (source, email) unique is there. `triggers`: a trigger of somebody else's sees every
    row, so it may leave some out, or change them.
    """

    unique: bool
    triggers: bool


@dataclass(frozen=True)
class Outcome:
    """What became of a batch's folded rows."""

    created: int
    updated: int
    unchanged: int
    skipped: int
    duplicate: int


class Ids:
    """UUIDv7s of one loader: the time, the loader's number, then rising. So two loaders hardly meet on an index page,
    and take turns in adding to the end of the index, which is the cheapest place."""

    def __init__(self, loader: int) -> None:
        self._loader = loader
        self._low = (2 << 62) | (int.from_bytes(os.urandom(6), "big") << 12)

    def take(self, count: int) -> bytes:
        """`count` ids, 16 bytes each."""
        pairs = np.empty((count, 2), ">u8")
        pairs[:, 0] = (time.time_ns() // 1_000_000 << 16) | (7 << 12) | self._loader
        pairs[:, 1] = np.arange(count, dtype=np.uint64) + np.uint64(self._low)
        self._low += count
        return pairs.tobytes()


@dataclass(frozen=True)
class Rows:
    """Contacts ready for binary COPY (a chunked array), and the Record number of each."""

    encoded: Column
    records: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.records)

    def __add__(self, others: Rows) -> Rows:
        encoded = pa.chunked_array([*self.encoded.chunks, *others.encoded.chunks], pa.binary())
        return Rows(encoded, np.append(self.records, others.records))

    def only(self, chosen: npt.NDArray[np.bool_]) -> Rows:
        """Some of them."""
        return Rows(self.encoded.filter(pa.array(chosen)), self.records[chosen])


def encode(rows: pa.Table, ids: Ids, *, source: str, import_id: UUID) -> Rows:
    """Make folded rows (email, name, attributes, record; one a key) ready, by COLUMNS."""
    now = _timestamp(datetime.now(UTC))
    some = [rows.slice(at, ENCODED_ROWS) for at in range(0, rows.num_rows, ENCODED_ROWS)]
    encoded = [
        binary_copy.rows(
            binary_copy.fixed(ids.take(piece.num_rows), 16),
            binary_copy.text(piece["name"]),
            binary_copy.text(piece["email"]),
            binary_copy.constant(source.encode()),
            binary_copy.jsonb(piece["attributes"]),
            binary_copy.constant(now),
            binary_copy.constant(import_id.bytes),
            binary_copy.int8(piece["record"]),
        )
        for piece in some
    ]
    return Rows(pa.chunked_array(encoded, pa.binary()), rows["record"].to_numpy())


async def prepare(tx: Connection) -> None:
    """The temporary tables of a session that will merge."""
    await tx.execute(TEMPORARY)


async def source_is_empty(tx: Connection, source: str) -> bool:
    """Whether there is no contact of this Source; asked so that the index answers, however many others there are."""
    cursor = await tx.execute("select 1 from public.contacts where source = %s order by email limit 1", (source,))
    return await cursor.fetchone() is None


async def begin_batch(tx: Connection) -> TableState:
    """The settings of a batch, the one place; and what may keep `contacts` from taking it."""
    row = await (await tx.execute(BEGIN_BATCH)).fetchone()
    assert row is not None
    return TableState(*row[3:])


async def insert_new(tx: Connection, rows: Rows) -> None:
    """Bring rows in that are new: two thirds of the work of `upsert`.

    Raises ConcurrentWrite when one is there already, or when the server wrote fewer than it was sent.
    """
    try:
        written = await _copy(tx, "public.contacts", rows)
    except psycopg.errors.UniqueViolation as error:
        raise ConcurrentWrite from error
    if written != len(rows):
        raise ConcurrentWrite


async def upsert(tx: Connection, rows: Rows, *, update: bool, exclusive: bool, verify: bool = False) -> Outcome:
    """Bring rows in: new values win, blanks never erase, attributes merge; or, without `update`, the contact that is
    there stays. A row that this very import wrote is a duplicate.

    `exclusive`: nobody else is thought to write contacts of this Source; that saves a sixth of the work for what is
    new. `verify`: a trigger may do as it likes, so all rows are looked for once more. Raises ConcurrentWrite when that
    thought was wrong, or when the server has not written what it was given.
    """
    await _copy(tx, "incoming", rows)
    async with tx.cursor() as cursor:
        await cursor.execute(FOUND + (CHANGE if update else KEEP) + MISSING, (len(rows),))
        row = await cursor.fetchone()
        assert row is not None
        own, updated, unchanged, skipped, whole, records = row
        if not whole:
            raise ConcurrentWrite
        missing = np.frombuffer(records or b"", ">i8")
        if len(missing) and exclusive:
            await insert_new(tx, rows.only(np.isin(rows.records, missing, assume_unique=True)))
        elif len(missing):
            await cursor.execute(INSERT_MISSING)
            if {record for (record,) in await cursor.fetchall()} != set(missing.tolist()):
                raise ConcurrentWrite
        if verify and await (await cursor.execute(WRITTEN)).fetchone() != (len(rows),):
            raise ConcurrentWrite
    return Outcome(len(missing), updated, unchanged, skipped, own)


def refusal(error: psycopg.Error) -> ContactsRefused | None:
    """Why `contacts` does not take what it was given, if it is the table that refuses. Names no contact."""
    state = error.sqlstate or ""
    why = next((why for begin, why in REFUSALS.items() if state.startswith(begin)), None)
    if why is None:
        return None
    return ContactsRefused(f"The table contacts refuses what this import writes: {why} (SQLSTATE {state}).")


async def readable(tx: Connection) -> None:
    """Raises what the database says when contacts cannot be read (`select 1` would not notice)."""
    await tx.execute("select id from public.contacts limit 1")


async def _copy(tx: Connection, table: LiteralString, rows: Rows) -> int:
    return await binary_copy.copy(tx, f"copy {table} ({COLUMNS}) from stdin (format binary)", rows.encoded.chunks)


def _timestamp(moment: datetime) -> bytes:
    return int((moment.timestamp() - POSTGRES_EPOCH) * 1e6).to_bytes(8, "big")
