"""Load a file: its Parts are dealt to the loaders, each of which commits its batches in file order."""

from __future__ import annotations

import asyncio
from functools import partial

import pyarrow.compute as pc

from rollcall import ledger
from rollcall.errors import Draining, Fenced, TooManyRejects, Unreadable
from rollcall.loading.attempt import Attempt
from rollcall.loading.load_plan import LoadPlan
from rollcall.loading.loader import Loader, Rewind
from rollcall.loading.partition import by_address
from rollcall.loading.queue import LoaderQueue, distribute
from rollcall.loading.seen import Met, Seen


async def load(attempt: Attempt, plan: LoadPlan) -> int:
    """Load what the ledger does not have yet; how many Records the file holds.

    Where there were contacts before, what is loaded already is read once more, so that it is known which keys were met.

    Raises Rewind, Draining, Fenced; Unreadable only after everything before the fault is committed.
    """
    positions = await attempt.positions(len(plan.begins))
    judged, rejected = await attempt.ask(lambda tx: ledger.rejects_so_far(tx, attempt.job.id))
    was_empty = plan.source_was_empty
    seen = None if was_empty and any(positions) else Seen() if was_empty else Met()
    after = min(positions) if was_empty else 0
    deal = by_address(plan.begins)
    waiting = [LoaderQueue(loaders=len(positions)) for _ in positions]
    loader = partial(Loader, attempt, seen=seen, fold_lock=asyncio.Lock())
    loaders = [loader(number, *each) for number, each in enumerate(zip(positions, waiting, strict=True))]
    total, stop = max(positions), None

    def stop_if_too_many(rejected: int) -> None:
        if attempt.options.too_many(rejected, total):
            raise TooManyRejects(f"{rejected:,} of the first {total:,} records were rejected.")

    try:
        async with (
            asyncio.TaskGroup() as group,
            attempt.parts(plan.file, after=after) as coming,
        ):
            for each in loaders:
                group.create_task(each.run())
            try:
                async for part in coming:
                    await distribute(part, deal, waiting)
                    total = part.last
                    rejected += len(part.rejects.filter(pc.field("record") > judged))
                    stop_if_too_many(rejected)
            except (Unreadable, Draining) as fault:
                stop = fault
            for queue in waiting:
                await queue.end()
    except BaseExceptionGroup as faults:
        raise _deciding_error(faults) from None
    stop_if_too_many(rejected + await attempt.ask(lambda tx: ledger.not_storable(tx, attempt.job.id)))
    if stop is not None:
        raise stop
    return total


def _deciding_error(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of several loaders' faults the one that decides: fenced before rewind before all others."""
    return min(group.exceptions, key=lambda fault: (not isinstance(fault, Fenced), not isinstance(fault, Rewind)))
