"""Where the Records of a CSV file are. A broken quote never swallows a good line.

pyarrow's parser alone does not keep that promise, so `scan` finds the Records by the grammar of `csv_grammar`: whole
stretches at once where every quote is in its place, line by line where one is not. `csv_values` parses them.

A physical line with text behind a closing quote, or with a quoted value that does not close properly before the end of
the file or within 4 MiB, is a RecordError on its own; reading goes on at the next line. Lines of nothing but blanks,
delimiters and end-of-file signs (Ctrl-Z, NUL) are no Records.

Lines end with LF or CRLF, and a lone CR is data; where the Plan says so (old Macs), CR ends them too.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from rollcall.records.formats.csv_grammar import QUOTED_BYTES_MAX, Ending, blanks, ending
from rollcall.records.formats.csv_values import delimiter_of, fields_at_most
from rollcall.records.formats.reader import RECORD_BYTES_MAX, Offsets, RecordError, Slice
from rollcall.records.formats.spans import mask_escapes
from rollcall.records.plan import Plan
from rollcall.records.text import BLANKS, strip_bom

Bytes = npt.NDArray[np.uint8]
Flags = npt.NDArray[np.bool_]

STRETCH_BYTES: Final = 2 << 20
"""So much is scanned at once, whatever the size of the blocks: more than what stands before a header can take."""

KEPT_BYTES: Final = 64 << 10
"""What is kept of a Record that is too long."""

HEADINGS_BYTES: Final = 2 << 10
"""Headings that are longer together count as bytes of every Record that repeats them in its attributes."""

END_SIGNS: Final = b"\0\x1a"
"""DOS ended a text with Ctrl-Z; what reserves room on a disk leaves NULs behind."""

CRS_MAX: Final = 2
"""What stands before a LF belongs to the line end: a CR, or two where a CRLF was written as text once more."""

LF, CR, QUOTE, EQUALS = b'\n\r"='
OPEN, STRAY, TOO_LONG, PERHAPS = 1, 2, 3, 4
STATES: Final[dict[Ending, int]] = {"closed": 0, "open": OPEN, "stray": STRAY, "perhaps": PERHAPS}
FAULTS: Final = {
    OPEN: RecordError("unclosed_quote"),
    STRAY: RecordError("stray_quote"),
    TOO_LONG: RecordError("record_too_long"),
}


def scan(blocks: Iterable[bytes], plan: Plan) -> Iterator[Slice]:
    """The Records after the header. Holds one stretch of bytes and at most one Record beside it."""
    rest, header, overlong = b"", True, False
    for number, (stretch, final) in enumerate(_stretches(blocks)):
        data = rest + stretch if number else strip_bom(stretch)[plan.skip :]
        if overlong:
            end = _line_end(data, plan)
            data, overlong = data[end:], end < 0
        if overlong:
            continue
        if final:
            data = data.rstrip(END_SIGNS) + b"\n"
        starts, ends, states, used, regular = find_records(data, plan, final)
        rest = data[used:]
        if len(rest) > RECORD_BYTES_MAX + CRS_MAX:  # there is no line end in it, or it would have been used
            if rest.strip(END_SIGNS):
                starts, ends = np.append(starts, used), np.append(ends, used + KEPT_BYTES)
                states, overlong = np.append(states, TOO_LONG), True
            rest = b""
        if header and len(starts):
            starts, ends, states, header = starts[1:], ends[1:], states[1:], False
        if len(starts):
            faults = {index: FAULTS[states[index]] for index in np.flatnonzero(states).tolist()}
            yield Slice(data, starts, ends, faults, _weights(data, starts, ends, plan), regular)


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


def _line_end(data: bytes, plan: Plan) -> int:
    """Where the first line end begins; -1 if there is none."""
    signs = (b"\n", b"\r") if plan.line_end == "\r" else (b"\n",)
    return min((at for sign in signs if (at := data.find(sign)) >= 0), default=-1)


def _weights(data: bytes, starts: Offsets, ends: Offsets, plan: Plan) -> Offsets | None:
    """Bytes of each Record, with those of the headings that its attributes repeat; None where these are few."""
    lengths = [len(heading.encode()) for heading in plan.header]
    if sum(lengths) <= HEADINGS_BYTES:
        return None
    headings = np.cumsum([0, *lengths])
    weights: Offsets = headings[np.minimum(fields_at_most(data, starts, ends, plan), len(lengths))]
    return ends - starts + weights


class Found(NamedTuple):
    """Starts, ends and states of the Records that some bytes decide, and how many of the bytes they take.

    `regular`: every quote, and every CR, is where RFC 4180 has it.
    """

    starts: Offsets
    ends: Offsets
    states: Bytes
    used: int
    regular: bool


def find_records(data: bytes, plan: Plan, final: bool) -> Found:
    """The Records that `data` decides; `final`: nothing follows it."""
    delimiter = delimiter_of(plan)
    starts, ends, used, regular = _lines(data, plan)
    states = np.zeros(len(starts), np.uint8)
    if b'"' in data and len(starts):
        masked = mask_escapes(data) if plan.quoting == "backslash" else data
        quotes = np.flatnonzero(np.frombuffer(masked, np.uint8, used) == QUOTE)
        undecided = len(data) - (0 if final else QUOTED_BYTES_MAX + CRS_MAX)  # a quote after it may yet be closed
        lines = _join_regular(masked, delimiter, starts, ends, quotes, undecided) if regular else None
        regular = lines is not None and plan.quoting == "doubled" and not _holds_formulas(data, quotes)
        firsts, lasts, states = lines or _join_lines(masked, delimiter, starts, ends, quotes, undecided)
        stop = lasts[-1] + 1 if len(lasts) else 0
        used = int(starts[stop]) if stop < len(starts) else used
        starts, ends = starts[firsts], ends[lasts]
    states[ends - starts > RECORD_BYTES_MAX] = TOO_LONG
    ends = np.where(states == TOO_LONG, starts + KEPT_BYTES, ends)
    kept = ~_blank(data, delimiter, starts, ends) | (states > 0)
    return Found(starts[kept], ends[kept], states[kept], used, regular)


def _holds_formulas(data: bytes, quotes: Offsets) -> bool:
    """Whether there may be a value such as ="00123", itself in quotes."""
    return bool((np.frombuffer(data, np.uint8)[quotes[1::2] - 1] == EQUALS).any())


def _lines(data: bytes, plan: Plan) -> tuple[Offsets, Offsets, int, bool]:
    """Starts and ends of the physical lines that end in `data`, where the last line end ends, and if no CR is data.

    Empty lines are left out, here and for good. So are CRs before a LF.
    """
    array = np.frombuffer(data, np.uint8)
    macs = plan.line_end == "\r"  # a CRLF is two line ends with an empty line between
    stops = np.flatnonzero((array == LF) | (array == CR) if macs else array == LF)
    begins = np.append(0, stops + 1)
    starts, ends, used = begins[:-1], stops, int(begins[-1])
    crs = int(np.count_nonzero(array[:used] == CR)) if b"\r" in data and not macs else 0
    for _ in range(CRS_MAX if crs else 0):
        before = (ends > starts) & (array[ends - 1] == CR)
        ends = ends - before
        crs -= int(np.count_nonzero(before))
        if not crs:
            break
    filled = starts < ends
    starts, ends = starts[filled], ends[filled]
    if crs:
        starts, ends = _parted_at_crs(data, starts, ends, plan)
    return starts, ends, used, not crs


def _parted_at_crs(data: bytes, starts: Offsets, ends: Offsets, plan: Plan) -> tuple[Offsets, Offsets]:
    """The lines, with those parted whose CRs can only be line ends: each piece has as many fields as the header."""
    array, delimiter = np.frombuffer(data, np.uint8), delimiter_of(plan)
    crs = np.flatnonzero(array == CR)
    doubtful = np.flatnonzero(np.searchsorted(crs, starts) < np.searchsorted(crs, ends))
    begins, stops = [], []
    for index in doubtful.tolist():
        begin, line = int(starts[index]), data[starts[index] : ends[index]]
        pieces = [piece for piece in line.split(b"\r") if piece]
        if b'"' not in line and all(piece.count(delimiter) == len(plan.header) - 1 for piece in pieces):
            bounds = np.cumsum([begin, *(len(piece) + 1 for piece in line.split(b"\r"))])
            filled = [(first, last - 1) for first, last in pairwise(bounds.tolist()) if first < last - 1]
            begins += [first for first, _ in filled]
            stops += [last for _, last in filled]
        else:
            begins.append(begin)
            stops.append(int(ends[index]))
    others = np.ones(len(starts), np.bool_)
    others[doubtful] = False
    starts = np.concatenate([starts[others], np.array(begins, np.int64)])
    order = np.argsort(starts, kind="stable")
    return starts[order], np.concatenate([ends[others], np.array(stops, np.int64)])[order]


def _blank(data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets) -> Flags:
    """Which Records are none: nothing but blanks, delimiters and end-of-file signs."""
    array = np.frombuffer(data, np.uint8)
    blanks = BLANKS + (delimiter + END_SIGNS).decode()
    edge = _among(blanks.encode())
    blank: Flags = edge[array[starts]] & edge[array[ends - 1]]
    for index in np.flatnonzero(blank).tolist():
        blank[index] = not data[starts[index] : ends[index]].decode("utf-8", "replace").strip(blanks)
    return blank


def _join_lines(
    data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quotes: Offsets, undecided: int
) -> tuple[Offsets, Offsets, Bytes]:
    """First line, last line and state of every Record; a Record that later bytes decide ends the list.

    Where a quote is not in its place, each line is looked at on its own.
    """
    counts = np.diff(np.searchsorted(quotes, ends), prepend=0)
    states = _states(data, delimiter, starts, ends, quotes, counts)
    lasts = _closed(data, delimiter, starts, ends, np.flatnonzero(counts), states, undecided)
    firsts = np.flatnonzero(lasts >= 0)
    return firsts, lasts[firsts], states[firsts]


def _join_regular(
    data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quotes: Offsets, undecided: int
) -> tuple[Offsets, Offsets, Bytes] | None:
    """The same where every quote stands beside a delimiter, a line end or another quote, as its turn demands.

    Then their parity tells whether a line ends inside a value. None if one does not, or a value is open for too long.
    """
    array = np.frombuffer(data, np.uint8)
    edge = _among(delimiter + b'\r\n"')
    if not (edge[array[np.maximum(quotes[::2] - 1, 0)]].all() and edge[array[quotes[1::2] + 1]].all()):
        return None
    lasts = np.flatnonzero(np.searchsorted(quotes, ends) % 2 == 0)
    firsts = np.append(0, lasts + 1)
    firsts, beyond = firsts[:-1], firsts[-1]
    short = (ends[lasts] - starts[firsts] <= QUOTED_BYTES_MAX) | (firsts == lasts)
    if short.all() and (beyond == len(starts) or starts[beyond] >= undecided):
        return firsts, lasts, np.zeros(len(firsts), np.uint8)
    return None


def _states(data: bytes, delimiter: bytes, starts: Offsets, ends: Offsets, quotes: Offsets, counts: Offsets) -> Bytes:
    """How every line ends when it begins outside of quotes."""
    array = np.frombuffer(data, np.uint8)
    line = np.repeat(np.arange(len(starts)), counts)
    turns = np.arange(len(quotes)) - (np.cumsum(counts) - counts)[line]
    closing = turns % 2 == 1
    at_edge = np.where(closing, quotes + 1 == ends[line], quotes == starts[line])
    neighbour = array[np.where(closing, quotes + 1, np.maximum(quotes - 1, 0))]
    placed = at_edge | _among(delimiter + b'"')[neighbour]
    opening = (quotes == starts[line]) | _among(delimiter + blanks(delimiter))[array[quotes - 1]]
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
    """The last line of the Record that each line begins; -1 for lines that begin none. States become final.

    `quoted`: the lines with quotes. No line is entered twice on the way to the close of several open ones: linear.
    """
    last = np.arange(len(starts))
    lines, begins, stops = quoted.tolist(), starts.tolist(), ends.tolist()
    at = free = 0  # all of `lines` between the open line and `at` leave the value open, or open another one
    closes = list[int]()  # those of them that close the Record if what they open is text

    @cache
    def entered(line: int, spanning: bool = True) -> Ending:
        return ending(data[begins[line] : stops[line]], delimiter, quoted=True, spanning=spanning)

    for line in np.flatnonzero((states == OPEN) | (states == PERHAPS)).tolist():
        if line < free:
            continue
        at = max(at, bisect_right(lines, line))
        limit = begins[line] + QUOTED_BYTES_MAX
        while at < len(lines) and stops[lines[at]] <= limit and entered(lines[at]) in ("open", "perhaps"):
            if entered(lines[at]) == "perhaps" and entered(lines[at], spanning=False) == "closed":
                closes.append(lines[at])
            at += 1
        if at == len(lines) and begins[line] >= undecided:
            last[line:] = -1
            break
        end = closes[-1] if closes and closes[-1] > line else 0
        if at < len(lines) and stops[lines[at]] <= limit and entered(lines[at]) == "closed":
            end = lines[at]
        if end:
            last[line], free, states[line] = end, end + 1, 0
            last[line + 1 : free] = -1
        elif states[line] == PERHAPS:
            states[line] = STATES[ending(data[begins[line] : stops[line]], delimiter, spanning=False)]
    return last


def _among(signs: bytes) -> Flags:
    """Which byte values are among the signs."""
    among = np.zeros(256, np.bool_)
    among[list(signs)] = True
    return among
