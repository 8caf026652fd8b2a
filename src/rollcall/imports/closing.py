"""How an import ends, and how it is queued again.

One statement, END, writes every end: success, failure, cancellation, and the last of too many crashes (`claims`). The
same statement copies the account from the ledger.
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
"""Written at every end of an import. After it come `p`, its account; `e`, its end; and a `where`."""
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
    """Succeed if the ledger has `total` Records; False otherwise, and when another attempt has begun."""
    succeed: LiteralString = END + LEDGER + ENDED + MINE + " and p.read = e.total" + TELL
    return await (await tx.execute(succeed, end(job, "succeeded", total=total))).fetchone() is not None


async def fail(tx: Connection, job: Import, code: str, message: str) -> bool:
    """Fail; what is committed stays and is counted. False when another attempt has begun, or the import has ended."""
    failed: LiteralString = END + LEDGER + ENDED + MINE + TELL
    return await (await tx.execute(failed, end(job, "failed", code=code, message=message))).fetchone() is not None


async def fail_check(
    tx: Connection, job: Import, code: str, message: str, *, by_code: dict[str, int], total: int
) -> bool:
    """End an import whose check pass found Rejects. Only they are counted. False: see `fail`."""
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
    """Cancel; what is committed stays and is counted. A final import stays as it is.

    One simple-query string: a single transaction with a snapshot for each statement. The first statement waits for
    running batches, so the second counts them; one snapshot for both would miss them. It gives up after a second, with
    55P03; or with 57014 when it waits for several loaders whose batches overlap, for each of them less than a second.
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

    The import goes on after what the ledger has, with the same Plan, but without `source_was_empty`: other imports may
    have filled the Source. If the ledger has nothing, it gets a new Plan, and the Rejects of a check pass are deleted.
    Locks first, as `cancel` does: a snapshot from before the end would miss the last batches.
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
