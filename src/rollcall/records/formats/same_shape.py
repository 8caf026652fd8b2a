"""Records that are written alike, read all at once: objects of strings and scalars, with the same keys in the same
order.

A Record is read here only if what stands outside of its values is, byte for byte, that of a Record which orjson has
read, and if its values are strings, or plain numbers and booleans, for certain. So whoever reads it alone finds the
same; `objects` does that with all the others. What escapes say is orjson's to tell; where one of them is half a
character, a NUL or no escape at all, every Record with a backslash is left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from rollcall.records.formats.columns import value_bytes
from rollcall.records.formats.reader import Offsets, Slice
from rollcall.records.formats.spans import STRING, escaped_quotes, mask_escapes
from rollcall.records.plan import Mapping

ALIKE_MIN: Final = 256
"""Fewer Records are sooner read one by one."""

KEYS_MAX: Final = 10_000
"""Keys of one Record; as many as a CSV file may have columns."""

SHAPES_MAX: Final = 8
"""So many shapes are tried on one Slice."""

PIECE_BYTES: Final = 256 << 10
"""So much is looked at together: what numpy makes of it stays in the processor's cache, and is no large block."""

SCALAR: Final = r"\A(?:0|-?[1-9]\d{0,17}|-?(?:0|[1-9]\d{0,17})\.\d{1,17}|true|false)\z"
"""What orjson and Postgres both keep as it is written, whatever else stands there."""

_WRITTEN: Final = re.compile(rb"[ \t\r\n]*+:[ \t\r\n]*+([^ \t\r\n,}]++)")
"""A scalar, behind its key."""

_QUOTE, _BACKSLASH, _SPACE = b'"\\ '

Flags = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int32]  # a Slice has some MiB
KeyColumns = dict[str, pa.StringArray]
MappingOf = Callable[[dict[str, Any]], Mapping]
"""Which of a Record's keys are its fields."""


@dataclass(frozen=True)
class Shape:
    """How a Record is written: the keys that hold a value; the texts before, between and behind those values.

    The quotes around a string belong to the texts. A key whose value is null has no value, but stands in a text.
    `scalars`: the keys whose value is no string; it is JSON as it is written. `mapping`: which key is what.
    """

    keys: tuple[str, ...]
    scalars: frozenset[str]
    mapping: Mapping
    texts: tuple[bytes, ...]


def read_by_shape(part: Slice, mapping_of: MappingOf) -> Iterator[tuple[Offsets, KeyColumns, Shape]]:
    """The Records of one shape, then those of another: their indices, ascending; the values of each key; the shape.

    Keys that hold null are left out. Records that are in no group, those with a RecordError among them, are to be read
    one by one.
    """
    if len(part) < ALIKE_MIN:
        return
    marks = _all_marks(part)
    first = np.searchsorted(marks, part.starts.astype(np.int32))
    counts = np.searchsorted(marks, part.ends.astype(np.int32)) - first
    left = np.ones(len(part), np.bool_)
    left[[*part.faults, *part.not_utf8()]] = False
    for _ in range(SHAPES_MAX):
        rows = np.flatnonzero(left)
        if len(rows) < ALIKE_MIN:
            return
        left[rows[0]] = False
        shape = _shape(part.raw(rows[0]), mapping_of)
        if shape is None:
            continue
        rows, values = _matching(part, rows, marks, first, counts, shape)
        if len(rows) < ALIKE_MIN:
            continue
        try:
            columns = {
                key: (_pieces if key in shape.scalars else _strings)(part.data, *value)
                for key, value in zip(shape.keys, values, strict=True)
            }
        except ValueError:
            left &= ~_with_escapes(part)
            continue
        left[rows] = False
        yield rows, columns, shape


def _all_marks(part: Slice) -> Places:
    """The marks of these Records, looked for in pieces of them: no piece begins within a string or an escape."""
    step = 1 + len(part) * PIECE_BYTES // len(part.data)
    cuts = [0, *part.starts[step::step].tolist(), len(part.data)]
    return np.concatenate([(_marks(part.data[begin:end]) + begin).astype(np.int32) for begin, end in pairwise(cuts)])


def _marks(data: bytes) -> Offsets:
    """Where the quotes around strings stand, and the signs that JSON forbids in strings."""
    text = np.frombuffer(data, np.uint8)
    marked = (text == _QUOTE) | (text < _SPACE)
    if b"\\" in data:
        marked[escaped_quotes(text)] = False
    return np.flatnonzero(marked)


def _with_escapes(part: Slice) -> Flags:
    """Which Records hold a backslash."""
    backslashes = np.flatnonzero(np.frombuffer(part.data, np.uint8) == _BACKSLASH)
    return np.searchsorted(backslashes, part.starts) < np.searchsorted(backslashes, part.ends)


def _shape(raw: bytes, mapping_of: MappingOf) -> Shape | None:
    """The Record's shape; None if it holds other values, a key twice, or what is a RecordError."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    if (
        type(record) is not dict
        or len(record) > KEYS_MAX
        or not {str, int, float, bool, type(None)}.issuperset(map(type, record.values()))
    ):
        return None
    if any("\0" in key for key in record):
        return None
    mapping = mapping_of(record)
    keys = tuple(key for key, value in record.items() if value is not None)
    scalars = frozenset(key for key in keys if type(record[key]) is not str)
    strings = [found.span() for found in re.finditer(STRING, mask_escapes(raw))]
    if not keys or not scalars.isdisjoint((mapping.email, *mapping.name)):
        return None
    if len(strings) != len(record) + len(keys) - len(scalars):
        return None
    places = iter(strings)
    bounds = [0]
    for key, value in record.items():
        begin, end = next(places)
        if key in scalars:
            written = _WRITTEN.match(raw, end)
            assert written is not None
            bounds += written.span(1)
        elif value is not None:
            begin, end = next(places)
            bounds += [begin + 1, end - 1]
    bounds.append(len(raw))
    return Shape(
        keys, scalars, mapping, tuple(raw[begin:end] for begin, end in zip(bounds[::2], bounds[1::2], strict=True))
    )


def _matching(
    part: Slice, rows: Offsets, marks: Places, first: Offsets, counts: Offsets, shape: Shape
) -> tuple[Offsets, list[tuple[Offsets, Offsets]]]:
    """Those of the Records that have this shape, and of each value in it, where it begins and ends in each of them.

    `first`: the first mark of each Record; `counts`: how many it has. Records with another count than the shape are
    left out at once, so that a shape of thousands of keys costs nothing where other Records have a few. Where a text
    ends and the next one begins is told by the last mark of the one and the first of the other, which follow each
    other. So if all texts are the shape's, no value has a mark.
    """
    inside = [_marks(text).tolist() for text in shape.texts]
    until = np.cumsum([len(places) for places in inside])
    rows = rows[counts[rows] == until[-1]]
    if len(rows) < ALIKE_MIN:
        return rows, []
    begins, ends = [part.starts[rows]], list[Offsets]()
    for count, before, text, after in zip(until[:-1], inside, shape.texts, inside[1:], strict=False):
        ends.append(marks[first[rows] + count - 1] + (len(text) - before[-1]))
        begins.append(marks[first[rows] + count] - after[0] if after else part.ends[rows] - len(shape.texts[-1]))
    ends.append(part.ends[rows])
    values = list(zip(shape.keys, ends[:-1], begins[1:], strict=True))
    same = np.ones(len(rows), np.bool_)
    for text, begin, end in zip(shape.texts, begins, ends, strict=True):
        same &= end - begin == len(text)
    for _, begin, end in values:
        same &= begin <= end
    for text, begin in zip(shape.texts, begins, strict=True):
        texts = np.ndarray(len(part.data) - len(text) + 1, f"S{len(text)}", part.data, strides=1)
        same[same] = texts[begin[same]] == text
    for key, begin, end in values:
        if key in shape.scalars:
            pieces = _pieces(part.data, begin[same], end[same])
            same[same] = np.asarray(pc.match_substring_regex(pieces, SCALAR))
    return rows[same], [(begin[same], end[same]) for _, begin, end in values]


def _pieces(data: bytes, begins: Offsets, ends: Offsets) -> pa.StringArray:
    """These stretches as they are."""
    bounds = np.empty(2 * len(begins), np.int32)
    bounds[::2], bounds[1::2] = begins, ends
    pieces = pa.StringArray.from_buffers(max(0, len(bounds) - 1), pa.py_buffer(bounds.data), pa.py_buffer(data))
    return pieces.take(np.arange(0, len(bounds), 2))  # between two of them lies a piece, too


def _strings(data: bytes, begins: Offsets, ends: Offsets) -> pa.StringArray:
    """What these stretches say as JSON strings. Raises ValueError if one is none, or may hold a NUL."""
    values = _pieces(data, begins, ends)
    if not (value_bytes(values) == _BACKSLASH).any():
        return values
    escaping = pc.match_substring(values, "\\")
    written = '["' + '","'.join(cast(list[str], values.filter(escaping).to_pylist())) + '"]'
    if "\\u0000" in written:
        raise ValueError("There may be a NUL among these strings.")
    decoded = pa.array(orjson.loads(written), pa.string())
    return cast(pa.StringArray, pc.replace_with_mask(values, escaping, decoded))
