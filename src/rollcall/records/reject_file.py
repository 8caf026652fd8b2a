"""The text of reject files: rejected Records that people correct, often in a spreadsheet, and send again.

Such a file has the columns of the original, and a few of Rollcall's own, by whose names it is recognised. Importing it
drops these columns, and removes from the other cells what was added to the values:

    guard   an apostrophe before what a spreadsheet would take for a formula, wherever a cell could begin
    mark    U+FFFD and what it stands for, where the Record has what cannot be imported: a byte that is no text (`�92`),
            a quote in the wrong place (`�"`), a value too many (`�,`), the end of what is kept (`�…`)

A Record that still has a mark is rejected again. A U+FFFD that the original contains is written twice. Pure functions
of text, for all formats.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

RECORD: Final = "rollcall_record"
CODE: Final = "rollcall_code"
MESSAGE: Final = "rollcall_message"
MORE: Final = "rollcall_more"
"""In a CSV file made from JSON: the members that have no column of their own, as one JSON object."""
RAW: Final = "rollcall_raw"
"""In NDJSON: the text of a Record that is no object, or cannot be shown as one."""

ADDED: Final = (RECORD, CODE, MESSAGE)
NAMES: Final = frozenset({*ADDED, MORE, RAW})
"""Reserved: under these names no column and no key is ever an attribute."""

MARK: Final = "\ufffd"
CUT: Final = f"{MARK}…"
UNREAD: Final = f"{MARK}:"
"""Before the text of a Record that is no JSON object."""

TYPED: Final = "json:"
"""Before a value that is JSON but no text, in a CSV file made from JSON."""

_SEPARATORS: Final = r",;\t|:^~!#&"
"""What people's spreadsheets may take for the separator, whatever the file's own is."""

_FORMULA: Final = r"""'*+[ "\u00a0\u200b\ufeff]*+[=+\-@＝＋－＠]"""
_SWALLOWED: Final = r"'*+[\t\r\n\0]"
_UNGUARDED = re.compile(rf"\A(?={_SWALLOWED})|(\A|[{_SEPARATORS}\r\n])(?={_FORMULA})")
_GUARDED = re.compile(rf"\A'(?={_SWALLOWED})|(\A|[{_SEPARATORS}\r\n])'(?={_FORMULA})")
"""OWASP, "CSV Injection", and the full-width signs. Apostrophes before a formula count as part of it: so of those that
stand there the first one is always the guard."""

_BYTE = re.compile("[\udc80-\udcff]")
_MARKS = re.compile(f"{MARK}++")
_CODES: Final = {'"': "stray_quote", "…": "record_too_long", "u": "lone_surrogate", ":": "invalid_json"}


def is_reject_file(header: Iterable[str]) -> bool:
    """Whether a file with these columns came from here."""
    return not NAMES.isdisjoint(header)


def guarded(text: str) -> str:
    """The text as no spreadsheet takes any part of it for a formula; `unguarded` gives it back."""
    return _UNGUARDED.sub(r"\1'", text)


def unguarded(text: str) -> str:
    """The text without its guards; one without guards is not changed."""
    return _GUARDED.sub(r"\1", text)


def marked(raw: bytes, *, again: bool = False) -> str:
    """Bytes as text, with a mark for what is no text. `again`: they come from a reject file and have their marks."""
    text = raw.decode("utf-8", "surrogateescape")
    if not again:
        text = text.replace(MARK, MARK * 2)
    return _BYTE.sub(lambda byte: f"{MARK}{ord(byte[0]) - 0xDC00:02x}", text.replace("\0", f"{MARK}00"))


def mark_in(text: str) -> str | None:
    """The code of a Reject for the first mark in the text; None when there is none."""
    for run in _MARKS.finditer(text):
        if len(run[0]) % 2:
            return _code(text[run.end() : run.end() + 2])
    return None


def unmarked(text: str) -> str:
    """A text in which there is no mark, as it stood in the file."""
    return text.replace(MARK * 2, MARK)


def _code(after: str) -> str:
    if after == "00":
        return "nul_character"
    if not after or after[0] in "0123456789abcdef":
        return "invalid_utf8"
    return _CODES.get(after[0], "too_many_fields")
