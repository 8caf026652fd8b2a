"""The ledger: one row for every batch, written in the transaction that loads it. Only the ledger says what is loaded.

A row spans the Records `first` to `last` of one loader. A loader goes on after its highest `last`. Record numbers never
change between attempts; how the file is cut into Parts may.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from psycopg.types.json import Jsonb

from rollcall.database import Connection


async def positions(tx: Connection, job_id: UUID, loaders: int) -> list[int]:
    """The highest Record that each loader has loaded; 0 where it has not begun."""
    rows = await (
        await tx.execute(
            "select loader, max(last) from rollcall.import_parts where import_id = %s group by loader", (job_id,)
        )
    ).fetchall()
    last: dict[int, int] = dict(rows)
    return [last.get(loader, 0) for loader in range(loaders)]


async def has_begun(tx: Connection, job_id: UUID) -> bool:
    """Whether the import has committed a batch."""
    cursor = await tx.execute("select 1 from rollcall.import_parts where import_id = %s limit 1", (job_id,))
    return await cursor.fetchone() is not None


async def enter(
    tx: Connection, job_id: UUID, loader: int, *, first: int, last: int, attempt: int, position: int
) -> bool:
    """Begin a batch; False when it has a row already: it was committed, and the answer to the commit was lost.

    `position`: bytes of the stored file that were read when its last Part was cut.
    """
    cursor = await tx.execute(
        """insert into rollcall.import_parts (import_id, loader, first, last, attempt, position)
           values (%s, %s, %s, %s, %s, %s) on conflict do nothing returning 1""",
        (job_id, loader, first, last, attempt, position),
    )
    return await cursor.fetchone() is not None


async def last_of(tx: Connection, job_id: UUID, loader: int, first: int) -> int | None:
    """The last Record of the batch that begins at `first`; None when there is no such batch."""
    row = await (
        await tx.execute(
            "select last from rollcall.import_parts where import_id = %s and loader = %s and first = %s",
            (job_id, loader, first),
        )
    ).fetchone()
    return row[0] if row else None


async def fill(
    tx: Connection, job_id: UUID, loader: int, first: int, counts: Sequence[int], by_code: dict[str, int]
) -> None:
    """Write the account of a batch. `counts`: read, created, updated, unchanged, skipped, duplicate, rejected.
    `by_code`: rejected Records by code.
    """
    await tx.execute(
        """update rollcall.import_parts set read = %s, created = %s, updated = %s, unchanged = %s, skipped = %s,
                  duplicate = %s, rejected = %s, by_code = %s
            where import_id = %s and loader = %s and first = %s""",
        (*counts, Jsonb(by_code), job_id, loader, first),
    )


async def rejects_so_far(tx: Connection, job_id: UUID) -> tuple[int, int]:
    """The last Record that loader 0 has committed, and how many Records up to it were rejected.

    Loader 0 writes the Rejects of all loaders.
    """
    row = await (
        await tx.execute(
            """select coalesce(max(last), 0), coalesce(sum(rejected), 0) from rollcall.import_parts
                where import_id = %s and loader = 0""",
            (job_id,),
        )
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])
