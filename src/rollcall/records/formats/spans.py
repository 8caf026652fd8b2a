"""Find where each Record begins and ends: what `json` and `ndjson` share, once the separators are found.

A span is the text between two separators (commas or newlines); without the whitespace around it, it is a Record, or
empty. Knows of JSON only its whitespace and its escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from rollcall.records.formats.reader import RECORD_BYTES_MAX, Offsets, RecordError, Slice

SPACE: Final = b" \t\r\n"
"""JSON's whitespace."""

STRING: Final = rb'"[^"]*+"'
"""A string and its quotes, in JSON whose escapes are masked."""

KEY: Final = re.compile(rb"[ \t\r\n]*+(" + STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+")
"""The key of a member and its colon, in JSON whose escapes are masked."""

BOM: Final = b"\xef\xbb\xbf"

KEPT_BYTES: Final = 64 << 10
"""The beginning that is kept of a Record that is too long."""

_QUOTE, _BACKSLASH = b'"\\'
_IS_SPACE = np.isin(np.arange(256), list(SPACE))


def blank_bom(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The blocks, with spaces for a BOM at the start: no byte changes its place."""
    blocks, head = iter(blocks), b""
    for block in blocks:
        head += block
        if len(head) >= len(BOM):
            break
    yield b"   " + head[3:] if head.startswith(BOM) else head
    yield from blocks


def trim_spans(data: bytes, ends: Offsets, starts: Offsets | None = None) -> tuple[Offsets, Offsets]:
    """Where the stretches before these separators begin and end, without whitespace.

    `data` begins with the first stretch and holds the last separator. A blank stretch ends where it begins.
    """
    text = np.frombuffer(data, np.uint8)
    if starts is None:
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    for _ in range(32):  # all Records at once, as long as that pays
        before = _IS_SPACE[text[starts]] & (starts < ends)
        starts = starts + before
        after = _IS_SPACE[text[ends - 1]] & (starts < ends)
        ends = ends - after
        if not (before.any() or after.any()):
            return starts, ends
    for index in np.flatnonzero(before | after):
        stretch = data[starts[index] : ends[index]].lstrip(SPACE)
        starts[index] = ends[index] - len(stretch)
        ends[index] = starts[index] + len(stretch.rstrip(SPACE))
    return starts, ends


def escaped_quotes(text: npt.NDArray[np.uint8]) -> Offsets:
    """Where the quotes stand that a backslash takes for its string, in a text that does not begin within an escape."""
    backslashes = np.flatnonzero(text[:-1] == _BACKSLASH)
    firsts = np.flatnonzero(np.diff(backslashes, prepend=-2) != 1)  # of each run: every second one of it escapes
    turns = np.arange(len(backslashes)) - np.repeat(firsts, np.diff(firsts, append=len(backslashes)))
    followers = backslashes[turns % 2 == 0] + 1
    quotes: Offsets = followers[text[followers] == _QUOTE]
    return quotes


def mask_escapes(text: bytes) -> bytes:
    """The text with underscores for every `\\\\` and `\\"`: each quote left begins or ends a string, and no byte moves.

    So patterns need no group to pass over escapes: possessive groups match wrongly before Python 3.11.5
    (python/cpython#100061), and others need memory for each repetition.
    """
    return text.replace(rb"\\", b"__").replace(rb"\"", b"__") if b"\\" in text else text


def locate_records(data: bytes, starts: Offsets, ends: Offsets) -> Slice:
    """The Slice of these Records; of those that are too long, only the beginning."""
    too_long = np.flatnonzero(ends - starts > RECORD_BYTES_MAX)
    if not too_long.size:
        return Slice(data, starts, ends)
    ends = ends.copy()
    ends[too_long] = starts[too_long] + KEPT_BYTES
    return Slice(data, starts, ends, {int(index): RecordError("record_too_long") for index in too_long}).packed()


def bound(held: bytearray) -> None:
    """Keep of an unfinished stretch what tells whether it is too long: one byte more than may be, unless all is blank.

    What follows it is appended later; so the verdict is the same however the file is split into blocks.
    """
    if len(held) > RECORD_BYTES_MAX:
        held[:] = held.lstrip(SPACE)
        held[RECORD_BYTES_MAX:] = held[RECORD_BYTES_MAX:].strip(SPACE)[:1]
