"""JSON: an array of Records, an object that holds the array as one of its members, or Records one after the other.

`scan` follows strings and brackets over whole blocks at once and cuts the array at its commas, or
the file where an object ends; `parse` lets orjson
judge each Record's text. Every byte of the file is whitespace, a separator, or part of a text that is judged, so no
broken file passes for a whole one. Exempt are texts of more than 4 MiB (a Record, a member beside `data`): of these
only the structure is followed.

Broken JSON is `Unreadable`, also inside a Record: where one bracket is missing, nobody knows what is a Record.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Final

import numpy as np
import orjson

from rollcall.errors import InvalidJson, NoRecords, UnknownFormat
from rollcall.records.formats import json_objects
from rollcall.records.formats.marks import CLOSING, COMMA, OPENING, Piece, find_pieces
from rollcall.records.formats.reader import RECORD_BYTES_MAX, Columns, Slice
from rollcall.records.formats.spans import (
    KEY,
    SPACE,
    blank_bom,
    bound,
    locate_records,
    mask_escapes,
    trim_spans,
)
from rollcall.records.plan import DATA, Plan

KEY_SHOWN: Final = 40
_EXPECTED: Final = 'Send a JSON array of contacts, or an object that holds it as "data".'

cells = json_objects.cells


def scan(blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
    """The Records, which lie as `plan.member` says. Raises UnknownFormat, NoRecords, InvalidJson with the place, and
    TooDeep."""
    return _scan(blocks, plan.member)


def parse(part: Slice, plan: Plan) -> Columns:
    """Raises InvalidJson with the `index` of the first Record whose text is not JSON."""
    batch = json_objects.parse(part, plan)
    for index, fault in sorted(batch.faults.items()):
        if fault.code == "invalid_json":
            raise InvalidJson(f"It is not valid JSON: {fault.value}.", index=index)
    return batch


def keys(head: bytes, whole: bool, member: str | None = DATA) -> list[str]:
    """The keys of the first 1,000 Records of a file that begins like this, in order of appearance.

    `head`: decoded bytes; `whole`: these are all of them; `member`: as in a Plan. Raises what `scan` and `parse` raise,
    and NoRecords for an empty array.
    """
    found: dict[str, None] = {}
    number = 0
    for number, raw in enumerate(json_objects.sample_keys(_scan([head], member) if whole else _begun(head, member)), 1):
        try:
            found |= dict.fromkeys(json_objects.keys(raw))
        except orjson.JSONDecodeError as error:
            raise InvalidJson(f"Record {number}: It is not valid JSON: {json_objects.reason(error)}.") from error
    if whole and not number:
        raise NoRecords("The array of records is empty.")
    return list(found)


def _begun(head: bytes, member: str | None) -> Iterator[Slice]:
    """The Records in a file's first bytes; that these end too early is no fault."""

    def blocks() -> Iterator[bytes]:
        yield head
        raise EOFError  # the scan asks for more

    with suppress(EOFError):
        yield from _scan(blocks(), member)


def _scan(blocks: Iterable[bytes], member: str | None) -> Iterator[Slice]:
    pieces = find_pieces(blank_bom(blocks))
    if member is None:
        yield from _objects(pieces)
        return
    opening, pieces = _opened(pieces)
    if opening == OPENING:
        pieces = yield from _elements(pieces, depth=1)
    else:
        pieces = _envelope(pieces, member)
        pieces = yield from _elements(pieces, depth=2)
        pieces = _envelope(pieces, member, data_read=True)
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
            raise InvalidJson(
                f"Record {count + good + 1} is missing: nothing stands before byte {place}. Remove the comma."
            )
        if len(closed):
            if piece.kind[closed[0]] != CLOSING:
                raise InvalidJson(f"The array of records is closed by a brace at byte {piece.offset + stops[-1]}.")
            return chain([piece.after(int(closed[0]))], pieces)
        held, count = bytearray(piece.data[stops[-1] + 1 :]), count + len(starts)
    raise InvalidJson(_cut_short(count + 1))


def _objects(pieces: Iterator[Piece]) -> Iterator[Slice]:
    """The objects of a file that holds nothing else: each ends with the bracket that closes it."""
    held, count = bytearray(), 0
    for piece in pieces:
        wrong = (piece.depth < 0) | ((piece.depth == 0) & (piece.kind == COMMA))
        if wrong.any():
            place = piece.offset + int(piece.at[np.argmax(wrong)])
            raise InvalidJson(
                f"No comma or closing bracket may stand between objects, as at byte {place}. Put the records into one "
                "array, between [ and ]."
            )
        stops = piece.at[piece.depth == 0]
        if len(stops):
            data = bytes(held) + piece.data[: stops[-1] + 1]
            ends = stops + len(held) + 1
            yield locate_records(data, *trim_spans(data, ends, np.concatenate([np.zeros(1, np.int64), ends[:-1]])))
            held.clear()
            count += len(stops)
        held += piece.data[stops[-1] + 1 if len(stops) else 0 :]
        bound(held)
    if rest := held.strip(SPACE):
        if rest.startswith(b"{"):
            raise InvalidJson(_cut_short(count + 1))
        raise InvalidJson(f"The JSON is complete after record {count}, but more text follows. Remove it.")


def _cut_short(number: int) -> str:
    return f"The file ends within record {number}. It was cut short, or a quote or a bracket is missing there."


def _envelope(pieces: Iterator[Piece], key: str, data_read: bool = False) -> Iterator[Piece]:
    """Go over the other members of the object: up to the bracket of `key`'s array, or behind it. Returns what
    follows."""
    member = bytearray(b'"":[]' if data_read else b"")  # stands for the array: what follows it is judged with it
    first, key_seen = not data_read, data_read
    for piece in pieces:
        begin = 0
        split = (piece.kind == COMMA) & (piece.depth == 1)
        opened = (piece.kind == OPENING) & (piece.depth == 2)
        for mark in np.flatnonzero(split | opened | (piece.depth == 0)).tolist():
            at = int(piece.at[mark])
            if opened[mark]:
                if not key_seen and _has_key(key, bytes(member) + piece.data[begin:at], before_value=True):
                    return chain([piece.after(mark)], pieces)
                key_seen = True
                continue
            member += piece.data[begin:at]
            closed = not split[mark]
            if not (first and closed and not member.strip(SPACE)):
                _judge(bytes(member), key, data_read, piece.offset + at)
            if closed:
                if piece.kind[mark] == CLOSING:
                    raise InvalidJson(f"The object is closed by the wrong bracket at byte {piece.offset + at}.")
                if not data_read:
                    raise NoRecords(f'The JSON object has no "{key[:KEY_SHOWN]}". {_EXPECTED}')
                return chain([piece.after(mark)], pieces)
            member.clear()
            begin, first, key_seen = at + 1, False, data_read
        member += piece.data[begin:]
        bound(member)
    raise InvalidJson("The file ends before its outer object is closed. It was cut short, or a bracket is missing.")


def _judge(member: bytes, key: str, data_read: bool, end: int) -> None:
    """Raise InvalidJson unless this is a member that may stand beside the array. `end`: where it ends in the file."""
    if _has_key(key, member):
        shown = f'"{key[:KEY_SHOWN]}"'
        raise InvalidJson(
            f"The object has two members {shown}." if data_read else f"{shown} is not an array. {_EXPECTED}"
        )
    if len(member) > RECORD_BYTES_MAX:
        return
    try:
        json_objects.check(b"{" + member + b"}" if member.strip(SPACE) else b"")
    except orjson.JSONDecodeError as error:
        raise InvalidJson(
            f"What stands before byte {end} is not a member of a JSON object: {json_objects.reason(error)}."
        ) from error


def _has_key(key: str, member: bytes, before_value: bool = False) -> bool:
    """Whether this is the member's key; `before_value`: and nothing follows the colon."""
    masked = mask_escapes(member)
    found = KEY.fullmatch(masked) if before_value else KEY.match(masked)
    try:
        return found is not None and orjson.loads(member[slice(*found.span(1))]) == key
    except orjson.JSONDecodeError:
        return False
