"""Contacts dealt to the loaders and folded to one row a key. Pure; knows no connection and no table.

A loader is a stretch of the order of addresses: what it brings at a time lies side by side in the index, and no other
loader is there. Where loaders begin is frozen on the import (`LoadPlan`), so that a later attempt deals as the one
before it did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
Deal = Callable[[pa.Table], list[pa.Table]]
"""A rule by which Contacts are dealt: those of each loader, in file order. The same key always goes to the same one."""

LETTERS_MAX = 16
NEAR = 50
"""A loader may get a fiftieth more or less than it should, if it then begins with a shorter text."""


def divide(emails: Iterable[str], loaders: int) -> tuple[str, ...]:
    """Where each of so many loaders begins, so that each gets about as many of these addresses; fewer if that cannot
    be.

    A loader begins with the shortest text that parts two addresses near there: mostly a few letters, never an address,
    for it stays on the import when the file is gone.
    """
    keys = sorted({email.partition("@")[0] for email in emails})
    begins = {""}
    for loader in range(1, loaders):
        middle, around = len(keys) * loader // loaders, len(keys) // loaders // NEAR
        near = range(max(middle - around, 1), min(middle + around + 1, len(keys)))
        begins.add(min((_parting(keys[at - 1], keys[at]) for at in near), key=len, default=""))
    return tuple(sorted(begins))


def _parting(key: str, next_key: str) -> str:
    """The shortest beginning of `next_key` that lies behind `key`, if it is short enough."""
    same = next((at for at, (one, other) in enumerate(zip(key, next_key, strict=False)) if one != other), len(key))
    return next_key[: min(same + 1, LETTERS_MAX)]


def by_address(begins: Sequence[str]) -> Deal:
    """To the loader that begins last at or before the address."""

    def deal(contacts: pa.Table) -> list[pa.Table]:
        email = _column(contacts, "email")
        loader = np.zeros(len(email), np.int64)
        for begin in begins[1:]:
            loader += np.asarray(pc.greater_equal(email, pa.scalar(begin)))
        return [contacts.take(np.flatnonzero(loader == number)) for number in range(len(begins))]

    return deal


@dataclass(frozen=True)
class Folded:
    """Which Records were folded into one row: their numbers, by key, and where each key begins (all, or none)."""

    records: Rows
    starts: Flags

    def with_record(self, record: int) -> list[int]:
        """The Records of the row that has this one."""
        at = np.flatnonzero(self.records == record)
        if not len(at):
            return [record]
        key = np.cumsum(self.starts)
        return [int(each) for each in self.records[key == key[at[0]]]]


def fold(contacts: pa.Table, keep: Literal["last", "first"] = "last") -> tuple[pa.Table, Folded]:
    """Contacts as one row a key, sorted by email (byte order), and what was folded into it.

    `last` folds as the merge into `contacts` would, Record after Record: the last name wins, attributes are merged by
    their top-level keys, the last Record number stays. `first` keeps the first Record as it is (onDuplicate=skip).
    """
    found, email, starts = _sorted(contacts)
    firsts = np.flatnonzero(starts)
    if len(firsts) == len(email):
        return found, UNFOLDED
    lasts = np.append(firsts[1:], len(email)) - 1
    folded = found.take(firsts if keep == "first" else lasts)
    if keep == "last":
        attributes = _merged(_column(found, "attributes"), lasts - firsts + 1, lasts)
        folded = folded.set_column(folded.schema.get_field_index("attributes"), "attributes", attributes)
    return folded, Folded(found["record"].to_numpy(), starts)


UNFOLDED = Folded(np.empty(0, np.int64), np.empty(0, np.bool_))


def split(contacts: pa.Table, meet: Callable[[Column], Flags]) -> tuple[pa.Table, pa.Table]:
    """The first Record of each key that was not met before, and all others, which repeat one; both sorted by email, the
    second in file order by key. `meet` says which of some different emails were met, and remembers them."""
    found, email, starts = _sorted(contacts)
    first = starts.copy()
    first[starts] = ~meet(email.filter(pa.array(starts)))
    return found.filter(pa.array(first)), found.filter(pa.array(~first))


def _sorted(contacts: pa.Table) -> tuple[pa.Table, Column, Flags]:
    """By email, in file order by key; with the emails, and where each key begins."""
    found = contacts.take(pc.array_sort_indices(_column(contacts, "email")))  # stable
    email = _column(found, "email")
    starts = np.ones(len(email), bool)
    if len(email) > 1:
        starts[1:] = np.asarray(pc.not_equal(email[1:], email[:-1]))
    return found, email, starts


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


def _column(table: pa.Table, name: str) -> Column:
    return table[name].combine_chunks()
