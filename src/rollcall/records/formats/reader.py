"""What a format is: two pure functions over bytes.

    scan    decoded bytes → where each Record begins and ends      (sees every byte, in order; no fields yet)
    parse   the Records of one Slice → their fields                (only for Records that are still to be loaded)

Between the two, `parts.py` cuts the scanned stretches into Parts. So a Part depends on the file alone, never on block
sizes, and a resumed import scans past what is loaded without parsing it.

A format must not hold more than a few blocks in memory, must not raise for one bad Record (that is a RecordError), and
raises `Unreadable` with the place when the file's structure is broken. Record numbers are not its business.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rollcall.records.plan import Plan

RECORD_BYTES_MAX = 4 << 20
"""A longer Record is a RecordError (`record_too_long`); what is kept of it is its beginning."""

Offsets = npt.NDArray[np.int64]


@dataclass(frozen=True)
class RecordError:
    """Why a Record is rejected. `field` is `name`, `email`, a column or None (the whole Record)."""

    code: str
    field: str | None = None
    value: str | None = None


@dataclass(frozen=True)
class Slice:
    """Consecutive Records as bytes: Record i is `data[starts[i]:ends[i]]`, without its newline or comma.

    `faults`: what the scan found already, by index. Of a Record that is too long only the beginning is in `data`.
    `weights`: what a Record counts for where a Part ends, if that is more than its bytes: what is made of it.
    `regular`: the scan met nothing that `parse` has to look for (CSV).
    """

    data: bytes
    starts: Offsets
    ends: Offsets
    faults: dict[int, RecordError] = field(default_factory=dict)
    weights: Offsets | None = None
    regular: bool = False

    def __len__(self) -> int:
        return len(self.starts)

    def raw(self, index: int) -> bytes:
        """The Record's own bytes, as they stand in the (decoded) file."""
        return self.data[self.starts[index] : self.ends[index]]

    def packed(self) -> Slice:
        """The same Records, without the bytes between them."""
        raws = [self.raw(index) for index in range(len(self))]
        bounds = np.cumsum([0, *map(len, raws)], dtype=np.int64)
        return replace(self, data=b"".join(raws), starts=bounds[:-1], ends=bounds[1:])

    def not_utf8(self) -> list[int]:
        """The Records that are not UTF-8; looked at one by one only where there are any."""
        text = pa.py_buffer(self.data)
        try:
            offsets = pa.py_buffer(np.array([0, len(text)], np.int32).data)
            pa.StringArray.from_buffers(1, offsets, text).validate(full=True)
        except pa.ArrowInvalid:
            return [index for index in range(len(self)) if not _is_utf8(self.raw(index))]
        return []


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass(frozen=True)
class Columns:
    """The fields of a Slice's Records, one element each, before any rule has looked at them.

    `name`, `email`: string arrays; null means that the Record has no such key (`required`). `attributes`: string array
    of JSON objects without the mapped keys, blanks and nulls (blanks never erase); `{}` when there are none.
    `faults`: by index; includes the Slice's. The fields of a faulty Record may hold anything (but never invalid UTF-8).
    """

    name: pa.StringArray
    email: pa.StringArray
    attributes: pa.StringArray
    faults: dict[int, RecordError]


class Format(Protocol):
    """One file of this folder; a module satisfies it."""

    def scan(self, blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
        """Find the Records. `blocks`: the decoded file from its first byte, BOM included."""

    def parse(self, part: Slice, plan: Plan) -> Columns:
        """Find the fields of these Records."""

    def cells(self, raw: bytes, plan: Plan) -> list[str]:
        """One Record's bytes as a row of a reject file, one text for each of `columns`. Never raises."""

    def columns(self, plan: Plan) -> tuple[str, ...]:
        """The headings of a reject file, without those that Rollcall adds to every one."""
