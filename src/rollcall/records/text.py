"""What the first bytes of a text file tell: encoding, delimiter, header; and the grammar of one CSV record.

Assumes decoded (unpacked) bytes, at most HEAD_BYTES of them. Pure functions; nothing here reads on, and nothing is
repaired or read again in another encoding: what is not UTF-8 is refused by name. Which column is what, `mapping` says.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import Final, Literal

from rollcall.errors import EmptyFile, HeaderTooLong, TooManyColumns, UnknownFormat, UnsupportedEncoding
from rollcall.records import reject_file

HEAD_BYTES: Final = 1 << 20
"""So many first bytes are looked at; a line that does not end in them is no header."""

COLUMNS_MAX: Final = 10_000
"""Without those that a reject file adds."""

QUOTED_BYTES_MAX: Final = 1 << 20
"""Quoted line breaks carry a record no further than this; beyond it, the quote was never closed."""

BLANKS: Final = " \t\r\n\u00a0\u200b\ufeff"
"""What is trimmed from both ends of a value: the blanks nobody sees, with NBSP, zero-width space and BOM."""

Ending = Literal["closed", "open", "stray"]
"""How a physical line leaves its record: complete, in the middle of a quoted value, or with text after a quoted one."""

_BOM: Final = b"\xef\xbb\xbf"
_SNIFFED_BYTES: Final = 1 << 16
_CONTROLS: Final = bytes(set(range(32)) - set(b"\t\n\v\f\r\x1b"))
_LINE = re.compile(rb"([^\r\n]*+)(?:\r\n?|\n|\Z)")
_SEP_LINE = re.compile(rb'"?sep=([^\w"\r\n\x80-\xff])"?[,;\t ]*+(?:\r\n?|\n|\Z)', re.IGNORECASE)
_CONTACT_WORD = re.compile(
    rb"name|e-?mail|phone|company|address|city|country|telefon|firma|nom\b|rollcall_", re.IGNORECASE
)
_ADDED: Final = frozenset(name.encode() for name in reject_file.ADDED)
_ADDED_BESIDE = re.compile(rb'%b"?([^\w"\r\n\x80-\xff])"?%b' % (reject_file.RECORD.encode(), reject_file.CODE.encode()))
_MARKUP = re.compile(rb"\s*+<(?:\?xml|!doctype|html|head|body|table|svg|script|!--)", re.IGNORECASE)
_MAGIC: Final = (
    (b"\xd0\xcf\x11\xe0", "an old or a protected Excel workbook: save it as CSV UTF-8"),
    (b"PK\x03\x04", "a ZIP archive: unpack it and send what is in it"),
    (b"%PDF-", "a PDF: export the contacts as CSV UTF-8"),
    (b"PAR1", "a Parquet file: export the contacts as CSV UTF-8"),
    (b"SQLite format 3\0", "an SQLite database: export the contacts as CSV UTF-8"),
    (b"\x89PNG", "a picture"),
    (b"\xc2\x89PNG", "a picture"),  # sent as text, by a client that took it for one
    (b"GIF8", "a picture"),
    (b"\xff\xd8\xff", "a picture"),
    (b"\x7fELF", "a program"),
    (b"BZh", "a bzip2 archive: unpack it and send what is in it"),
    (b"\xfd7zXZ", "an xz archive: unpack it and send what is in it"),
    (b"7z\xbc\xaf", "a 7-Zip archive: unpack it and send what is in it"),
    (b"Rar!\x1a", "a RAR archive: unpack it and send what is in it"),
)


def strip_bom(head: bytes) -> bytes:
    """`head` without its UTF-8 byte order mark."""
    return head.removeprefix(_BOM)


def refuse_binary(head: bytes) -> None:
    """Raise UnknownFormat or UnsupportedEncoding, saying what it looks like, for what is not text in one-byte units.

    A NUL here and there makes no binary file: that record is rejected, the file is not. An 8-bit code page is not told
    from UTF-8 here: its records are rejected one by one (`invalid_utf8`).
    """
    if head.startswith((b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")) or _interleaved(head[:_SNIFFED_BYTES]):
        raise UnsupportedEncoding('The file is written in UTF-16 or UTF-32. Save it as "CSV UTF-8" and send it again.')
    for magic, what in _MAGIC:
        if head.startswith(magic):
            if what.startswith("a ZIP") and (b"xl/" in head or b"[Content_Types].xml" in head):
                what = "an Excel workbook: save it as CSV UTF-8"
            raise UnknownFormat(f"The file looks like {what}.")
    if _MARKUP.match(strip_bom(head)):
        raise UnknownFormat("The file looks like a web page or XML: export the contacts as CSV UTF-8.")
    sample = head[:_SNIFFED_BYTES]
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    if controls > 8 and controls * 25 > len(sample) and "\ufffd" in sample[:-4].decode("utf-8", "replace"):
        raise UnknownFormat("The file looks like a binary file: export the contacts as CSV UTF-8.")


def _interleaved(sample: bytes) -> bool:
    """Whether NULs stand at every second place, as in UTF-16 without a BOM."""
    even, odd = sample[::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    return half > 1 and max(even, odd) > half * 0.4 and min(even, odd) < half * 0.05


def csv_dialect(head: bytes, given: str | None = None) -> tuple[str, int, list[str]]:
    """Delimiter, bytes between the BOM and the header, and the header's cells (unquoted, trimmed, else as written).

    The delimiter is what an Excel `sep=` line says, else what stands between the columns that a reject file adds, else
    what is `given`, else the one of `, ; tab |` that parts the
    header into most cells with contact words, then the one under which most lines have as many cells as the header; a
    file of one column has ",". Raises EmptyFile, HeaderTooLong, TooManyColumns, UnsupportedEncoding.
    """
    text = strip_bom(head)
    said = _SEP_LINE.match(text)
    skip = _after_blank_lines(text, said.end() if said else 0)
    if len(head) >= HEAD_BYTES and not re.search(rb"[\r\n]", text[skip:]):
        raise HeaderTooLong("The first line of the file does not end within 1 MiB. Its first line must be the header.")
    if skip == len(text):
        raise EmptyFile("The file holds no header and no records.")
    if said:
        delimiter = said[1]
    elif added := _of_reject_file(text, skip):
        delimiter = added
    elif given:
        delimiter = given.encode()
    else:
        delimiter = max((b",", b";", b"\t", b"|"), key=lambda each: _fitness(text, skip, each))
    cells = split(next(_records(text, skip, delimiter)), delimiter)
    if len(cells) - len(_ADDED.intersection(cells)) > COLUMNS_MAX:
        raise TooManyColumns(f"The header has {len(cells)} columns; {COLUMNS_MAX} can be read.")
    try:
        header = [cell.decode().strip(BLANKS) for cell in cells]
    except UnicodeDecodeError as cause:
        raise UnsupportedEncoding('The header is not UTF-8. Save the file as "CSV UTF-8" and send it again.') from cause
    if any("\0" in cell for cell in header):
        raise UnsupportedEncoding('The header holds NUL characters. Save the file as "CSV UTF-8" and send it again.')
    return delimiter.decode(), skip, header


def _after_blank_lines(text: bytes, start: int) -> int:
    """Where the first line begins that holds more than blanks and delimiters; the end of the text if none does."""
    decoded = text[start:].decode("utf-8", "replace")
    blanks = len(decoded) - len(decoded.lstrip(BLANKS + ",;|"))
    if blanks == len(decoded):
        return len(text)
    found = start + len(decoded[:blanks].encode())
    return max(start, text.rfind(b"\n", start, found) + 1, text.rfind(b"\r", start, found) + 1)


def _of_reject_file(text: bytes, skip: int) -> bytes | None:
    """The delimiter, if the header is that of a reject file whose added columns still stand together."""
    beside = _ADDED_BESIDE.search(text, skip)
    header = split(next(_records(text, skip, beside[1])), beside[1]) if beside else ()
    return beside[1] if beside and not _ADDED.isdisjoint(header) else None


def _fitness(text: bytes, skip: int, delimiter: bytes) -> tuple[int, float, int]:
    """How well the delimiter fits: cells with contact words (two at least), share of lines like the header, cells."""
    rows = list(islice(_records(text[: skip + _SNIFFED_BYTES], skip, delimiter), 50))
    widths = [len(split(row, delimiter)) if ending(row, delimiter) == "closed" else 0 for row in rows]
    if widths[0] < 2:
        return 0, 0.0, widths[0]
    words = sum(bool(_CONTACT_WORD.search(cell)) for cell in split(rows[0], delimiter))
    return words if words > 1 else 0, widths.count(widths[0]) / len(widths), widths[0]


def _records(text: bytes, start: int, delimiter: bytes) -> Iterator[bytes]:
    """The records of `text`, good or broken, line by line: small and slow; `formats.csv` finds the same ones fast."""
    lines = [found.span(1) for found in _LINE.finditer(text, start)]
    at = 0
    while at < len(lines):
        begin, end = lines[at]
        last = at
        if ending(text[begin:end], delimiter) == "open":
            for later in range(at + 1, len(lines)):
                left = ending(text[slice(*lines[later])], delimiter, quoted=True)
                if left != "open" or lines[later][1] - begin > QUOTED_BYTES_MAX:
                    last = later if left == "closed" and lines[later][1] - begin <= QUOTED_BYTES_MAX else at
                    break
        yield text[begin : lines[last][1]]
        at = last + 1


def ending(line: bytes, delimiter: bytes, quoted: bool = False) -> Ending:
    """How a physical line (without its line end) leaves its record; `quoted`: it begins inside a quoted value.

    A quote opens a value only as its first byte; anywhere else in an unquoted value it is text. `""` inside a quoted
    value is one quote.
    """
    at = 0
    if not quoted:
        if not line.startswith(b'"'):
            at = line.find(delimiter + b'"') + 1
            if not at:
                return "closed"
        at += 1
    while True:
        at = _closing(line, at) + 1
        if not at:
            return "open"
        if at == len(line):
            return "closed"
        if line[at : at + 1] != delimiter:
            return "stray"
        at = line.find(delimiter + b'"', at) + 2
        if at == 1:
            return "closed"


def split(record: bytes, delimiter: bytes) -> list[bytes]:
    """The cells of one record, unquoted, not trimmed. A record with a broken quote is split at every delimiter."""
    if b'"' not in record or ending(record, delimiter) != "closed":
        return record.split(delimiter)
    cells = []
    at = 0
    while True:
        if record.startswith(b'"', at):
            end = _closing(record, at + 1)
            cells.append(record[at + 1 : end].replace(b'""', b'"'))
            end += 1
        else:
            end = record.find(delimiter, at)
            end = len(record) if end < 0 else end
            cells.append(record[at:end])
        if end == len(record):
            return cells
        at = end + 1


def _closing(text: bytes, at: int) -> int:
    """Where the quote is that closes the value which `at` lies in; -1 if it does not close."""
    while (at := text.find(b'"', at)) >= 0 and text.startswith(b'"', at + 1):
        at += 2
    return at
