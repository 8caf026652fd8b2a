"""Contacts of one Part, dealt to the Lanes and folded to one row a key. Pure; knows no connection and no table.

Every Contact of one key goes to the same Lane in every Part, on every machine and in every version: a resumed import
deals as the one before it did.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Rows = npt.NDArray[np.int64]
"""Where Contacts stand in their Part."""


def deal(contacts: pa.Table, lanes: int) -> list[Rows]:
    """Each Lane's Contacts, in file order: those of Lane `(the sum of the email's bytes) mod lanes`.

    The plainest hash there is, so that it never changes; counted-up and random addresses spread evenly over it.
    """
    lane = _byte_sums(_column(contacts, "email")) % lanes
    return [np.flatnonzero(lane == number) for number in range(lanes)]


def fold(contacts: pa.Table, rows: Rows, keep: Literal["last", "first"] = "last") -> tuple[pa.Table, int]:
    """These Contacts as one row a key, sorted by email (byte order), and how many Records were folded away.

    `last` folds as the merge into `contacts` would, Record after Record: the last name wins, attributes are merged by
    their top-level keys, the last Record number stays. `first` keeps the first Record as it is (onDuplicate=skip).
    """
    order = np.asarray(pc.array_sort_indices(_column(contacts, "email").take(rows)))  # stable: in file order by key
    found = contacts.take(rows[order])
    email = _column(found, "email")
    starts = np.ones(len(email), bool)
    if len(email) > 1:
        starts[1:] = np.asarray(pc.not_equal(email[1:], email[:-1]))
    firsts = np.flatnonzero(starts)
    if len(firsts) == len(email):
        return found, 0
    lasts = np.append(firsts[1:], len(email)) - 1
    folded = found.take(firsts if keep == "first" else lasts)
    if keep == "last":
        attributes = _merged(_column(found, "attributes"), lasts - firsts + 1, lasts)
        folded = folded.set_column(folded.schema.get_field_index("attributes"), "attributes", attributes)
    return folded, len(email) - len(firsts)


def _merged(attributes: Column, counts: Rows, lasts: Rows) -> Column:
    """The attributes of each key; `counts` of its Records stand together, up to its one of `lasts`."""
    repeated = counts > 1
    texts = iter(attributes.filter(pa.array(np.repeat(repeated, counts))).to_pylist())
    merged = [_merge(islice(texts, count)) for count in counts[repeated].tolist()]
    return pc.replace_with_mask(attributes.take(lasts), pa.array(repeated), pa.array(merged, pa.string()))


def _merge(texts: Iterable[str]) -> str:
    """JSON objects as one, the later value of a key winning.

    Joined as text: no number is read and written again, so none changes. A key may stand twice; jsonb, like every
    JSON reader here, takes the later one. Of equal texts only the last says anything.
    """
    bodies = [text.strip()[1:-1].strip() for text in reversed(dict.fromkeys(reversed(list(texts))))]
    return "{" + ",".join(filter(None, bodies)) + "}"


def _byte_sums(column: Column) -> npt.NDArray[np.int64]:
    _, offsets, data = column.buffers()
    if not len(column) or offsets is None or data is None:
        return np.empty(0, np.int64)
    begins = np.frombuffer(memoryview(offsets), np.int32)[column.offset : column.offset + len(column) + 1]
    return np.add.reduceat(np.frombuffer(memoryview(data), np.uint8)[: begins[-1]], begins[:-1], dtype=np.int64)


def _column(table: pa.Table, name: str) -> Column:
    return table[name].combine_chunks()
