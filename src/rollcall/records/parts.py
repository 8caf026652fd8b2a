"""Parts: the Records of a file, numbered, judged and cut into pieces that travel together.

Where a Part ends depends on the file alone, never on how its bytes arrive, so that an import goes on with the Parts it
began with. Memory: about two Parts, whatever the size of the file. Nothing is loaded here, and nothing is remembered.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from rollcall.errors import EmptyFile, InvalidJson, NoRecords, ReaderChanged
from rollcall.records import archive
from rollcall.records.formats import csv, json, ndjson
from rollcall.records.formats.reader import Columns, Format, RecordError, Slice
from rollcall.records.plan import READER_VERSION, FormatName, Plan
from rollcall.records.rules import judge

PART_RECORDS = 16_000
PART_BYTES = 4 << 20
"""A Part ends with the Record that brings it to so many Records, or to so many bytes of Records (decoded). Headings, if
long, count as bytes of every CSV Record that repeats them in its attributes."""

SPARSE = 8
"""Records are packed if they take less than one byte in so many."""

PARSED_RECORDS, PARSED_BYTES = 25_000, 2 << 20
"""No more of a Part is parsed and judged at a time: what that needs beside its result bounds the memory."""

RAW_BYTES_MAX = 64 << 10
"""How much of a rejected Record's own bytes is kept."""

FORMATS: dict[FormatName, Format] = {"csv": csv, "json": json, "ndjson": ndjson}


@dataclass(frozen=True)
class Part:
    """Consecutive Records, `first` to `last` (numbers from 1). Every one is in `contacts` or in `rejects`.

    `contacts`: email, name, attributes (strings, JSON objects), record (int64), in file order. `rejects`: record
    (int64), field, code, value (strings), raw (binary, the Record as it stands in the decoded file). `position`: bytes
    of the stored stream read so far. `rules_seconds`: what judging took.
    """

    first: int
    last: int
    contacts: pa.Table
    rejects: pa.Table
    position: int
    rules_seconds: float


def parts(stream: BinaryIO, plan: Plan, *, after: int = 0, part_records: int = PART_RECORDS) -> Iterator[Part]:
    """Yield the Parts that hold Records after number `after`; what lies wholly before is scanned, not parsed or judged.

    `stream`: the file as it was received, from its first byte. Raises ReaderChanged, NoRecords (EmptyFile when there is
    no byte), the Unreadable that says what is wrong with the file, and what the stream raises.
    """
    if plan.reader != READER_VERSION:
        raise ReaderChanged
    stored, format_ = archive.Stored(stream), FORMATS[plan.format]
    blocks = archive.unpack(stored, plan.compression)
    last = 0
    for first, slices in cut(format_.scan(blocks, plan), part_records):
        last = first + sum(map(len, slices)) - 1
        if last > after:
            yield _part(format_, plan, slices, first, stored.position)
    if not last:
        raise NoRecords if stored.position else EmptyFile


def _part(format_: Format, plan: Plan, slices: list[Slice], first: int, position: int) -> Part:
    contacts, rejects, record, took = [], [], first, 0.0
    for records in join_small(slices):
        batch, began = _parse(format_, records, plan, record), time.perf_counter()
        good, bad = judge(batch, record)
        took += time.perf_counter() - began
        contacts.append(good)
        rejects.append(_with_raw(bad, records, record))
        record += len(records)
    return Part(first, record - 1, _whole(contacts), _whole(rejects), position, took)


def _whole(tables: list[pa.Table]) -> pa.Table:
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables).combine_chunks()


def cut(
    slices: Iterable[Slice], records: int = PART_RECORDS, size: int = PART_BYTES
) -> Iterator[tuple[int, list[Slice]]]:
    """Regroup scanned Slices: at most `records` Records each time, and none after the one that reaches `size` bytes.

    Yields the number of the first Record with them. The data of each begins with its first Record and ends with its
    last.
    """
    first, pieces, held, held_bytes = 1, [], 0, 0
    for piece in slices:
        bytes_until = np.cumsum(piece.ends - piece.starts if piece.weights is None else piece.weights)
        begin = 0
        while begin < len(piece):
            before = int(bytes_until[begin - 1]) if begin else 0
            reaches = int(np.searchsorted(bytes_until, before + size - held_bytes)) + 1
            end = min(begin + records - held, reaches, len(piece))
            pieces.append(_between(piece, begin, end))
            held += end - begin
            held_bytes += int(bytes_until[end - 1]) - before
            begin = end
            if held == records or held_bytes >= size:
                yield first, pieces
                first, pieces, held, held_bytes = first + held, [], 0, 0
    if pieces:
        yield first, pieces


def join_small(slices: list[Slice], records: int = PARSED_RECORDS, size: int = PARSED_BYTES) -> Iterator[Slice]:
    """The same Records in fewer Slices: those are joined that have no more than `records` and `size` together."""
    held, count, length = list[Slice](), 0, 0
    for piece in slices:
        count, length = count + len(piece), length + len(piece.data)
        if held and (count > records or length > size):
            yield _join(held)
            held, count, length = [], len(piece), len(piece.data)
        held.append(piece)
    yield _join(held)


def _between(piece: Slice, begin: int, end: int) -> Slice:
    """Some of its Records, and what stands between them unless that is by far the most: blanks must take no memory."""
    from_, to = int(piece.starts[begin]), int(piece.ends[end - 1])
    starts, ends = piece.starts[begin:end] - from_, piece.ends[begin:end] - from_
    some = Slice(
        piece.data[from_:to],
        starts,
        ends,
        {index - begin: fault for index, fault in piece.faults.items() if begin <= index < end},
        regular=piece.regular,
    )
    return some if len(some.data) <= SPARSE * int((ends - starts).sum()) else some.packed()


def _join(pieces: list[Slice]) -> Slice:
    if len(pieces) == 1:
        return pieces[0]
    data_before = np.cumsum([0, *(len(piece.data) for piece in pieces)])
    records_before = np.cumsum([0, *(len(piece) for piece in pieces)])
    faults: dict[int, RecordError] = {}
    for piece, before in zip(pieces, records_before, strict=False):
        faults |= {int(before) + index: fault for index, fault in piece.faults.items()}
    return Slice(
        b"".join(piece.data for piece in pieces),
        np.concatenate([piece.starts + before for piece, before in zip(pieces, data_before, strict=False)]),
        np.concatenate([piece.ends + before for piece, before in zip(pieces, data_before, strict=False)]),
        faults,
        regular=all(piece.regular for piece in pieces),
    )


def _parse(format_: Format, records: Slice, plan: Plan, first: int) -> Columns:
    try:
        return format_.parse(records, plan)
    except InvalidJson as fault:
        if "index" not in fault.more:
            raise
        record = first + int(fault.more["index"])
        raise InvalidJson(f"Record {record}: {fault}", record=record) from fault


def _with_raw(rejects: pa.Table, records: Slice, first: int) -> pa.Table:
    """Every Record and what stands between it and the next one are values of one array; those asked for are taken."""
    edges = np.empty(2 * len(records) + 1, np.int32)
    edges[:-1:2], edges[1::2] = records.starts, np.minimum(records.ends, records.starts + RAW_BYTES_MAX)
    edges[-1] = edges[-2]
    buffers = [None, pa.py_buffer(edges.tobytes()), pa.py_buffer(records.data)]
    values = pa.Array.from_buffers(pa.binary(), 2 * len(records), buffers)
    return rejects.append_column("raw", values.take(pa.array(2 * (np.asarray(rejects["record"]) - first))))
