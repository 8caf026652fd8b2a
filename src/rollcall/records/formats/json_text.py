"""What JSON allows and orjson does not keep: every number to the digit, values nested in others, broken characters.

Works on one text in JSON, of at most 4 MiB, and in time proportional to it. Nothing recurses. Knows no contact.
"""

from __future__ import annotations

import re
from typing import Any, Final

import orjson

from rollcall.records.formats.spans import STRING, mask_escapes

INTEGER_DIGITS_MAX, FRACTION_DIGITS_MAX = 131_072, 16_383
"""What Postgres' numeric can hold, and so its jsonb."""

ZEROS_MAX: Final = 1 << 20
"""So many zeros may stand behind the exponents of one Record: jsonb writes them all out when it is read."""

ORJSON_DEPTH_MAX: Final = 1_024

PLAIN = frozenset({str, int, bool, type(None)})
"""Types that leave orjson as they came; a float may not (1.00 → 1.0, thirty digits → 1e+30)."""

_TOKEN = re.compile(STRING + rb'?|[^\s"{}\[\]:,]++')
"""A string (if it is not closed, to the end: no text is read twice) or a bare word. Escapes are masked, as below."""

_MEMBER = re.compile(rb"[{,\s]*+(" + STRING + rb")\s*+:\s*+(" + STRING + rb'|[^\s"{}\[\],]*+)')
"""Key and value of a valid object; of a value in brackets, nothing."""

_BRACKET = re.compile(STRING + rb"|([{\[])|([}\]])")
_NUMBER = re.compile(rb"-?(0|[1-9]\d*+)(?:\.(\d++))?(?:[eE]([+-]?\d++))?")
_LONG_EXPONENT = re.compile(rb"[eE][+-]?\d{4}")
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}|(u[dD][89a-fA-F][\da-fA-F]{2})|.)", re.DOTALL
)
"""Any escape; group 1 is half of a surrogate pair without the other half."""


def holds_nul(text: bytes) -> bool:
    return rb"\u0000" in text and rb"\u0000" in mask_escapes(text)


def fits(text: bytes) -> bool:
    """Whether Postgres can hold, and write out, every number of this JSON."""
    if len(text) < FRACTION_DIGITS_MAX - 999 and not _LONG_EXPONENT.search(text):
        return True
    zeros = 0
    for number in filter(None, map(_NUMBER.fullmatch, _TOKEN.findall(mask_escapes(text)))):
        integer, fraction, exponent = number.groups(b"")
        if len(exponent) > 7:
            return False
        shift = int(exponent or 0)
        zeros += abs(shift)
        if len(integer) + shift > INTEGER_DIGITS_MAX or len(fraction) - shift > FRACTION_DIGITS_MAX:
            return False
    return zeros <= ZEROS_MAX


def judge_numbers(raw: bytes) -> tuple[Any, bytes, str | None]:
    """What JSON says that orjson may not take; its text, with U+FFFD or `?` for what is no Unicode; that RecordError's
    code.

    Numbers may come as floats, for `restore` to put right. Raises JSONDecodeError for what is not JSON.
    """
    text, code = raw, None
    try:
        raw.decode()
    except UnicodeDecodeError:
        text, code = raw.decode(errors="replace").encode(), "invalid_utf8"
    whole = _ESCAPE.sub(lambda escape: rb"\u003f" if escape[1] else escape[0], text)
    if whole != text:
        text, code = whole, code or "lone_surrogate"
    return orjson.loads(_with_small_floats(text)), text, code


def _with_small_floats(text: bytes) -> bytes:
    """Numbers become floats that orjson can hold, as long as they were: errors keep their place."""
    changed = bytearray(text)
    for token in _TOKEN.finditer(mask_escapes(text)):
        word = token[0]
        if len(word) > 2 and _NUMBER.fullmatch(word):
            changed[slice(*token.span())] = b"0.".ljust(len(word), b"0")
    return bytes(changed)


def restore(record: dict[str, Any], raw: bytes) -> int:
    """Put the text that stands in the Record for every number and nested value that orjson may have changed.

    Returns how deep it is nested, its own bracket among them.
    """
    masked = mask_escapes(raw)
    at, depth = 0, 1
    while member := _MEMBER.match(masked, at):
        begin, at = member.span(2)
        if begin == at:
            at, inner = _closing(masked, at)
            depth = max(depth, 1 + inner)
        text = raw[begin:at]
        if not text.startswith(b'"') and type(record[key := orjson.loads(raw[slice(*member.span(1))])]) not in PLAIN:
            record[key] = orjson.Fragment(text)
    return depth


def is_nested_too_deep(text: bytes) -> bool:
    """Whether what orjson refused may be JSON that is nested deeper than it goes."""
    try:
        _, depth = _closing(mask_escapes(text), 0)
    except AssertionError:
        return False
    return depth > ORJSON_DEPTH_MAX


def _closing(masked: bytes, at: int) -> tuple[int, int]:
    """Where the value ends whose bracket opens here, and how deep it is nested."""
    depth = deepest = 0
    for mark in _BRACKET.finditer(masked, at):
        if mark.lastindex:
            depth += 1 if mark.lastindex == 1 else -1
            deepest = max(deepest, depth)
            if not depth:
                return mark.end(), deepest
    raise AssertionError("the Record was judged to be JSON")
