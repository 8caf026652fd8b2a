"""List contacts in pages, newest first. Rows and bytes bound a page. Reads only."""

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
"""Upper bound of a row's bytes in an answer, without its texts."""
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
"""An email in all Sources: one probe of the unique index for each Source. Postgres before 18 has no skip scan, and
would read the whole index for a condition on its second column alone."""


@dataclass(frozen=True)
class Contact:
    """One row. `attributes` is Postgres' own JSON text: Python's parsers lose digits of numbers, and refuse depth."""

    id: UUID
    name: str
    email: str
    source: str
    attributes: str
    imported_at: datetime
    import_id: UUID | None
    record: int | None


class Page(NamedTuple):
    """Some contacts, and the id after which the next page begins; None for the last page."""

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
    """Newest first, by id. `after`: the id of the last contact seen. `sources`: only these; None: all.

    Rows are fetched one at a time, and the page ends before the row that would bring it above `bytes_max`: one row may
    have megabytes of attributes, so `limit` alone does not bound memory. The first row is always taken.
    """
    values = {"source": source, "sources": sources, "email": email, "after": after, "limit": limit, "offset": offset}
    query = PAGE_OF_EMAIL if email is not None and source is None and sources is None else PAGE
    found: list[Contact] = []
    size = 0
    async with tx.cursor(row_factory=class_row(Contact)) as cursor:
        rows = cast(AsyncGenerator[Contact, None], cursor.stream(query, values))
        async with aclosing(rows):  # leaving early cancels the statement
            async for contact in rows:
                texts = (contact.name, contact.email, contact.source, contact.attributes)
                size += ROW_BYTES + sum(len(text.encode()) for text in texts)
                if found and size > bytes_max:
                    return Page(found, found[-1].id)
                found.append(contact)
    return Page(found, found[-1].id if len(found) == limit else None)
