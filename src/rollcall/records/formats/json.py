"""JSON: an array of Records, or an object that holds the array as `data`, in UTF-8.

`scan` follows strings and brackets over whole blocks at once and cuts the array at its commas; `parse` lets orjson
judge each Record's text. Every byte of the file is whitespace, a separator, or part of a text that is judged, so no
broken file passes for a whole one. Exempt are texts of more than 4 MiB (a Record, a member beside `data`): of these
only the structure is followed.

Broken JSON is `Unreadable`, also inside a Record: where one bracket is missing, nobody knows what is a Record.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
import numpy.typing as npt
import orjson

from rollcall.errors import InvalidJson, NoRecords, TooDeep, UnknownFormat
from rollcall.records.formats import json_objects
from rollcall.records.formats.reader import RECORD_BYTES_MAX, Columns, Offsets, Slice
from rollcall.records.formats.same_shape import STRING
from rollcall.records.formats.spans import (
    SPACE,
    blank_bom,
    bound,
    escaped_quotes,
    locate_records,
    mask_escapes,
    trim_spans,
)
from rollcall.records.plan import Plan

DEPTH_MAX: Final = 1_000
"""Brackets inside brackets, the array's own among them. orjson ends at 1,024."""

PIECE_BYTES: Final = 256 << 10
"""So much is looked at together: what numpy makes of it stays in the processor's cache."""

_STEPS: Final = np.array([(byte in b"{[") - (byte in b"}]") for byte in range(256)])
_QUOTE, _COMMA, _OPENING, _CLOSING, _BRACE, _BRACE_CLOSING = b'",[]{}'
_KEY = re.compile(rb"[ \t\r\n]*+(" + STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_EXPECTED: Final = 'Send a JSON array of contacts, or an object that holds it as "data".'

cells = json_objects.cells


@dataclass(frozen=True)
class Piece:
    """A piece of the file, and its marks: the brackets and commas that are not in strings.

    `offset`: of `data[0]` in the decoded file. Of each mark: `at`, its place in `data`; `kind`, its byte; `depth`, how
    many brackets are open behind it.
    """

    data: bytes
    offset: int
    at: Offsets
    kind: npt.NDArray[np.uint8]
    depth: Offsets

    def after(self, mark: int) -> Piece:
        """What follows this mark."""
        cut = int(self.at[mark]) + 1
        rest = slice(mark + 1, None)
        return Piece(self.data[cut:], self.offset + cut, self.at[rest] - cut, self.kind[rest], self.depth[rest])


def scan(blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
    """The elements of the array. Raises UnknownFormat, NoRecords, InvalidJson with the place, and TooDeep."""
    return _scan(blocks)


def parse(part: Slice, plan: Plan) -> Columns:
    """Raises InvalidJson with the `index` of the first Record whose text is not JSON."""
    batch = json_objects.parse(part, plan)
    for index, fault in sorted(batch.faults.items()):
        if fault.code == "invalid_json":
            raise InvalidJson(f"It is not valid JSON: {fault.value}.", index=index)
    return batch


def keys(head: bytes, whole: bool) -> list[str]:
    """The keys of the first 1,000 Records of a file that begins like this, in order of appearance.

    `head`: decoded bytes; `whole`: these are all of them. Raises what `scan` and `parse` raise, and NoRecords for an
    empty array.
    """
    found: dict[str, None] = {}
    number = 0
    for number, raw in enumerate(json_objects.sample_keys(_scan([head]) if whole else _begun(head)), 1):
        try:
            found |= dict.fromkeys(json_objects.keys(raw))
        except orjson.JSONDecodeError as error:
            raise InvalidJson(f"Record {number}: It is not valid JSON: {json_objects.reason(error)}.") from error
    if whole and not number:
        raise NoRecords("The array of records is empty.")
    return list(found)


def _begun(head: bytes) -> Iterator[Slice]:
    """The Records in a file's first bytes; that these end too early is no fault."""

    def blocks() -> Iterator[bytes]:
        yield head
        raise EOFError  # the scan asks for more

    with suppress(EOFError):
        yield from _scan(blocks())


def _scan(blocks: Iterable[bytes]) -> Iterator[Slice]:
    opening, pieces = _opened(_pieces(blank_bom(blocks)))
    if opening == _OPENING:
        pieces = yield from _elements(pieces, depth=1)
    else:
        pieces = _envelope(pieces)
        pieces = yield from _elements(pieces, depth=2)
        pieces = _envelope(pieces, data_read=True)
    for piece in pieces:
        if rest := piece.data.lstrip(SPACE):
            place = piece.offset + len(piece.data) - len(rest)
            raise InvalidJson(f"The JSON is complete, but more text follows at byte {place}. Remove it.")


def _pieces(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """Find the marks. Outside strings a backslash counts as an escape, too: such a text is no JSON anyway."""
    offset, depth, quoted = 0, 0, np.False_
    for data in _small(blocks):
        text = np.frombuffer(data, np.uint8)
        lower = text | 0x20  # makes a brace of a bracket, and of nothing else
        marked = (text == _QUOTE) | (text == _COMMA) | (lower == _BRACE) | (lower == _BRACE_CLOSING)
        if b"\\" in data:
            marked[escaped_quotes(text)] = False
        at = np.flatnonzero(marked)
        kind = text[at]
        quotes = kind == _QUOTE
        inside = np.bitwise_xor.accumulate(quotes) ^ quoted
        quoted = inside[-1] if len(inside) else quoted
        outside = np.flatnonzero(~(quotes | inside))
        at, kind = at[outside], kind[outside]
        depths = np.cumsum(_STEPS[kind]) + depth
        if len(depths):
            depth = int(depths[-1])
            if depths.max() > DEPTH_MAX:
                place = offset + int(at[np.argmax(depths > DEPTH_MAX)])
                raise TooDeep(f"The JSON is nested more than {DEPTH_MAX} levels deep at byte {place}.")
        yield Piece(data, offset, at, kind, depths)
        offset += len(data)


def _small(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The file in small pieces, none of which ends within an escape."""
    held = b""
    for block in blocks:
        for begin in range(0, len(block), PIECE_BYTES):
            data = held + block[begin : begin + PIECE_BYTES]
            backslashes = len(data) - len(data.rstrip(b"\\"))
            held = data[-1:] if backslashes % 2 else b""
            yield data[: len(data) - len(held)]
    yield held


def _opened(pieces: Iterator[Piece]) -> tuple[int, Iterator[Piece]]:
    """The bracket that opens the file, and what follows it."""
    for piece in pieces:
        if start := piece.data.lstrip(SPACE):
            if start[0] not in b"[{":
                raise UnknownFormat(f"The file is neither a JSON array nor a JSON object. {_EXPECTED}")
            return start[0], chain([piece.after(0)], pieces)
    raise NoRecords(f"The file is blank. {_EXPECTED}")


def _elements(pieces: Iterator[Piece], depth: int) -> Generator[Slice, None, Iterator[Piece]]:
    """The elements of the array that is open at this depth. Returns what follows its bracket."""
    held, count = bytearray(), 0
    for piece in pieces:
        closed = np.flatnonzero(piece.depth < depth)[:1]
        commas = np.flatnonzero((piece.kind == _COMMA) & (piece.depth == depth))
        marks = np.concatenate([commas[commas < closed[0]], closed]) if len(closed) else commas
        if not len(marks):
            held += piece.data
            bound(held)
            continue
        stops = piece.at[marks]
        data = bytes(held) + piece.data[: stops[-1] + 1]
        starts, ends = trim_spans(data, stops + len(held))
        blank = np.flatnonzero(starts == ends)
        good = int(blank[0]) if len(blank) else len(starts)
        if good:
            yield locate_records(data, starts[:good], ends[:good])
        if good < len(starts) and not (len(closed) and count == 0 and len(starts) == 1):
            place = piece.offset + stops[good]
            raise InvalidJson(f"Record {count + good + 1} is missing: nothing stands before byte {place}.")
        if len(closed):
            if piece.kind[closed[0]] != _CLOSING:
                raise InvalidJson(f"The array of records is closed by a brace at byte {piece.offset + stops[-1]}.")
            return chain([piece.after(int(closed[0]))], pieces)
        held, count = bytearray(piece.data[stops[-1] + 1 :]), count + len(starts)
    raise InvalidJson(
        f"The file ends within record {count + 1}. It was cut short, or a quote or a bracket is missing there."
    )


def _envelope(pieces: Iterator[Piece], data_read: bool = False) -> Iterator[Piece]:
    """Go over the other members of the object: up to the bracket of `data`, or behind it. Returns what follows."""
    member = bytearray(b'"":[]' if data_read else b"")  # stands for `data`: what follows its array is judged with it
    first, key_seen = not data_read, data_read
    for piece in pieces:
        begin = 0
        split = (piece.kind == _COMMA) & (piece.depth == 1)
        opened = (piece.kind == _OPENING) & (piece.depth == 2)
        for mark in np.flatnonzero(split | opened | (piece.depth == 0)).tolist():
            at = int(piece.at[mark])
            if opened[mark]:
                if not key_seen and _is_data(bytes(member) + piece.data[begin:at], before_value=True):
                    return chain([piece.after(mark)], pieces)
                key_seen = True
                continue
            member += piece.data[begin:at]
            closed = not split[mark]
            if not (first and closed and not member.strip(SPACE)):
                _judge(bytes(member), data_read, piece.offset + at)
            if closed:
                if piece.kind[mark] == _CLOSING:
                    raise InvalidJson(f"The object is closed by the wrong bracket at byte {piece.offset + at}.")
                if not data_read:
                    raise NoRecords(f'The JSON object has no "data". {_EXPECTED}')
                return chain([piece.after(mark)], pieces)
            member.clear()
            begin, first, key_seen = at + 1, False, data_read
        member += piece.data[begin:]
        bound(member)
    raise InvalidJson("The file ends before its outer object is closed. It was cut short, or a bracket is missing.")


def _judge(member: bytes, data_read: bool, end: int) -> None:
    """Raise InvalidJson unless this is a member that may stand beside `data`. `end`: where it ends in the file."""
    if _is_data(member):
        raise InvalidJson('The object has two members "data".' if data_read else f'"data" is not an array. {_EXPECTED}')
    if len(member) > RECORD_BYTES_MAX:
        return
    try:
        json_objects.check(b"{" + member + b"}" if member.strip(SPACE) else b"")
    except orjson.JSONDecodeError as error:
        raise InvalidJson(
            f"What stands before byte {end} is not a member of a JSON object: {json_objects.reason(error)}."
        ) from error


def _is_data(member: bytes, before_value: bool = False) -> bool:
    """Whether the member's key is `data`; `before_value`: and nothing follows the colon."""
    masked = mask_escapes(member)
    key = _KEY.fullmatch(masked) if before_value else _KEY.match(masked)
    try:
        return key is not None and orjson.loads(member[slice(*key.span(1))]) == "data"
    except orjson.JSONDecodeError:
        return False
