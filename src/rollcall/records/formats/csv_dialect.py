"""How a CSV file is written, by its first bytes: line ends, delimiter, quoting, and where its header stands.

Assumes decoded bytes, at most HEAD_BYTES of them. Looks at records as `csv_scan` finds them, so that the header and
the sample are what will be read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Final

from rollcall.errors import EmptyFile, HeaderTooLong, TooManyColumns, UnknownFormat, UnsupportedEncoding
from rollcall.records import reject_file
from rollcall.records.formats.csv_grammar import split
from rollcall.records.formats.csv_scan import find_records
from rollcall.records.formats.csv_values import unwrapped
from rollcall.records.plan import LineEnd, Mapping, Plan, Quoting
from rollcall.records.text import BLANKS, HEAD_BYTES, strip_bom

COLUMNS_MAX: Final = 10_000

DELIMITERS: Final = (b",", b";", b"\t", b"|")

_SNIFFED_BYTES: Final = 1 << 16
_SNIFFED_RECORDS: Final = 50
Fitness = tuple[int, float, int]

_SEP_LINE: Final = re.compile(rb'"?[ \t]*+sep[ \t]*+=([^\r\n]*+)(?:\r\n?|\n|\Z)', re.IGNORECASE)
_NO_DELIMITER: Final = re.compile(rb'[\w"\0\x80-\xff]')
_CONTACT_WORD: Final = re.compile(
    rb"name|e-?mail|phone|company|address|city|country|telefon|firma|nom\b|rollcall_", re.IGNORECASE
)


_ADDED: Final = frozenset(name.encode() for name in reject_file.ADDED)
_ADDED_BESIDE: Final = re.compile(
    rb'%b"?([^\w"\r\n\x80-\xff])"?%b' % (reject_file.RECORD.encode(), reject_file.CODE.encode())
)


@dataclass(frozen=True)
class Dialect:
    """`skip`: bytes between the BOM and the header. `header`: its cells, unquoted, trimmed, else as written."""

    delimiter: str
    skip: int
    header: list[str]
    quoting: Quoting = "doubled"
    line_end: LineEnd = "\n"


def csv_dialect(head: bytes, given: str | None = None) -> Dialect:
    """How the file that begins with `head` is written.

    The delimiter is what an Excel `sep=` line says, else what stands between the columns that a
    reject file adds, else what is `given`, else the one of `, ; tab |` that parts the
    header into most cells with contact words, then the one under which most lines have as many cells as the header; a
    file of one column has ",". Raises EmptyFile, HeaderTooLong, TooManyColumns, UnknownFormat, UnsupportedEncoding.
    """
    text = strip_bom(head)
    said, begin = _said_delimiter(text)
    skip = _after_blank_lines(text, begin)
    if len(head) >= HEAD_BYTES and not re.search(rb"[\r\n]", text[skip:]):
        raise HeaderTooLong("The first line of the file does not end within 1 MiB. Its first line must be the header.")
    if skip == len(text):
        raise EmptyFile("The file holds no header and no records.")
    text = text[skip:]
    delimiter = said or _of_reject_file(text) or (given.encode() if given else None)
    plan = Plan("csv", "none", (), Mapping("", ()), line_end=_line_end(text))
    plan = _best(text, plan, [delimiter] if delimiter else DELIMITERS)
    header = _header(text, plan)
    return Dialect(plan.delimiter or ",", skip, header, plan.quoting, plan.line_end)


def _of_reject_file(text: bytes) -> bytes | None:
    """The delimiter, if the header is that of a reject file whose added columns still stand together."""
    beside = _ADDED_BESIDE.search(text)
    if not beside:
        return None
    plan = Plan("csv", "none", (), Mapping("", ()), delimiter=beside[1].decode(), line_end=_line_end(text))
    raws = _sample(text, plan)
    return beside[1] if raws and not _ADDED.isdisjoint(split(raws[0][0], beside[1])) else None


def _said_delimiter(text: bytes) -> tuple[bytes | None, int]:
    """What a `sep=` line in the first place says, None if that is no delimiter; and where the next line begins."""
    line = _SEP_LINE.match(text)
    if not line:
        return None, 0
    said = line[1]
    if len(said) > 1:
        said = said.strip(b" ").replace(rb"\t", b"\t")
        said = said[:1] if not said[1:].strip(b'",;\t ') else b""
    return (None if not said or _NO_DELIMITER.match(said) else said), line.end()


def _after_blank_lines(text: bytes, start: int) -> int:
    """Where the first line begins that holds more than blanks and delimiters; the end of the text if none does."""
    decoded = text[start:].decode("utf-8", "replace")
    blanks = len(decoded) - len(decoded.lstrip(BLANKS + ",;|\0\x1a"))
    if blanks == len(decoded):
        return len(text)
    found = start + len(decoded[:blanks].encode())
    return max(start, text.rfind(b"\n", start, found) + 1, text.rfind(b"\r", start, found) + 1)


def _line_end(text: bytes) -> LineEnd:
    """CR only if the first line ends with one, outside of quotes: behind an even number of them."""
    quotes, first = 0, None
    for found in re.finditer(rb'"|\r\n?|\n', text):
        if found[0] == b'"':
            quotes += 1
            continue
        first = first or found[0]
        if quotes % 2 == 0:
            return "\r" if found[0] == b"\r" else "\n"
    return "\r" if first == b"\r" else "\n"


def _best(text: bytes, plan: Plan, delimiters: tuple[bytes, ...] | list[bytes]) -> Plan:
    """The plan with that delimiter and that quoting which fit best; the first of several."""
    sniffed = text[:_SNIFFED_BYTES]
    plans = [replace(plan, delimiter=delimiter.decode()) for delimiter in delimiters]
    fitness, best = _fittest(sniffed, plans)
    if b'\\"' in text:
        escaped = replace(best, quoting="backslash")
        if _faults(text, escaped) < _faults(text, best):
            return _fittest(sniffed, [replace(each, quoting="backslash") for each in plans])[1]
    if fitness[2] > 1:
        return best
    if text.startswith(b'"'):
        fitness, in_lines = _fittest(sniffed, [replace(each, quoting="line") for each in plans])
        if fitness[2] > 1:
            return in_lines
    if not all(_sample(sniffed, each)[0][1] for each in plans):
        raise UnknownFormat(
            "The header has a quote that is never closed, or text behind a closing quote. Correct the quotes in the "
            "first line, or leave them out."
        )
    return best


def _fittest(text: bytes, plans: list[Plan]) -> tuple[Fitness, Plan]:
    fitness = [_fitness(text, plan) for plan in plans]
    best = fitness.index(max(fitness))
    return fitness[best], plans[best]


def _sample(text: bytes, plan: Plan) -> list[tuple[bytes, bool]]:
    """The first records, and whether they are well-formed; of quoted lines what is in them."""
    starts, ends, states, *_ = find_records(text + b"\n", plan, final=True)
    found = zip(starts[:_SNIFFED_RECORDS].tolist(), ends.tolist(), states.tolist(), strict=False)
    raws = [(text[begin:end], state == 0) for begin, end, state in found]
    if plan.quoting == "line":
        raws = [(unwrapped(raw, (plan.delimiter or ",").encode()), good) for raw, good in raws]
    return raws


def _fitness(text: bytes, plan: Plan) -> Fitness:
    """How well the delimiter fits: cells with contact words (two at least), share of lines like the header, cells."""
    delimiter = (plan.delimiter or ",").encode()
    rows = [(split(raw, delimiter, plan.quoting == "backslash") if good else []) for raw, good in _sample(text, plan)]
    widths = [len(row) for row in rows]
    if not widths or widths[0] < 2:
        return 0, 0.0, widths[0] if widths else 0
    words = sum(bool(_CONTACT_WORD.search(cell)) for cell in rows[0])
    return words if words > 1 else 0, widths.count(widths[0]) / len(widths), widths[0]


def _faults(text: bytes, plan: Plan) -> int:
    """How many records have a broken quote; the last one may only be cut off."""
    _, _, states, *_ = find_records(text + b"\n", plan, final=True)
    return int((states[:-1] > 0).sum()) + int(len(text) < HEAD_BYTES and states[-1] > 0)


def _header(text: bytes, plan: Plan) -> list[str]:
    raw, _ = _sample(text, plan)[0]
    cells = split(raw, (plan.delimiter or ",").encode(), plan.quoting == "backslash")
    if len(cells) - len(_ADDED.intersection(cells)) > COLUMNS_MAX:
        raise TooManyColumns(f"The header has {len(cells)} columns; {COLUMNS_MAX} can be read.")
    try:
        header = [cell.decode().strip(BLANKS) for cell in cells]
    except UnicodeDecodeError as cause:
        raise UnsupportedEncoding('The header is not UTF-8. Save the file as "CSV UTF-8" and send it again.') from cause
    if any("\0" in cell for cell in header):
        raise UnsupportedEncoding('The header holds NUL characters. Save the file as "CSV UTF-8" and send it again.')
    return header
