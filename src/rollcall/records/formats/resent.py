"""Read a reject file that was corrected and sent again: its columns become those of the original.

    restored      the columns without guards; a Record that still has a mark is a RecordError
    json_objects  the rows of a file that was made from JSON, as the original objects

Arrays are strings, valid UTF-8 without nulls, one value for each Record.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import cast

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rollcall.records import reject_file
from rollcall.records.formats.reader import RecordError, Slice

Columns = dict[str, pa.StringArray]


def restored(columns: Columns, faults: dict[int, RecordError]) -> Columns:
    """The columns that are data, as they stood in the file. Adds a RecordError for each Record with a mark."""
    return {name: _restored(name, column, faults) for name, column in columns.items() if name not in reject_file.ADDED}


def _restored(name: str, column: pa.StringArray, faults: dict[int, RecordError]) -> pa.StringArray:
    touched = pc.match_substring_regex(column, f"['{reject_file.MARK}]")
    values = []
    for index in np.flatnonzero(touched).tolist():
        text = reject_file.unguarded(str(column[index].as_py()))
        if code := reject_file.mark_in(text):
            faults.setdefault(index, RecordError(code, name, text))
            text = ""
        values.append(reject_file.unmarked(text))
    if not values:
        return column
    return cast(pa.StringArray, pc.replace_with_mask(column, touched, pa.array(values, pa.string())))


def json_objects(columns: Columns, faults: dict[int, RecordError]) -> Slice:
    """The Slice of these Records as JSON objects, for `objects.parse`; of a faulty one, an empty one."""
    texts = [
        b"{}" if index in faults else json_object(dict(zip(columns, row, strict=True)))
        for index, row in enumerate(zip(*(column.to_pylist() for column in columns.values()), strict=True))
    ]
    bounds = np.array([0, *accumulate(map(len, texts))], np.int64)
    return Slice(b"".join(texts), bounds[:-1], bounds[1:], faults)


def json_object(cells: Mapping[str, str]) -> bytes:
    """The object that one row was made from, if nothing in it was mended wrongly; else perhaps no JSON."""
    return b"{" + b",".join(_members(cells)) + b"}"


def _members(cells: Mapping[str, str]) -> Iterable[bytes]:
    for name, cell in cells.items():
        if name == reject_file.MORE:
            text = cell.strip()
            if members := text.removeprefix("{").removesuffix("}").strip() if text.startswith("{") else text:
                yield members.encode()
        elif cell.startswith(reject_file.TYPED):
            yield orjson.dumps(name) + b":" + cell.removeprefix(reject_file.TYPED).encode()
        elif cell:
            yield orjson.dumps(name) + b":" + orjson.dumps(cell)
