"""NDJSON: one JSON object a line (LF or CRLF), in UTF-8. Blank lines are no Records; a bad line is one RecordError."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import orjson

from rollcall.records.formats import json_objects
from rollcall.records.formats.reader import Offsets, Slice
from rollcall.records.formats.spans import blank_bom, bound, locate_records, trim_spans
from rollcall.records.plan import Plan

parse, cells = json_objects.parse, json_objects.cells


def scan(blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
    """The lines that are not blank. Raises nothing of its own."""
    return _scan(blocks)


def keys(head: bytes, whole: bool, member: str | None = None) -> list[str]:
    """The keys of the first 1,000 Records of a file that begins like this, in order of appearance.

    `head`: decoded bytes; `whole`: these are all of them; `member` makes no difference.
    """
    found: dict[str, None] = {}
    for raw in json_objects.sample_keys(_scan([head if whole else head[: head.rfind(b"\n") + 1]])):
        with suppress(orjson.JSONDecodeError):
            found |= dict.fromkeys(json_objects.keys(raw))
    return list(found)


def _scan(blocks: Iterable[bytes]) -> Iterator[Slice]:
    held = bytearray()
    for block in blank_bom(blocks):
        newlines = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n"))
        if not len(newlines):
            held += block
            bound(held)
            continue
        yield from _lines(bytes(held) + block[: newlines[-1] + 1], newlines + len(held))
        held = bytearray(block[newlines[-1] + 1 :])
    if held:
        yield from _lines(bytes(held) + b"\n", np.array([len(held)]))


def _lines(data: bytes, newlines: Offsets) -> Iterator[Slice]:
    starts, ends = trim_spans(data, newlines)
    filled = starts < ends
    if filled.any():
        yield locate_records(data, starts[filled], ends[filled])
