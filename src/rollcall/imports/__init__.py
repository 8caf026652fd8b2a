"""Imports: what was wished, how far it is, and who works on it. The table is its own queue.

Every statement on `rollcall.imports` is a function here; `tx` comes first, and none of them opens or commits. Claim,
take, release, close, fail, cancel and retry are single statements (the last two one simple-query string): run on a
connection in autocommit, nobody can freeze between their halves. `attempt` fences: it only rises, and whoever works
under an older one finds no row. The reasons for each form are the holes that a prototype fell into; they are named
where they matter.

    entry      what an import is; create, show, list
    holding    who works on it: claim, look, take, freeze, fence, release
    ending     close, fail, cancel, and retry
    census     figures over all of them
"""

from rollcall.imports.claims import (
    CRASHES_MAX,
    LARGE_BYTES,
    SMALL_BYTES,
    Stalled,
    claim,
    fence,
    freeze,
    list_stalled,
    release,
    take_over,
)
from rollcall.imports.closing import cancel, close, fail, fail_check, retry
from rollcall.imports.stats import census, count_open, count_queued, expire, longest_wait, outcomes, sum_up
from rollcall.imports.table import (
    FINAL,
    Counts,
    Import,
    Progress,
    State,
    create,
    new_id,
    of_upload,
    outline,
    page,
    progress,
    show,
    state_and_attempt,
)

__all__ = [
    "CRASHES_MAX",
    "FINAL",
    "LARGE_BYTES",
    "SMALL_BYTES",
    "Counts",
    "Import",
    "Progress",
    "Stalled",
    "State",
    "cancel",
    "census",
    "claim",
    "close",
    "count_open",
    "count_queued",
    "create",
    "expire",
    "fail",
    "fail_check",
    "fence",
    "freeze",
    "list_stalled",
    "longest_wait",
    "new_id",
    "of_upload",
    "outcomes",
    "outline",
    "page",
    "progress",
    "release",
    "retry",
    "show",
    "state_and_attempt",
    "sum_up",
    "take_over",
]
