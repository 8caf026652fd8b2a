"""The grammar of one CSV record: where quoted values begin and end, and what its cells are.

A quote at the beginning of a value opens it (RFC 4180). One behind blanks does so too, but only if it is closed as it
should be; else it is text, as any quote inside an unquoted value is. Blanks around a quoted value do not belong to it.
`""` in a quoted value is one quote. Where backslashes escape quotes, `mask_escapes` comes first.

`csv` finds the same records in whole blocks at once; what it cannot decide that way, it asks here, line by line.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Final, Literal

from rollcall.records.formats.spans import mask_escapes

QUOTED_BYTES_MAX: Final = 4 << 20
"""Quoted line breaks carry a record no further than this; beyond it, the quote was never closed."""

Ending = Literal["closed", "open", "perhaps", "stray"]
"""How a physical line leaves its record: complete; inside a quoted value; inside one that is text unless a later line
closes it; with text behind a closing quote."""

_ESCAPED: Final = re.compile(rb'"(")|\\(["\\])')


def ending(line: bytes, delimiter: bytes, quoted: bool = False, spanning: bool = True) -> Ending:
    """How a physical line (without its line end) leaves its record.

    `quoted`: the line begins inside a quoted value. Without `spanning`, a quote behind blanks is text unless this very
    line closes it.
    """
    opening, blank = _patterns(delimiter)
    text = line if quoted else delimiter + line
    at, begin, certain = 0, 0, True
    while True:
        if not quoted:
            found = opening.search(text, at)
            if not found:
                return "closed"
            begin, certain = found.end(), not found[1]
        quoted = False
        end = _closing(text, begin)
        if end < 0 and certain:
            return "open"
        if end < 0 and spanning:
            return "perhaps"
        after = blank.match(text, end + 1).end() if end >= 0 else -1  # type: ignore[union-attr]
        if after == len(text):
            return "closed"
        if after >= 0 and text[after : after + 1] == delimiter:
            at = after
        elif certain:
            return "stray"
        else:
            at = begin


def split(record: bytes, delimiter: bytes, escapes: bool = False) -> list[bytes]:
    """The cells of one record, unquoted, not trimmed. A record with a broken quote is split at every delimiter.

    `escapes`: inside quotes, a backslash makes text of a quote or of a backslash.
    """
    if b'"' not in record:
        return record.split(delimiter)
    masked = mask_escapes(record) if escapes else record
    _, blank = _patterns(delimiter)
    cells, at = [], 0
    while True:
        begin = blank.match(masked, at).end()  # type: ignore[union-attr]
        end = _closing(masked, begin + 1) if masked.startswith(b'"', begin) else -1
        after = blank.match(masked, end + 1).end() if end >= 0 else -1  # type: ignore[union-attr]
        if after >= 0 and masked[after : after + 1] in (b"", delimiter):
            cells.append(_unquoted(record[begin + 1 : end], escapes))
        elif masked.startswith(b'"', at):
            return record.split(delimiter)
        else:
            after = masked.find(delimiter, at)
            after = len(record) if after < 0 else after
            cells.append(record[at:after])
        if after == len(record):
            return cells
        at = after + 1


def blanks(delimiter: bytes) -> bytes:
    """What may stand between a delimiter and a quote."""
    return b" \t".replace(delimiter, b"")


def _unquoted(value: bytes, escapes: bool) -> bytes:
    if escapes and b"\\" in value:
        return _ESCAPED.sub(lambda found: found[1] or found[2], value)
    return value.replace(b'""', b'"')


def _closing(text: bytes, at: int) -> int:
    """Where the quote is that closes the value which `at` lies in; -1 if it does not close."""
    while (at := text.find(b'"', at)) >= 0 and text.startswith(b'"', at + 1):
        at += 2
    return at


@cache
def _patterns(delimiter: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """A delimiter with a quote behind it, group 1 the blanks between; and blanks, none at all among them."""
    blank = blanks(delimiter)
    return re.compile(re.escape(delimiter) + rb"([" + blank + rb']*+)"'), re.compile(rb"[" + blank + rb"]*+")
