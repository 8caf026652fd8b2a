"""Contacts as they are listed: page after page, newest first, each bounded by rows and by bytes. Reads only."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import datetime
from typing import LiteralString, NamedTuple, cast
from uuid import UUID

from psycopg.rows import class_row

from rollcall.database import Connection

ROW_BYTES = 512
"""Upper bound of what a row takes in an answer beside its texts."""
SHOWN: LiteralString = "c.id, c.name, c.email, c.source, c.attributes::text, c.imported_at, c.import_id, c.record"
REST: LiteralString = """
   and (%(after)s::uuid is null or c.id < %(after)s)
 order by c.id desc limit %(limit)s offset %(offset)s
"""
PAGE: LiteralString = f"""
select {SHOWN} from public.contacts c
 where (%(source)s::text is null or c.source = %(source)s)
   and (%(sources)s::text[] is null or c.source = any(%(sources)s))
   and (%(email)s::text is null or c.email = lower(%(email)s)) {REST}
"""
PAGE_OF_EMAIL: LiteralString = f"""
with recursive labels as (
       (select source from public.contacts order by source limit 1)
       union all
       select (select n.source from public.contacts n where n.source > l.source order by n.source limit 1)
         from labels l where l.source is not null)
select {SHOWN} from labels l join public.contacts c on c.source = l.source and c.email = lower(%(email)s)
 where true {REST}
"""
"""An email of all Sources: one probe of the unique index for each Source. Before Postgres 18 skips within an index by
itself, it reads the whole index for such a condition."""


@dataclass(frozen=True)
class Contact:
    """One row. `attributes` is the JSON text that Postgres writes: no parser of Python keeps every number and depth."""

    id: UUID
    name: str
    email: str
    source: str
    attributes: str
    imported_at: datetime
    import_id: UUID | None
    record: int | None


class Page(NamedTuple):
    """Some contacts, and the id after which there may be more; None: there are no more."""

    contacts: list[Contact]
    next: UUID | None


async def page(
    tx: Connection,
    *,
    source: str | None,
    email: str | None,
    after: UUID | None,
    offset: int,
    limit: int,
    bytes_max: int,
    sources: list[str] | None = None,
) -> Page:
    """Newest first, by id; `after` is the id of the last one seen. `sources`: of these only; None: of all.

    Rows are fetched one by one, and the page ends before the row with which it would hold more than `bytes_max` bytes:
    a row may have many megabytes of attributes, so a number of rows bounds no memory. The first row is always taken.
    """
    values = {"source": source, "sources": sources, "email": email, "after": after, "limit": limit, "offset": offset}
    query = PAGE_OF_EMAIL if email is not None and source is None and sources is None else PAGE
    found: list[Contact] = []
    size = 0
    async with tx.cursor(row_factory=class_row(Contact)) as cursor:
        rows = cast(AsyncGenerator[Contact, None], cursor.stream(query, values))
        async with aclosing(rows):  # cancels the statement when it is left early
            async for contact in rows:
                texts = (contact.name, contact.email, contact.source, contact.attributes)
                size += ROW_BYTES + sum(len(text.encode()) for text in texts)
                if found and size > bytes_max:
                    return Page(found, found[-1].id)
                found.append(contact)
    return Page(found, found[-1].id if len(found) == limit else None)
