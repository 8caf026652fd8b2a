"""Contacts: the ways in (merge; add, for what is new for sure), and the way to look at them.

A Share's folded rows travel as binary COPY into a temporary table. Statement one inserts the keys that are new and sets
the others aside; statement two, only if there are others, tells what becomes of them. Counts come from returned rows,
never from a row count of `contacts`; no constraint's name and no unique id is relied on.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString
from uuid import UUID

import numpy as np
import pyarrow as pa
from psycopg.rows import class_row

from rollcall import copying
from rollcall.copying import Data
from rollcall.database import Connection

COLUMNS: LiteralString = "id, name, email, source, attributes, imported_at, import_id, record"
TEMPORARY: LiteralString = """
create temp table if not exists incoming (id uuid, name text, email text collate "C", source text collate "C",
    attributes jsonb, imported_at timestamptz, import_id uuid, record bigint) on commit delete rows;
create temp table if not exists leftover (like incoming) on commit delete rows
"""
INSERT_NEW: LiteralString = f"""
with new as (insert into public.contacts ({COLUMNS}) select {COLUMNS} from incoming order by email
             on conflict (source, email) do nothing returning email)
insert into leftover select i.* from incoming i where not exists (select from new where new.email = i.email)
"""
SEEN: LiteralString = """
with seen as materialized (
       select o.import_id is not distinct from l.import_id as own,
              (o.name, o.attributes) is distinct from (l.name, o.attributes || l.attributes) as differs, l.*
         from leftover l join public.contacts o using (source, email)),
"""
UPDATE_REST: LiteralString = (
    SEEN
    + """
     changed as (update public.contacts c
                    set name = s.name, attributes = c.attributes || s.attributes, import_id = s.import_id,
                        record = s.record, imported_at = s.imported_at
                   from seen s where c.source = s.source and c.email = s.email and s.differs returning 1)
select count(*) filter (where own), count(*) filter (where not own and differs),
       count(*) filter (where not own and not differs), 0,
       (select count(*) from changed) = count(*) filter (where differs)
  from seen
"""
)
SKIP_REST: LiteralString = (
    SEEN
    + "nothing as (select) select count(*) filter (where own), 0, 0, count(*) filter (where not own), true from seen"
)
BY_INDEX: LiteralString = "set local enable_hashjoin = off; set local enable_mergejoin = off"
"""Planned without these, statement two reads all of `contacts` for every Share, until there are millions of them."""
POSTGRES_EPOCH = 946_684_800


class Contended(Exception):
    """Somebody else deleted a contact between the two statements: the Share has to be tried again."""


@dataclass(frozen=True)
class Outcome:
    """What became of a Share's folded rows."""

    created: int
    updated: int
    unchanged: int
    skipped: int
    duplicate: int


@dataclass(frozen=True)
class Contact:
    """One row."""

    id: UUID
    name: str
    email: str
    source: str
    attributes: dict[str, Any]
    imported_at: datetime
    import_id: UUID | None
    record: int | None


class Ids:
    """UUIDv7s of one Lane: one time stamp, the Lane's number, then rising; so two Lanes never meet on an index page."""

    def __init__(self, lane: int) -> None:
        self._high = (time.time_ns() // 1_000_000 << 16) | (7 << 12) | lane
        self._low = (2 << 62) | (int.from_bytes(os.urandom(6), "big") << 12)

    def take(self, count: int) -> bytes:
        """`count` ids, 16 bytes each."""
        pairs = np.empty((count, 2), ">u8")
        pairs[:, 0] = self._high
        pairs[:, 1] = np.arange(count, dtype=np.uint64) + np.uint64(self._low)
        self._low += count
        return pairs.tobytes()


def encode(rows: pa.Table, ids: Ids, *, source: str, import_id: UUID) -> Data:
    """Folded rows (email, name, attributes, record; one a key) as a binary COPY of COLUMNS."""
    return copying.rows(
        copying.fixed(ids.take(rows.num_rows), 16),
        copying.text(rows["name"]),
        copying.text(rows["email"]),
        copying.constant(source.encode()),
        copying.jsonb(rows["attributes"]),
        copying.constant(_timestamp(datetime.now(UTC))),
        copying.constant(import_id.bytes),
        copying.int8(rows["record"]),
    )


async def prepare(tx: Connection) -> None:
    """The temporary tables of a session that will merge."""
    await tx.execute(TEMPORARY)


async def vacant(tx: Connection, source: str) -> bool:
    """Whether there is no contact of this Source; asked so that the index answers, however many others there are."""
    cursor = await tx.execute("select 1 from public.contacts where source = %s order by email limit 1", (source,))
    return await cursor.fetchone() is None


async def add(tx: Connection, copy_data: Data) -> None:
    """Bring encoded rows in that are new for sure: half the work of `merge`. Raises UniqueViolation when one is not."""
    await _copy(tx, "public.contacts", copy_data)


async def merge(tx: Connection, copy_data: Data, count: int, *, update: bool) -> Outcome:
    """Bring `count` encoded rows in: new values win, blanks never erase, attributes merge; or, without `update`, the
    contact that is there stays. A row that this very import wrote is a duplicate. Raises Contended."""
    await _copy(tx, "incoming", copy_data)
    async with tx.cursor() as cursor:
        await cursor.execute(INSERT_NEW)
        left = cursor.rowcount
        if not left:
            return Outcome(count, 0, 0, 0, 0)
        await cursor.execute(BY_INDEX)
        await cursor.execute(UPDATE_REST if update else SKIP_REST)
        row = await cursor.fetchone()
    assert row is not None
    own, updated, unchanged, skipped, whole = row
    if not whole or own + updated + unchanged + skipped != left:
        raise Contended
    return Outcome(count - left, updated, unchanged, skipped, own)


async def page(
    tx: Connection,
    *,
    source: str | None,
    email: str | None,
    after: UUID | None,
    offset: int,
    limit: int,
    sources: list[str] | None = None,
) -> list[Contact]:
    """Newest first, by id; `after` is the id of the last one seen. `sources`: of these only; None: of all."""
    async with tx.cursor(row_factory=class_row(Contact)) as cursor:
        await cursor.execute(
            f"""select {COLUMNS} from public.contacts
                 where (%(source)s::text is null or source = %(source)s)
                   and (%(sources)s::text[] is null or source = any(%(sources)s))
                   and (%(email)s::text is null or email = lower(%(email)s))
                   and (%(after)s::uuid is null or id < %(after)s)
                 order by id desc limit %(limit)s offset %(offset)s""",
            {"source": source, "sources": sources, "email": email, "after": after, "limit": limit, "offset": offset},
        )
        return await cursor.fetchall()


async def readable(tx: Connection) -> None:
    """Raises what the database says when contacts cannot be read (`select 1` would not notice)."""
    await tx.execute("select id from public.contacts limit 1")


async def _copy(tx: Connection, table: LiteralString, copy_data: Data) -> None:
    await copying.copy(tx, f"copy {table} ({COLUMNS}) from stdin (format binary)", copy_data)


def _timestamp(moment: datetime) -> bytes:
    return int((moment.timestamp() - POSTGRES_EPOCH) * 1e6).to_bytes(8, "big")
