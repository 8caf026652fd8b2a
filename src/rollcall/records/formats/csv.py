"""CSV and its kin (any one-byte delimiter), in UTF-8. A broken quote never swallows a good line.

pyarrow's parser alone does not keep that promise, so `scan` finds the Records by the grammar of `text.ending`: whole
stretches at once where every quote is in its place, line by line where one is not. `parse` lays out what reaches
pyarrow so that its rows are the Records one to one: faulty ones as blank rows, ragged ones filled up.

A physical line with text after a closing quote, or with a quoted value that does not close properly before the end of
the file or within 1 MiB, is a RecordError on its own; reading goes on at the next line. Blank lines, and lines of
nothing but blanks and delimiters, are no Records.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from typing import IO, Final, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from rollcall.records.formats.columns import attributes, join_values
from rollcall.records.formats.reader import RECORD_BYTES_MAX, Columns, Offsets, RecordError, Slice
from rollcall.records.plan import Plan
from rollcall.records.text import BLANKS, QUOTED_BYTES_MAX, Ending, ending, split, strip_bom

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

STRETCH_BYTES: Final = 2 << 20
"""So much is scanned at once, whatever the size of the blocks: more than a header or an unclosed quote can take."""

KEPT_BYTES: Final = 64 << 10
"""What is kept of a Record that is too long."""

LF, CR, QUOTE = b'\n\r"'
OPEN, STRAY, TOO_LONG = 1, 2, 3
STATES: Final[dict[Ending, int]] = {"closed": 0, "open": OPEN, "stray": STRAY}
FAULTS: Final = {
    OPEN: RecordError("unclosed_quote"),
    STRAY: RecordError("stray_quote"),
    TOO_LONG: RecordError("record_too_long"),
}


def scan(blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
    """The Records after the header. Holds one stretch of bytes and at most one Record beside it."""
    delimiter = _delimiter(plan)
    rest, header, overlong = b"", True, False
    for number, (stretch, final) in enumerate(_stretches(blocks)):
        data = rest + stretch if number else strip_bom(stretch)[plan.skip :]
        if overlong:
            end = _line_end(data)
            data, overlong = data[end:], end < 0
        if overlong:
            continue
        if final:
            data += b"\n"
        starts, ends, states, used = _records(data, delimiter, final)
        rest = data[used:]
        if len(rest) > RECORD_BYTES_MAX:  # there is no line end in it, or it would have been used
            starts, ends, states = (
                np.append(starts, used),
                np.append(ends, used + KEPT_BYTES),
                np.append(states, TOO_LONG),
            )
            rest, overlong = b"", True
        if header and len(starts):
            starts, ends, states, header = starts[1:], ends[1:], states[1:], False
        if len(starts):
            yield Slice(data, starts, ends, {index: FAULTS[states[index]] for index in np.flatnonzero(states).tolist()})


def _stretches(blocks: Iterable[bytes]) -> Iterator[tuple[bytes, bool]]:
    """The blocks, gathered so that small ones cost no more than large ones; True with the last stretch."""
    held: list[bytes] = []
    size = 0
    for block in blocks:
        held.append(block)
        size += len(block)
        if size >= STRETCH_BYTES:
            yield b"".join(held), False
            held, size = [], 0
    yield b"".join(held), True


def _line_end(data: bytes) -> int:
    """Where the first LF or CR stands; -1 if there is none."""
    return min((at for sign in (b"\n", b"\r") if (at := data.find(sign)) >= 0), default=-1)


def _records(data: bytes, delimiter: bytes, final: bool) -> tuple[Offsets, Offsets, Bytes, int]:
    """Starts, ends and states of the Records that `data` decides, and how many of its bytes they take."""
    starts, ends, used = _lines(data)
    states = np.zeros(len(starts), np.uint8)
    if b'"' in data and len(starts):
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8, used) == QUOTE)
        undecided = len(data) - (0 if final else QUOTED_BYTES_MAX)  # a quote after it may yet be closed
        firsts, lasts, states = _joined(data, delimiter, starts, ends, quotes, undecided)
        stop = lasts[-1] + 1 if len(lasts) else 0
        used = int(starts[stop]) if stop < len(starts) else used
        starts, ends = starts[firsts], ends[lasts]
    states[ends - starts > RECORD_BYTES_MAX] = TOO_LONG
    ends = np.where(states == TOO_LONG, starts + KEPT_BYTES, ends)
    kept = ~_blank(data, delimiter, starts, ends) | (states > 0)
    return starts[kept], ends[kept], states[kept], used


def _lines(data: bytes) -> tuple[Offsets, Offsets, int]:
    """Starts and ends of the physical lines that end in `data`, and where the last line end ends.

    A CRLF is two line ends with an empty line between; empty lines are left out, here and for good.
    """
    array = np.frombuffer(data, np.uint8)
    stops = np.flatnonzero((array == LF) | (array == CR) if b"\r" in data else array == LF)
    starts = np.append(0, stops + 1)
    filled = starts[:-1] < stops
    return starts[:-1][filled], stops[filled], int(starts[-1])


def _blank(data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets) -> Flags:
    """Which Records are none: nothing but blanks and delimiters."""
    array = np.frombuffer(data, np.uint8)
    blanks = BLANKS + delimiter.decode()
    edge = _among(blanks.encode())
    blank: Flags = edge[array[starts]] & edge[array[ends - 1]]
    for index in np.flatnonzero(blank).tolist():
        blank[index] = not data[starts[index] : ends[index]].decode("utf-8", "replace").strip(blanks)
    return blank


def _joined(
    data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quotes: Offsets, undecided: int
) -> tuple[Offsets, Offsets, Bytes]:
    """First line, last line and state of every Record; a Record that later bytes decide ends the list.

    Where every quote stands beside a delimiter, a line end or another quote, as its turn demands, their parity tells
    whether a line ends inside a value. Where one does not, each line is looked at on its own.
    """
    array = np.frombuffer(data, np.uint8)
    edge = _among(delimiter + b'\r\n"')
    before = np.searchsorted(quotes, ends)
    if edge[array[np.maximum(quotes[::2] - 1, 0)]].all() and edge[array[quotes[1::2] + 1]].all():
        lasts = np.flatnonzero(before % 2 == 0)
        firsts = np.append(0, lasts + 1)
        firsts, beyond = firsts[:-1], firsts[-1]
        short = (ends[lasts] - starts[firsts] <= QUOTED_BYTES_MAX) | (firsts == lasts)
        if short.all() and (beyond == len(starts) or starts[beyond] >= undecided):
            return firsts, lasts, np.zeros(len(firsts), np.uint8)
    counts = np.diff(before, prepend=0)
    states = _states(data, delimiter, starts, ends, quotes, counts)
    lasts = _closed(data, delimiter, starts, ends, np.flatnonzero(counts), states, undecided)
    firsts = np.flatnonzero(lasts >= 0)
    return firsts, lasts[firsts], states[firsts]


def _states(data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quotes: Offsets, counts: Offsets) -> Bytes:
    """How every line ends when it begins outside of quotes."""
    array = np.frombuffer(data, np.uint8)
    line = np.repeat(np.arange(len(starts)), counts)
    turn = (np.arange(len(quotes)) - (np.cumsum(counts) - counts)[line]) % 2
    placed = _among(delimiter + b'\r\n"')[array[np.maximum(quotes + 2 * turn - 1, 0)]]
    opening = (quotes == starts[line]) | (array[quotes - 1] == delimiter[0])
    misplaced, quoted = np.zeros((2, len(starts)), np.bool_)
    misplaced[line[~placed]] = True
    quoted[line[opening]] = True
    states = np.where(misplaced, 0, counts % 2).astype(np.uint8)
    doubtful = np.flatnonzero(misplaced & quoted)  # where no quote opens a value, all of them are text
    lines = zip(starts[doubtful].tolist(), ends[doubtful].tolist(), strict=True)
    states[doubtful] = [STATES[ending(data[begin:end], delimiter)] for begin, end in lines]
    return states


def _closed(
    data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quoted: Offsets, states: Bytes, undecided: int
) -> Offsets:
    """The last line of the Record that each line begins; -1 for lines that begin none. Lines that close lose OPEN.

    `quoted`: the lines with quotes. No line is entered twice on the way to the close of several open ones: linear.
    """
    last = np.arange(len(starts))
    lines, begins, stops = quoted.tolist(), starts.tolist(), ends.tolist()
    at = free = 0  # all of `lines` between the open line and `at` leave the value open, or open another one

    @cache
    def entered(line: int) -> Ending:
        return ending(data[begins[line] : stops[line]], delimiter, quoted=True)

    for line in np.flatnonzero(states == OPEN).tolist():
        if line < free:
            continue
        at = max(at, bisect_right(lines, line))
        limit = begins[line] + QUOTED_BYTES_MAX
        while at < len(lines) and stops[lines[at]] <= limit and entered(lines[at]) == "open":
            at += 1
        if at == len(lines) and begins[line] >= undecided:
            last[line:] = -1
            break
        if at < len(lines) and stops[lines[at]] <= limit and entered(lines[at]) == "closed":
            last[line], free = lines[at], lines[at] + 1
            last[line + 1 : free] = -1
            states[line] = 0
    return last


def parse(part: Slice, plan: Plan) -> Columns:
    """The fields of these Records. Further RecordErrors: invalid_utf8, too_many_fields, nul_character."""
    faults = dict.fromkeys(part.not_utf8(), RecordError("invalid_utf8")) | part.faults
    columns = dict(zip(plan.header, _columns(part, plan, faults), strict=True))
    name = join_values([columns[column] for column in plan.mapping.name])
    email = columns[plan.mapping.email]
    others = {key: column for key, column in columns.items() if key not in {plan.mapping.email, *plan.mapping.name}}
    if b"\0" in part.data:
        for key, column in others.items():
            for index in np.flatnonzero(pc.match_substring(column, "\0")).tolist():
                faults.setdefault(index, RecordError("nul_character", key))
    return Columns(name, email, attributes(others, len(part)), faults)


def _columns(part: Slice, plan: Plan, faults: dict[int, RecordError]) -> list[pa.StringArray]:
    """The values of every column, exactly as written; those of faulty Records are empty. Adds too_many_fields."""
    delimiter, width = _delimiter(plan), len(plan.header)
    blank = delimiter * (width - 1) or b'""'
    rows = dict.fromkeys(faults, blank)
    columns, ragged = _read(part, rows, plan)
    if ragged:
        for index, fields in ragged:
            raw, surplus = part.raw(index), fields - width
            if surplus < 0:
                rows[index] = raw + delimiter * -surplus
            elif raw.endswith(delimiter * surplus):
                rows[index] = raw[:-surplus]
            elif any(cell.decode().strip(BLANKS) for cell in split(raw, delimiter)[width:]):
                rows[index], faults[index] = blank, RecordError("too_many_fields")
            else:
                values = split(raw, delimiter)[:width]
                rows[index] = delimiter.join(b'"%b"' % value.replace(b'"', b'""') for value in values)
        columns, ragged = _read(part, rows, plan)
    assert not ragged
    assert all(len(column) == len(part) for column in columns)
    return columns


def _read(part: Slice, rows: dict[int, bytes], plan: Plan) -> tuple[list[pa.StringArray], list[tuple[int, int]]]:
    """The columns by pyarrow, and (index, number of fields) of the rows it left out. `rows` stand in for Records."""
    ragged: list[tuple[int, int]] = []

    def leave_out(row: pa_csv.InvalidRow) -> Literal["skip"]:
        ragged.append((cast(int, row.number) - 1, row.actual_columns))
        return "skip"

    names = [str(column) for column in range(len(plan.header))]
    text = _laid_out(part, rows)
    table = pa_csv.read_csv(
        cast(IO[bytes], pa.BufferReader(text)),
        pa_csv.ReadOptions(use_threads=False, block_size=len(text) + 1, column_names=names),
        pa_csv.ParseOptions(
            delimiter=_delimiter(plan).decode(), newlines_in_values=True, invalid_row_handler=leave_out
        ),
        pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=False, check_utf8=False
        ),
    )
    return [cast(pa.StringArray, column.combine_chunks()) for column in table.columns], ragged


def _laid_out(part: Slice, rows: dict[int, bytes]) -> bytes | memoryview:
    """The Records as CSV text, one after the other: a view of the Slice if nothing stands between or in for them."""
    gaps = part.starts[1:] - part.ends[:-1]
    cut = np.ones(len(part) + 1, np.bool_)  # whether Record i follows its neighbour by anything but one line end
    cut[1:-1] = (gaps < 1) | (gaps > 2)
    replaced = np.fromiter(rows, np.int64, len(rows))
    cut[replaced] = cut[replaced + 1] = True
    edges = np.flatnonzero(cut)
    data = memoryview(part.data)
    pieces = [
        rows[first] if first in rows else data[begin:end]
        for first, begin, end in zip(
            edges[:-1].tolist(), part.starts[edges[:-1]].tolist(), part.ends[edges[1:] - 1].tolist(), strict=True
        )
    ]
    if len(pieces) == 1 and pieces[0][:1] != b"\xef":
        return pieces[0]
    return b"\n" + b"\n".join(pieces)  # pyarrow passes over the empty line, and would drop a BOM that stands first


def cells(raw: bytes, plan: Plan) -> list[str]:
    """One Record's values, one for each column of `plan.header`; a surplus stays in the last one. Never raises."""
    delimiter, width = _delimiter(plan), len(plan.header)
    found = split(raw, delimiter)
    found += [b""] * (width - len(found))
    found[width - 1 :] = [delimiter.join(found[width - 1 :])]
    return [cell.decode("utf-8", "replace") for cell in found]


def _delimiter(plan: Plan) -> bytes:
    return (plan.delimiter or ",").encode()


def _among(signs: bytes) -> Flags:
    """Which byte values are among the signs."""
    among = np.zeros(256, np.bool_)
    among[list(signs)] = True
    return among
