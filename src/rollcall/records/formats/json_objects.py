"""JSON objects, as `json` and `ndjson` both read them: the bytes of a Record → the fields of a contact.

Records that are written alike are read together, several times as fast (`alike`). Each of the others is judged on its
own; so could they all be, to the same end. Here orjson reads what it can hold, and the rest of what JSON allows (long
numbers, decimals that a double would change) is cut from the Record's own bytes, so that attributes are kept exactly as
they were written; what Postgres cannot hold is a RecordError. Nothing recurses, and of a key that stands twice the last
one wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any, Final

import numpy as np
import orjson
import pyarrow as pa

from rollcall.records import reject_file
from rollcall.records.formats.columns import attributes, join_values
from rollcall.records.formats.json_text import PLAIN, fits, holds_nul, is_nested_too_deep, judge_numbers, restore
from rollcall.records.formats.reader import Columns, Offsets, RecordError, Slice
from rollcall.records.formats.same_shape import KEYS_MAX, KeyColumns, MappingOf, Shape, read_by_shape
from rollcall.records.mapping import by_record
from rollcall.records.plan import Plan
from rollcall.records.text import BLANKS

SAMPLED_RECORDS: Final = 1_000
VALUE_SHOWN: Final = 200

NESTING_MAX: Final = 100
"""Brackets inside brackets in one Record, its own among them.

What is deeper cannot be shown again by the readers that people have: many end at 100 (Ruby), 128 (serde) or 255.
"""

SHORT_BYTES, SHORT_KEPT = 32, 256
"""A Record as short as that is judged once, wherever it stands again: 16 MiB hold millions of `{}`."""

Fields = tuple[pa.StringArray, pa.StringArray, pa.StringArray]
"""Name, email, attributes: as in a Batch."""

Found = tuple[Any, Any, str] | RecordError
"""The same of one Record, or why it is rejected."""


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
    taken = {mapping.email, *mapping.name, *reject_file.NAMES}
    others = {key: column for key, column in columns.items() if key not in taken}
    return name, columns.get(mapping.email, missing), attributes(others, count, written=shape.scalars)


def _one_by_one(part: Slice, rows: Offsets, mapping_of: MappingOf, faults: dict[int, RecordError]) -> Fields:
    """The fields of these Records, each judged on its own. Adds their RecordErrors."""
    names: list[str | None] = []
    emails: list[str | None] = []
    texts: list[str] = []
    short: dict[bytes, Found] = {}
    for index, start, end in zip(rows.tolist(), part.starts[rows].tolist(), part.ends[rows].tolist(), strict=True):
        found: Found | None = faults.get(index)
        if found is None and end - start > SHORT_BYTES:
            found = _contact(part.data[start:end], mapping_of)
        elif found is None and (found := short.get(raw := part.data[start:end])) is None:
            found = _contact(raw, mapping_of)
            if len(short) < SHORT_KEPT:
                short[raw] = found
        if isinstance(found, RecordError):
            faults[index], found = found, (None, None, "{}")
        names.append(found[0])
        emails.append(found[1])
        texts.append(found[2])
    return pa.array(names, pa.string()), pa.array(emails, pa.string()), pa.array(texts, pa.string())


def members(raw: bytes) -> dict[str, Any] | None:
    """One Record's values, for orjson to write as they stand in it; None when it is no object."""
    try:
        record, text, _ = judge_numbers(raw)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict):
        return None
    restore(record, text)
    return record


def sample_keys(slices: Iterable[Slice]) -> Iterator[bytes]:
    """The first 1,000 Records."""
    return islice((piece.raw(index) for piece in slices for index in range(len(piece))), SAMPLED_RECORDS)


def keys(raw: bytes) -> list[str]:
    """One Record's keys, but for those that Postgres cannot hold or Rollcall adds. Raises JSONDecodeError."""
    record, _, _ = judge_numbers(raw)
    found = record if isinstance(record, dict) else ()
    return [key for key in found if "\0" not in key and key not in reject_file.NAMES]


def check(text: bytes) -> None:
    """Raise JSONDecodeError unless this is JSON; whether it can be stored does not matter."""
    judge_numbers(text)


def reason(error: orjson.JSONDecodeError) -> str:
    """What is wrong and where in the text, without the text."""
    return f"{error.msg} (character {error.pos + 1})"


def _contact(raw: bytes, mapping_of: MappingOf) -> Found:
    """Name, email and attributes."""
    try:
        record = orjson.loads(raw)
    except orjson.JSONDecodeError:
        try:
            record, _, code = judge_numbers(raw)
        except orjson.JSONDecodeError as error:
            if is_nested_too_deep(raw):
                return RecordError("nested_too_deep")
            return RecordError("invalid_json", value=reason(error))
        if code:
            return RecordError(code)
    if type(record) is not dict:
        return RecordError("invalid_type", value=_shown(raw))
    if len(record) > KEYS_MAX:
        return RecordError("too_many_keys")
    plain = PLAIN.issuperset(map(type, record.values()))
    if not plain and restore(record, raw) > NESTING_MAX:
        return RecordError("nested_too_deep")

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
        if value is None or key == mapping.email or key in mapping.name or key in reject_file.NAMES:
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
        if holds_nul(orjson.dumps(key)):
            return RecordError("nul_character")
        text = orjson.dumps(value)
        if holds_nul(text):
            return RecordError("nul_character", key[:VALUE_SHOWN], _shown(text))
        if isinstance(value, orjson.Fragment) and not fits(text):
            return RecordError("number_out_of_range", key[:VALUE_SHOWN], _shown(text))
    return None if fits(orjson.dumps(rest)) else RecordError("number_out_of_range")


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def _shown(text: bytes) -> str:
    return text[: 4 * VALUE_SHOWN].decode(errors="ignore")[:VALUE_SHOWN]
