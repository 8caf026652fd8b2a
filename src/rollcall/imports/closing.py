"""How an import ends, and how it begins again. The account is copied from the ledger in the very statement.

Every end is written by one statement, END: success, failure, cancellation, and the last of too many crashes (`claims`).
"""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.types.json import Jsonb

from rollcall.database import Connection
from rollcall.imports.table import Import, State

END: LiteralString = """
update rollcall.imports i
   set state = e.state, worker = null, attempt = coalesce(e.attempt, i.attempt),
       crashes = coalesce(e.crashes, i.crashes), total = e.total,
       bytes_read = case when e.total is null then p.position else i.bytes_total end,
       error_code = e.code, error_message = e.message, finished_at = clock_timestamp(),
       read = p.read, created = p.created, updated = p.updated, unchanged = p.unchanged, skipped = p.skipped,
       duplicate = p.duplicate, rejected = p.rejected, by_code = p.by_code
  from """
"""However an import ends, this is what is written. Follows: `p`, its account; `e`, its end; which import."""
LEDGER: LiteralString = "rollcall.account(%(id)s) p, "
ENDED: LiteralString = """
  (values (%(state)s::text, null::int, %(crashes)s::int, %(total)s::bigint, %(code)s::text, %(message)s::text))
  e (state, attempt, crashes, total, code, message)"""
MINE: LiteralString = " where i.id = %(id)s and i.attempt = %(attempt)s and i.state = 'running'"
TELL: LiteralString = " returning pg_notify('rollcall', '')"


def end(
    job: Import, state: State, *, total: int | None = None, code: str | None = None, message: str | None = None
) -> dict[str, Any]:
    """The parameters of END, LEDGER, ENDED and MINE."""
    crashes = 0 if state == "succeeded" else None
    return {
        "id": job.id,
        "attempt": job.attempt,
        "state": state,
        "crashes": crashes,
        "total": total,
        "code": code,
        "message": message,
    }


async def close(tx: Connection, job: Import, total: int) -> bool:
    """Succeed, if the ledger's Records are as many as the reader counted; False otherwise (see `state_and_attempt`)."""
    succeed: LiteralString = END + LEDGER + ENDED + MINE + " and p.read = e.total" + TELL
    return await (await tx.execute(succeed, end(job, "succeeded", total=total))).fetchone() is not None


async def fail(tx: Connection, job: Import, code: str, message: str) -> bool:
    """End it with a reason; what is committed stays and is counted. False when it is no longer this attempt's."""
    failed: LiteralString = END + LEDGER + ENDED + MINE + TELL
    return await (await tx.execute(failed, end(job, "failed", code=code, message=message))).fetchone() is not None


async def fail_check(
    tx: Connection, job: Import, code: str, message: str, *, by_code: dict[str, int], total: int
) -> bool:
    """End an import whose check pass found Rejects: they are counted, nothing else was tried."""
    failed: LiteralString = (
        END
        + """(select %(rejected)s::bigint as read, 0 as created, 0 as updated, 0 as unchanged, 0 as skipped,
                     0 as duplicate, %(rejected)s::bigint as rejected, %(by_code)s::jsonb as by_code,
                     0::bigint as position) p, """
        + ENDED
        + MINE
        + TELL
    )
    counted = {"rejected": sum(by_code.values()), "by_code": Jsonb(by_code)}
    cursor = await tx.execute(failed, end(job, "failed", total=total, code=code, message=message) | counted)
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
            + END
            + LEDGER
            + """(select 'cancelled' as state, null::int as attempt, null::int as crashes, null::bigint as total,
                         null::text as code, null::text as message) e
                  where i.id = %(id)s and i.state in ('queued', 'running');
                 notify rollcall""",
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
                    set state = 'queued', crashes = 0, total = null, bytes_read = null, error_code = null,
                        error_message = null, started_at = null, finished_at = null,
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
