"""JSON Records as rows of a CSV reject file: types and members survive, whatever their number.

The keys of the Plan's header, the first ones, have columns of their own; what else there is stands as one JSON object
in the last column. Text is written as it is; any other value as JSON behind `json:`, and so is text that begins like
that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import orjson

from rollcall.records import fields, reject_file
from rollcall.records.formats import json_objects
from rollcall.records.plan import Plan
from rollcall.records.reject_file import MARK
from rollcall.records.text import BLANKS

COLUMNS_MAX: Final = 200
HEADING_LENGTH_MAX: Final = 200
"""At most so many columns, of keys no longer than this: a row must not be much longer than its Record."""

_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|u([dD][89a-fA-F][\da-fA-F]{2}|0000|[fF]{3}[dD])|.)",
    re.DOTALL,
)
"""Any escape; group 1 is half of a surrogate pair without the other half, NUL, or U+FFFD."""


def columns(plan: Plan) -> tuple[str, ...]:
    """The headings of a reject file."""
    return _columns(plan.header[: 2 * COLUMNS_MAX], (plan.mapping.email, *plan.mapping.name))


@lru_cache(maxsize=8)
def _columns(header: tuple[str, ...], mapped: tuple[str, ...]) -> tuple[str, ...]:
    headings = list(filter(_is_heading, header))[:COLUMNS_MAX]
    return (*headings, *(key for key in mapped if key not in headings and _is_heading(key)), reject_file.MORE)


def cells(raw: bytes, plan: Plan) -> list[str]:
    """One Record as the values of these columns, with marks. Never raises."""
    named = columns(plan)[:-1]
    record = json_objects.members(_marked(raw))
    if record is None:
        return [*("" for _ in named), reject_file.UNREAD + reject_file.marked(raw)]
    row = [_cell(record.pop(key), key) if key in record else "" for key in named]
    return [*row, orjson.dumps(record).decode() if record else ""]


def _is_heading(key: str) -> bool:
    """Whether a CSV header gives it back as it is."""
    return (
        0 < len(key) <= HEADING_LENGTH_MAX
        and key == key.strip(BLANKS)
        and key.isprintable()
        and key not in reject_file.NAMES
    )


def _cell(value: Any, key: str) -> str:
    if isinstance(value, str) and value and not value.startswith(reject_file.TYPED):
        return value
    if value in ("", None) and not fields.is_alias(key):
        return ""  # as good as missing
    return f"{reject_file.TYPED}{orjson.dumps(value).decode()}"


def _marked(raw: bytes) -> bytes:
    """The Record's text with a mark for each character that cannot be imported, however it is written."""
    return _ESCAPE.sub(_unescaped, reject_file.marked(raw)).encode()


def _unescaped(escape: re.Match[str]) -> str:
    code = (escape[1] or "").lower()
    if code == "fffd":
        return MARK * 2
    return f"{MARK}00" if code == "0000" else f"{MARK}u{code}" if code else escape[0]
