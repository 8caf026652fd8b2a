"""How an import ends, and how it begins again. The account is copied from the ledger in the very statement."""

from __future__ import annotations

from typing import LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from rollcall.database import Connection
from rollcall.imports.table import Import

COPY_COUNTS: LiteralString = """read = p.read, created = p.created, updated = p.updated, unchanged = p.unchanged,
       skipped = p.skipped, duplicate = p.duplicate, rejected = p.rejected, by_code = p.by_code"""


async def close(tx: Connection, job: Import, total: int) -> bool:
    """Succeed, if the ledger's Records are as many as the reader counted; False otherwise (see `standing`)."""
    cursor = await tx.execute(
        "update rollcall.imports i set state = 'succeeded', worker = null, total = %(total)s, crashes = 0,"
        " error_code = null, error_message = null,"
        " finished_at = clock_timestamp(), "
        + COPY_COUNTS
        + """ from rollcall.account(%(id)s) p
             where i.id = %(id)s and i.attempt = %(attempt)s and i.state = 'running' and p.read = %(total)s
              returning pg_notify('rollcall', '')""",
        {"id": job.id, "attempt": job.attempt, "total": total},
    )
    return await cursor.fetchone() is not None


async def fail(tx: Connection, job: Import, code: str, message: str, *, total: int | None = None) -> bool:
    """End it with a reason; what is committed stays and is counted. False when it is no longer this attempt's."""
    cursor = await tx.execute(
        "update rollcall.imports i set state = 'failed', worker = null, error_code = %(code)s,"
        " error_message = %(message)s, total = %(total)s, finished_at = clock_timestamp(), "
        + COPY_COUNTS
        + """ from rollcall.account(%(id)s) p
             where i.id = %(id)s and i.attempt = %(attempt)s and i.state = 'running'
              returning pg_notify('rollcall', '')""",
        {"id": job.id, "attempt": job.attempt, "code": code, "message": message, "total": total},
    )
    return await cursor.fetchone() is not None


async def fail_check(
    tx: Connection, job: Import, code: str, message: str, *, by_code: dict[str, int], total: int
) -> bool:
    """End an import whose check pass found Rejects: they are counted, nothing else was tried."""
    rejected = sum(by_code.values())
    cursor = await tx.execute(
        """update rollcall.imports set state = 'failed', worker = null, error_code = %s, error_message = %s,
                  total = %s, read = %s, rejected = %s, by_code = %s, finished_at = clock_timestamp()
            where id = %s and attempt = %s and state = 'running' returning pg_notify('rollcall', '')""",
        (code, message, total, rejected, rejected, Jsonb(by_code), job.id, job.attempt),
    )
    return await cursor.fetchone() is not None


async def cancel(tx: Connection, job_id: UUID) -> None:
    """End it now; what is committed stays and is counted. A final import is left as it is.

    One simple-query string: a single transaction with a snapshot for each statement. The first waits for batches under
    way, so that the second counts them; one snapshot for both would miss them. After a second it gives up: 55P03, or
    57014 when it waited for one loader after the other (where batches overlap, no such wait is long, and none the
    last).
    """
    async with psycopg.AsyncClientCursor(tx) as cursor:
        await cursor.execute(
            "set local statement_timeout = '1s'; select 1 from rollcall.imports where id = %(id)s for update;"
            " update rollcall.imports i set state = 'cancelled', worker = null, error_code = null,"
            " error_message = null, finished_at = clock_timestamp(), "
            + COPY_COUNTS
            + " from rollcall.account(%(id)s) p where i.id = %(id)s"
            " and i.state in ('queued', 'running'); notify rollcall",
            {"id": job_id},
        )


async def retry(tx: Connection, job_id: UUID) -> bool:
    """Queue a failed or cancelled import again; False when it is neither, or its stored file was deleted.

    It goes on after what the ledger has, by the Plan it has; but others may have filled its Source meanwhile. When that
    is nothing, a new Plan is made, and the Rejects of a check pass go. Locks first, as `cancel` does: a snapshot from
    before its end would miss the last batches.
    """
    async with psycopg.AsyncClientCursor(tx) as cursor:
        await cursor.execute(
            """select 1 from rollcall.imports where id = %(id)s and state in ('failed', 'cancelled') for update;
               with again as (
                 update rollcall.imports i
                    set state = 'queued', crashes = 0, total = null, error_code = null, error_message = null,
                        started_at = null, finished_at = null,
                        plan = case when p.begun then i.plan - 'source_was_empty' end
                   from (select exists (select from rollcall.import_parts where import_id = %(id)s) as begun) p
                  where i.id = %(id)s and i.state in ('failed', 'cancelled')
                    and exists (select from rollcall.segments s where s.upload_id = i.upload_id)
                 returning i.id, p.begun),
               forgotten as (
                 delete from rollcall.rejects r using again a where r.import_id = a.id and not a.begun)
               select pg_notify('rollcall', '') from again""",
            {"id": job_id},
        )
        cursor.nextset()
        return await cursor.fetchone() is not None
