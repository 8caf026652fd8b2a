"""JSON objects, as `json` and `ndjson` both read them: the bytes of a Record → the fields of a contact.

Records that are written alike are read together, several times as fast (`alike`). Each of the others is judged on its
own; so could they all be, to the same end. Here orjson reads what it can hold, and the rest of what JSON allows (long
numbers, decimals that a double would change) is cut from the Record's own bytes, so that attributes are kept exactly as
they were written; what Postgres cannot hold is a RecordError. Nothing recurses, and of a key that stands twice the last
one wins.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from rollcall.records.formats.columns import attributes, join_values
from rollcall.records.formats.reader import Columns, Offsets, RecordError, Slice
from rollcall.records.formats.same_shape import KEYS_MAX, KeyColumns, MappingOf, Shape, read_by_shape
from rollcall.records.formats.spans import STRING, mask_escapes
from rollcall.records.mapping import by_record
from rollcall.records.plan import Plan
from rollcall.records.text import BLANKS

SAMPLED_RECORDS: Final = 1_000
VALUE_SHOWN: Final = 200

INTEGER_DIGITS_MAX, FRACTION_DIGITS_MAX = 131_072, 16_383
"""What Postgres' numeric can hold, and so its jsonb."""

ZEROS_MAX: Final = 1 << 20
"""So many zeros may stand behind the exponents of one Record: jsonb writes them all out when it is read."""

Fields = tuple[pa.StringArray, pa.StringArray, pa.StringArray]
"""Name, email, attributes: as in a Batch."""

_PLAIN = frozenset({str, int, bool, type(None)})
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


def parse(part: Slice, plan: Plan) -> Columns:
    """The fields of these Records. What is not JSON is the RecordError `invalid_json`; its value says why."""
    faults = dict(part.faults)
    indices, fields = [], []
    left = np.ones(len(part), np.bool_)
    mapping_of = by_record(plan)
    for rows, columns, shape in read_by_shape(part, mapping_of):
        left[rows] = False
        indices.append(rows)
        fields.append(_fields(columns, shape, len(rows)))
    if left.any() or not fields:
        indices.append(np.flatnonzero(left))
        fields.append(_one_by_one(part, indices[-1], mapping_of, faults))
    if len(fields) == 1:
        return Columns(*fields[0], faults)
    place = np.empty(len(part), np.int64)
    place[np.concatenate(indices)] = np.arange(len(part))
    name, email, others = (pa.concat_arrays(column).take(place) for column in zip(*fields, strict=True))
    return Columns(name, email, others, faults)


def _fields(columns: KeyColumns, shape: Shape, count: int) -> Fields:
    """The fields of Records that are alike."""
    mapping = shape.mapping
    names = [columns[key] for key in mapping.name if key in columns]
    missing = pa.nulls(count, pa.string())
    name = join_values(names) if len(names) > 1 else names[0] if names else missing
    others = {key: column for key, column in columns.items() if key not in {mapping.email, *mapping.name}}
    return name, columns.get(mapping.email, missing), attributes(others, count, written=shape.scalars)


def _one_by_one(part: Slice, rows: Offsets, mapping_of: MappingOf, faults: dict[int, RecordError]) -> Fields:
    """The fields of these Records, each judged on its own. Adds their RecordErrors."""
    names: list[str | None] = []
    emails: list[str | None] = []
    texts: list[str] = []
    for index, start, end in zip(rows.tolist(), part.starts[rows].tolist(), part.ends[rows].tolist(), strict=True):
        found = faults.get(index) or _contact(part.data[start:end], mapping_of)
        if isinstance(found, RecordError):
            faults[index], found = found, (None, None, "{}")
        names.append(found[0])
        emails.append(found[1])
        texts.append(found[2])
    return pa.array(names, pa.string()), pa.array(emails, pa.string()), pa.array(texts, pa.string())


def cells(raw: bytes, plan: Plan) -> list[str]:
    """The values of the plan's header: strings as they are, others as JSON, "" for what is missing or unreadable."""
    try:
        record, text, _ = _judge_numbers(raw)
    except orjson.JSONDecodeError:
        record = None
    if not isinstance(record, dict):
        return [""] * len(plan.header)
    _restore(record, text)
    values = (record.get(key) for key in plan.header)
    return [value if isinstance(value, str) else "" if value is None else _json(value) for value in values]


def sample_keys(slices: Iterable[Slice]) -> Iterator[bytes]:
    """The first 1,000 Records."""
    return islice((piece.raw(index) for piece in slices for index in range(len(piece))), SAMPLED_RECORDS)


def keys(raw: bytes) -> list[str]:
    """One Record's keys, but for those that Postgres cannot hold. Raises JSONDecodeError."""
    record, _, _ = _judge_numbers(raw)
    return [key for key in record if "\0" not in key] if isinstance(record, dict) else []


def check(text: bytes) -> None:
    """Raise JSONDecodeError unless this is JSON; whether it can be stored does not matter."""
    _judge_numbers(text)


def reason(error: orjson.JSONDecodeError) -> str:
    """What is wrong and where in the text, without the text."""
    return f"{error.msg} (character {error.pos + 1})"


def _contact(raw: bytes, mapping_of: MappingOf) -> tuple[Any, Any, str] | RecordError:
    """Name, email and attributes."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            record, _, code = _judge_numbers(raw)
        except orjson.JSONDecodeError as error:
            return RecordError("invalid_json", value=reason(error))
        if code:
            return RecordError(code)
    if type(record) is not dict:
        return RecordError("invalid_type", value=_shown(raw))
    if len(record) > KEYS_MAX:
        return RecordError("too_many_keys")
    plain = _PLAIN.issuperset(map(type, record.values()))
    if not plain:
        _restore(record, raw)

    mapping = mapping_of(record)
    email = record.get(mapping.email)
    if type(email) is not str:
        email = _text(record, "email", (mapping.email,))
    name = record.get(mapping.name[0])
    if type(name) is not str or len(mapping.name) > 1:
        name = _text(record, "name", mapping.name)
    if isinstance(email, RecordError):
        return email
    if isinstance(name, RecordError):
        return name

    rest = {}
    for key, value in record.items():
        if value is None or key == mapping.email or key in mapping.name:
            continue
        if type(value) is str:
            value = value.strip(BLANKS)
            if not value:
                continue
        rest[key] = value
    unstorable = None if plain and b"\\u0000" not in raw else _unstorable(rest)
    # As text: 25,000 of orjson's bytes objects take 100 MB, each is the beginning of a larger buffer.
    return unstorable or (name, email, orjson.dumps(rest).decode())


def _text(record: dict[str, Any], field: str, mapped: tuple[str, ...]) -> str | RecordError | None:
    """The text of one key, or those of several that hold one, trimmed and joined; None when there is none.

    Null is as good as missing.
    """
    texts = []
    for key in mapped:
        value = record.get(key)
        if isinstance(value, str):
            texts.append(value)
        elif value is not None:
            return RecordError("invalid_type", field, _json(value)[:VALUE_SHOWN])
    if len(texts) > 1:
        return " ".join(filter(None, (text.strip(BLANKS) for text in texts)))
    return texts[0] if texts else None


def _unstorable(rest: dict[str, Any]) -> RecordError | None:
    """The first attribute that jsonb refuses. Reads the JSON: a key or a nested value may be the cause."""
    for key, value in rest.items():
        if _holds_nul(orjson.dumps(key)):
            return RecordError("nul_character")
        text = orjson.dumps(value)
        if _holds_nul(text):
            return RecordError("nul_character", key[:VALUE_SHOWN], _shown(text))
        if isinstance(value, orjson.Fragment) and not _fits(text):
            return RecordError("number_out_of_range", key[:VALUE_SHOWN], _shown(text))
    return None if _fits(orjson.dumps(rest)) else RecordError("number_out_of_range")


def _holds_nul(text: bytes) -> bool:
    return rb"\u0000" in text and rb"\u0000" in mask_escapes(text)


def _fits(text: bytes) -> bool:
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


def _judge_numbers(raw: bytes) -> tuple[Any, bytes, str | None]:
    """What JSON says that orjson may not take; its text, with U+FFFD or `?` for what is no Unicode; that RecordError's
    code.

    Numbers may come as floats, for `_restore` to put right. Raises JSONDecodeError for what is not JSON.
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


def _restore(record: dict[str, Any], raw: bytes) -> None:
    """Put the text that stands in the Record for every number and nested value that orjson may have changed."""
    masked = mask_escapes(raw)
    at = 0
    while member := _MEMBER.match(masked, at):
        begin, at = member.span(2)
        if begin == at:
            at = _closing(masked, at)
        text = raw[begin:at]
        if not text.startswith(b'"') and type(record[key := orjson.loads(raw[slice(*member.span(1))])]) not in _PLAIN:
            record[key] = orjson.Fragment(text)


def _closing(masked: bytes, at: int) -> int:
    """Where the value ends whose bracket opens here."""
    depth = 0
    for mark in _BRACKET.finditer(masked, at):
        if mark.lastindex:
            depth += 1 if mark.lastindex == 1 else -1
            if not depth:
                return mark.end()
    raise AssertionError("the Record was judged to be JSON")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _shown(text: bytes) -> str:
    return text[: 4 * VALUE_SHOWN].decode(errors="ignore")[:VALUE_SHOWN]
