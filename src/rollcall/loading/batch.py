"""What a loader commits in one transaction: `LoadBatch`."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from rollcall.contacts import Rows
from rollcall.loading.partition import Folded


@dataclass(frozen=True)
class LoadBatch:
    """Queued rows, one after the other, made ready; one row a key each.

    `new` cannot be among the contacts, `others` may be. `later` comes after these: it changes what they brought, and
    counts for nothing, because its Records are among the `repeats`. `folded`: which Records
    became one row. `careful`: it holds what Postgres cannot store.
    """

    last: int
    position: int
    new: Rows
    others: Rows
    later: Rows
    repeats: int
    folded: Folded
    rejects: pa.Table
    careful: bool = False
