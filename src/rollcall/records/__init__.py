"""Bytes in, Parts out: the part of Rollcall that reads contact files. No SQL, no network, no async; usable alone.

    plan = inspect(stream)                  what is it, how is it written, which column is what
    for part in parts(stream, plan): …      Contacts and Rejects, numbered, in file order

Streams are binary files as they were received (compressed or not), read once from their first byte: `parts` wants the
stream anew. Memory is bounded whatever their size.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

import orjson

from rollcall.errors import EmptyFile, NoEmailColumn, NoNameColumn, UnknownFormat
from rollcall.records import archive, reject_file, text
from rollcall.records import mapping as mappings
from rollcall.records.formats import json, json_objects, layout, ndjson, resent
from rollcall.records.formats.csv_dialect import csv_dialect
from rollcall.records.formats.reader import RECORD_BYTES_MAX
from rollcall.records.parts import FORMATS, Part, cut_records, parts
from rollcall.records.plan import Compression, Mapping, Plan
from rollcall.records.rules import message
from rollcall.records.sample import sample_emails

__all__ = [
    "Mapping",
    "Part",
    "Plan",
    "as_object",
    "cells",
    "columns",
    "cut_records",
    "inspect",
    "message",
    "parts",
    "sample_emails",
]


TITLE_LINE = (
    "The first line seems to be a title or a note, not the header: a later line has more columns. Remove what stands "
    "before the header."
)


def inspect(
    stream: BinaryIO,
    *,
    format: str | None = None,  # noqa: A002
    mapping: Mapping | None = None,
) -> Plan:
    """What the file is, by its bytes: its first MiB (decoded), or 5 if the first Record of a JSON file is that long.

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
        return _csv_plan(head, compression, "\t" if format == "tsv" else None, mapping)
    # Of a file whose first Record is too long to be read no key is known.
    mapped = _columns(mapping, keys) if keys or whole else mapping or mappings.CONTRACT
    return Plan(
        *(found[0], compression, mappings.sample(keys, mapped), mapped),
        mapping_given=mapping is not None,
        member=found[1],
    )


def _csv_plan(head: bytes, compression: Compression, delimiter: str | None, mapping: Mapping | None) -> Plan:
    dialect = csv_dialect(head, delimiter)
    headings = dialect.header
    if reject_file.is_reject_file(headings):
        headings = [reject_file.unguarded(heading) for heading in headings]
    header = mappings.unique(headings)
    try:
        mapped = _columns(mapping, header)
    except (NoEmailColumn, NoNameColumn) as error:
        raise type(error)(TITLE_LINE) if dialect.title else error from None
    plan = Plan("csv", compression, header, mapped, dialect.delimiter, dialect.skip)
    given = mapping is not None and reject_file.MORE in header  # its Records are JSON
    return replace(plan, quoting=dialect.quoting, line_end=dialect.line_end, mapping_given=given)


def _json_keys(head: bytes, whole: bool, last: bool, given: str | None) -> tuple[layout.Layout | None, tuple[str, ...]]:
    """How a JSON file is laid out, and its keys; None if it is none, or if more has to be seen and `last` is not so."""
    found = layout.detect(head, last, given) if given not in ("csv", "tsv") else None
    if not found:
        return None, ()
    name, member = found
    return found, tuple((json if name == "json" else ndjson).keys(head, whole, member))


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
