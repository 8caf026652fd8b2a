"""Columns of text become the fields of contacts: a name of several, attributes as JSON; what is blank falls away.

Columns are arrays of strings, valid UTF-8 without nulls, one value a Record. Knows no format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rollcall.records.text import BLANKS

_ESCAPES: Final = {code: orjson.dumps(chr(code)).decode()[1:-1] for code in (*b'\\"', *range(32))}
"""What JSON writes for a sign; the backslash first, because it stands in what is written for the others."""


def join_values(columns: Sequence[pa.StringArray]) -> pa.StringArray:
    """The columns' trimmed values, without blank ones, joined by a space."""
    values = [pc.utf8_trim(column, BLANKS) for column in columns]
    if len(values) == 1:
        return values[0]
    words = [_unless_blank(value, _concatenate(" ", value)) for value in values]
    return pc.utf8_ltrim(_concatenate(*words), " ")


def attributes(columns: Mapping[str, pa.StringArray], length: int, written: Collection[str] = ()) -> pa.StringArray:
    """A JSON object of the columns' trimmed values for each row, without blank ones.

    `written`: the columns whose values are JSON already, none of them blank.
    """
    pieces: list[str | pa.StringArray] = []
    for key, column in columns.items():
        if key in written:
            pieces += [f",{orjson.dumps(key).decode()}:", column]
            continue
        if not len(value_bytes(column)):
            continue
        value = pc.utf8_trim(column, BLANKS)
        member = f',{orjson.dumps(key).decode()}:"', _escape(value), '"'
        blank = not np.asarray(pc.binary_length(value)).all()
        pieces += [_unless_blank(value, _concatenate(*member))] if blank else member
    if not pieces:
        return pa.array(["{}"] * length, pa.string())
    if isinstance(first := pieces[0], str):  # every row has it, and the others follow it
        return _concatenate("{" + first[1:], *pieces[1:], "}")
    opened = pc.binary_replace_slice(_concatenate(*pieces), 0, 1, "{")  # in place of the first comma, if there is one
    return _concatenate(opened, "}")


def value_bytes(column: pa.StringArray) -> npt.NDArray[np.uint8]:
    """The bytes of all values, one after the other."""
    return np.frombuffer(memoryview(column.buffers()[2] or b""), np.uint8)


def _escape(value: pa.StringArray) -> pa.StringArray:
    """The values as JSON has them between quotes."""
    text = value_bytes(value)
    found = set(text[(text < 32) | (text == ord('"')) | (text == ord("\\"))].tolist())
    for code, escape in _ESCAPES.items():
        if code in found:
            value = pc.replace_substring(value, chr(code), escape)
    return value


def _unless_blank(value: pa.StringArray, text: pa.StringArray) -> pa.StringArray:
    """`text`, but empty where the value is."""
    chosen: pa.StringArray = pc.if_else(pc.equal(value, _scalar("")), _scalar(""), text)
    return chosen


def _concatenate(*pieces: str | pa.StringArray) -> pa.StringArray:
    """The pieces of each row, one after the other. None may be null: pyarrow's `skip` drops rows where all are."""
    runs: list[str | pa.StringArray] = []
    for piece in pieces:
        if isinstance(piece, str) and runs and isinstance(before := runs[-1], str):
            runs[-1] = before + piece
        else:
            runs.append(piece)
    columns = [_scalar(run) if isinstance(run, str) else run for run in (*runs, "")]
    return cast(pa.StringArray, pc.binary_join_element_wise(*columns))  # type: ignore[type-var]


def _scalar(text: str) -> pa.StringScalar:
    return pa.scalar(text, pa.string())  # without the type, pyarrow looks for pandas every time
