"""The check pass of onInvalid=fail: the whole file is judged before any contact is written.

No transaction is open while the file is read. What a check that was interrupted has stored is forgotten by the next.
"""

from __future__ import annotations

from collections import Counter
from functools import partial

import pyarrow as pa

from rollcall import imports, ledger, rejects
from rollcall.database import Connection
from rollcall.errors import Fenced, InvalidRecords
from rollcall.loading.attempt import Attempt
from rollcall.records import Plan


async def check(attempt: Attempt, plan: Plan) -> bool:
    """Whether it may be loaded. For onInvalid=fail, and only while nothing is loaded, a file with any Reject may not:
    then the import has ended, and its Rejects are counted."""
    job = attempt.job
    if attempt.options.on_invalid != "fail" or await attempt.ask(lambda tx: ledger.has_begun(tx, job.id)):
        return True

    found, total = Counter[str](), 0
    await _keep_rejects(attempt, None, after=0)  # forgets those of a check that was interrupted
    async with attempt.parts(plan, after=0) as coming:
        async for part in coming:
            room = max(attempt.rejects_max - found.total(), 0)
            await _keep_rejects(attempt, part.rejects.slice(0, room), after=part.first - 1)
            found.update(rejects.by_code(part.rejects))
            total = part.last
    if not found:
        return True
    message = f"{found.total():,} of {total:,} records are invalid; no contact was written (onInvalid=fail)."
    end = partial(imports.fail_check, job=job, code=InvalidRecords.code, message=message, by_code=found, total=total)
    await attempt.ask(end)
    return False


async def _keep_rejects(attempt: Attempt, found: pa.Table | None, *, after: int) -> None:
    """In place of all behind this Record, in a transaction of its own: none is open while the file is read."""

    async def keep(tx: Connection) -> None:
        async with tx.transaction():
            if not await imports.fence(tx, attempt.job):
                raise Fenced
            await rejects.clear(tx, attempt.job.id, after=after)
            if found:
                await rejects.add(tx, attempt.job.id, found)

    await attempt.ask(keep)
