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

_KEY = re.compile(rb"[ \t\r\n]*+(" + STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
_EXPECTED: Final = 'Send a JSON array of contacts, or an object that holds it as "data".'

cells = json_objects.cells


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
    opening, pieces = _opened(find_pieces(blank_bom(blocks)))
    if opening == OPENING:
        pieces = yield from _elements(pieces, depth=1)
    else:
        pieces = _envelope(pieces)
        pieces = yield from _elements(pieces, depth=2)
        pieces = _envelope(pieces, data_read=True)
    for piece in pieces:
        if rest := piece.data.lstrip(SPACE):
            place = piece.offset + len(piece.data) - len(rest)
            raise InvalidJson(f"The JSON is complete, but more text follows at byte {place}. Remove it.")


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
        commas = np.flatnonzero((piece.kind == COMMA) & (piece.depth == depth))
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
            if piece.kind[closed[0]] != CLOSING:
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
        split = (piece.kind == COMMA) & (piece.depth == 1)
        opened = (piece.kind == OPENING) & (piece.depth == 2)
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
                if piece.kind[mark] == CLOSING:
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
