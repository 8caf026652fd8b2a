"""Bytes in, Parts out: the part of Rollcall that reads contact files. No SQL, no network, no async; usable alone.

    plan = inspect(stream)                  what is it, how is it written, which column is what
    for part in parts(stream, plan): …      Contacts and Rejects, numbered, in file order

Streams are binary files as they were received (compressed or not), read once from their first byte: `parts` wants the
stream anew. Memory is bounded whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from typing import BinaryIO

import orjson

from rollcall.errors import EmptyFile, UnknownFormat, Unreadable
from rollcall.records import archive, reject_file, text
from rollcall.records import mapping as mappings
from rollcall.records.formats import json, json_objects, layout, ndjson, resent
from rollcall.records.formats.csv_dialect import csv_dialect
from rollcall.records.formats.reader import RECORD_BYTES_MAX
from rollcall.records.parts import FORMATS, Part, parts
from rollcall.records.plan import Compression, Mapping, Plan
from rollcall.records.rules import message
from rollcall.records.shares import deal, divide, fold, split

__all__ = [
    "Mapping",
    "Part",
    "Plan",
    "as_object",
    "cells",
    "columns",
    "deal",
    "fold",
    "inspect",
    "message",
    "parts",
    "split",
]


SAMPLE_RECORDS, SAMPLE_PIECE = 5_000, 250
"""How many Records' addresses are looked at, so many at a time; the last ones before the head ends are not."""


def inspect(
    stream: BinaryIO,
    *,
    format: str | None = None,  # noqa: A002
    mapping: Mapping | None = None,
    loaders: int = 1,
) -> Plan:
    """What the file is, by its bytes: its first MiB (decoded), or 5 if the first Record of a JSON file is that long;
    and how its addresses are divided among so many loaders.

    `format` (csv, tsv, json, ndjson) and `mapping` are taken as given and checked; what is not given is detected and
    guessed. Raises the Unreadable that says why the file cannot be imported, and what the stream raises.
    """
    compression, blocks = _decoded(stream)
    head, whole = _more(blocks, text.HEAD_BYTES)
    if not text.strip_bom(head).strip():
        raise EmptyFile
    text.refuse_binary(head)
    if format not in (None, "csv", "tsv", "json", "ndjson"):
        raise UnknownFormat(f'The format "{format}" is not known. It can be csv, tsv, json or ndjson.')
    found, keys = _json_keys(head, whole, whole, format)
    if not keys and not whole and format not in ("csv", "tsv") and layout.looks_like_json(head):
        more, whole = _more(blocks, RECORD_BYTES_MAX)  # the first Record is longer than the head
        head += more
        found, keys = _json_keys(head, whole, True, format)
    if not found:
        dialect = csv_dialect(head, "\t" if format == "tsv" else None)
        headings = dialect.header
        if reject_file.is_reject_file(headings):
            headings = [reject_file.unguarded(heading) for heading in headings]
        header = mappings.unique(headings)
        mapped = _columns(mapping, header)
        plan = Plan("csv", compression, header, mapped, dialect.delimiter, dialect.skip)
        plan = replace(plan, quoting=dialect.quoting, line_end=dialect.line_end, mapping_given=mapping is not None)
        return replace(plan, loaders=_loaders(plan, head, loaders))
    # Of a file whose first Record is too long to be read no key is known.
    mapped = _columns(mapping, keys) if keys or whole else mapping or mappings.CONTRACT
    plan = Plan(
        *(found[0], compression, mappings.sample(keys, mapped), mapped),
        mapping_given=mapping is not None,
        member=found[1],
    )
    return replace(plan, loaders=_loaders(plan, head, loaders))


def _json_keys(head: bytes, whole: bool, last: bool, given: str | None) -> tuple[layout.Layout | None, tuple[str, ...]]:
    """How a JSON file is laid out, and its keys; None if it is none, or if more has to be seen and `last` is not so."""
    found = layout.detect(head, last, given) if given not in ("csv", "tsv") else None
    if not found:
        return None, ()
    name, member = found
    return found, tuple((json if name == "json" else ndjson).keys(head, whole, member))


def _loaders(plan: Plan, head: bytes, loaders: int) -> tuple[str, ...]:
    """Where the loaders begin, by the first addresses of the file; its first bytes may end anywhere."""
    emails: list[str] = []
    if loaders > 1:
        with suppress(Unreadable):
            for part in parts(BytesIO(head), replace(plan, compression="none"), part_records=SAMPLE_PIECE):
                emails += map(str, part.contacts["email"].to_pylist())
                if part.last >= SAMPLE_RECORDS:
                    break
    return divide(emails, loaders)


def columns(plan: Plan) -> tuple[str, ...]:
    """The headings of a reject file, without those that Rollcall adds to every one (`reject_file.ADDED`)."""
    return FORMATS[plan.format].columns(plan)


def cells(raw: bytes, plan: Plan) -> list[str]:
    """One Record's bytes (a Reject's `raw`) as a row of a reject file: a text for each of `columns`, with marks for
    what cannot be imported, not guarded yet. Never raises.
    """
    return FORMATS[plan.format].cells(raw, plan)


def as_object(raw: bytes, plan: Plan) -> bytes | None:
    """One Record's bytes as a JSON object that says the same; None if there is none."""
    if plan.format != "csv":
        return None if json_objects.members(raw) is None else raw
    row = dict(zip(columns(plan), cells(raw, plan), strict=True))
    if any(map(reject_file.mark_in, row.values())):
        return None
    values = {name: reject_file.unmarked(cell) for name, cell in row.items()}
    if reject_file.MORE in values:
        text = resent.json_object(values)
        return None if json_objects.members(text) is None else text
    mapped = (plan.mapping.email, *plan.mapping.name)
    return orjson.dumps({name: value for name, value in values.items() if value or name in mapped})


def _decoded(stream: BinaryIO) -> tuple[Compression, Iterator[bytes]]:
    first = b""
    while len(first) < 4 and (more := stream.read(4 - len(first))):
        first += more
    compression = archive.detect(first)
    return compression, archive.unpack(archive.Stored(stream, first), compression, 64 << 10)


def _more(blocks: Iterator[bytes], size: int) -> tuple[bytes, bool]:
    """The next `size` bytes, give or take a block, and whether the file ends with them."""
    head = bytearray()
    for block in blocks:
        head += block
        if len(head) >= size:
            return bytes(head), False
    return bytes(head), True


def _columns(mapping: Mapping | None, header: tuple[str, ...]) -> Mapping:
    if mapping:
        return mappings.check(mapping, header)
    return mappings.guess([column for column in header if column not in reject_file.NAMES])
