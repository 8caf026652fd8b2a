"""What makes a Record a Contact: the rules for name and address, over whole columns at once.

Values are trimmed, and the address is lowered; nothing else is repaired. A Record that breaks a rule is a Reject: a row
of a table, never an exception. Of several problems the first counts: what the reader found, then the address, then the
name. Messages are made from code and field where they are shown (`message`), not a million times.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from rollcall.records.fields import EMAIL_LENGTH_MAX, NAME_LENGTH_MAX
from rollcall.records.formats.columns import value_bytes
from rollcall.records.formats.reader import Columns, Offsets, RecordError
from rollcall.records.text import BLANKS

VALUE_LENGTH_MAX = 200
"""Characters of a bad value that are kept to show it; the whole stands in the Record's own bytes."""

EMAIL_PATTERN = (
    r"\A(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}\z"
)
"""The brief's pattern, its look-aheads written out because RE2 has none: no dot comes first and none after another."""

CONTROL_PATTERN = r"[\x00-\x08\x0e-\x1f\x7f]"  # a tab or a line break in a cell is a blank, and people type them

INVISIBLE_PATTERN = "[{}]".format(
    "".join(
        (
            r"\p{Cc}\p{Cf}\p{Zl}\p{Zp}",
            r"\x{a0}\x{1680}\x{2000}-\x{200a}\x{202f}\x{205f}\x{3000}",
            r"\x{34f}\x{115f}\x{1160}\x{2800}\x{3164}\x{fe00}-\x{fe0f}\x{ffa0}",
        )
    )
)
"""Signs that nobody sees: controls, formats (joiners, marks of direction, soft hyphens), blanks but the usual one."""

EMAIL_REASONS = {
    "email_several": r"@.*[\s,;/|&].*@|@.*[,;/|]\s*\z|\A[,;/|].*@",
    "email_mailto": r"(?i)\Amailto:",
    "email_with_name": r"<[^<>]*@[^<>]*>",
    "email_invisible_character": INVISIBLE_PATTERN,
    "email_not_ascii": r"[^\x00-\x7f]",
}
"""Why an address is not valid, if that can be told; the first that matches (a dot matches a line break, too)."""

CODES = {
    "required": "The {field} is missing. Every record needs a name and an email.",
    "email_empty": "The email is empty. Fill it in.",
    "email_too_long": f"The email is longer than {EMAIL_LENGTH_MAX} characters. Correct it.",
    "email_invalid": "The email is not a valid address such as ann@example.com. Correct it.",
    "email_several": "The email holds more than one address, or a separator behind it. Keep one address.",
    "email_mailto": "The email begins with mailto:. Remove that.",
    "email_with_name": "The email has a name or angle brackets around the address. Keep the address only.",
    "email_invisible_character": "The email contains an invisible character{sign}. Remove it, or type the email again.",
    "email_not_ascii": "The email contains characters that are not ASCII, such as é or a full-width @. Correct it, or "
    "write the part after the @ as xn--….",
    "name_empty": "The name is empty. Fill it in.",
    "name_too_long": f"The name is longer than {NAME_LENGTH_MAX} characters. Shorten it.",
    "control_character": "The {field} contains a control character, such as NUL or escape. Remove it.",
    "invalid_type": "The {field} has the wrong type. A name and an email are text, a record is a JSON object.",
    "invalid_utf8": "The {field} is not valid UTF-8. Save the file as UTF-8 and send it again.",
    "lone_surrogate": "The {field} contains half of a character (a lone surrogate). Remove it.",
    "nul_character": "The {field} contains a NUL character, which cannot be stored. Remove it.",
    "number_out_of_range": "The {field} contains a number that cannot be stored. Write it as text.",
    "stray_quote": "The {field} has text after its closing quote. Double the quotes inside a quoted value.",
    "unclosed_quote": "The {field} begins with a quote that is never closed. Close it, or remove it.",
    "too_many_fields": "The {field} has more values than the header. Quote values that contain a separator.",
    "nested_too_deep": "The {field} is nested more than 100 levels deep. Flatten it, or send it as text.",
    "too_many_keys": "The {field} has more than 10,000 keys. Send fewer.",
    "record_too_long": "The {field} is too long to be read. Shorten it.",
    "invalid_json": "The {field} is not valid JSON. Correct it.",
}
"""Every code of a Reject, and what it says: what is wrong and what to do."""

_STRING: pa.DataType = pa.string()
REJECTS = pa.schema([("record", pa.int64()), ("field", _STRING), ("code", _STRING), ("value", _STRING)])

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Flags = npt.NDArray[np.bool_]
Problem = tuple[str, str, Column, Flags]
"""Field, code, the field's values as they were read, and which Records have the problem."""


def message(code: str, field: str | None, value: str | None = None) -> str:
    """What a Reject says to people. `field` None means the whole record; `value`: as the Reject has it, if it is known.

    An invisible character is named by its number (U+200B).
    """
    sign = ""
    if code == "email_invisible_character" and value:
        found = next((sign for sign in value.strip(BLANKS) if _is_invisible(sign)), None)
        sign = f" (U+{ord(found):04X})" if found else ""
    return CODES[code].format(field=field or "record", sign=sign)


def judge(batch: Columns, first: int) -> tuple[pa.Table, pa.Table]:
    """The Contacts and the Rejects of these Records, in file order; the first Record has the number `first`.

    Contacts: email, name, attributes (strings), record (int64). Rejects: `REJECTS`. Every Record is in one of them.
    """
    email, name = _trim(batch.email), _trim(batch.name)
    record = np.arange(first, first + len(email), dtype=np.int64)
    faulty = np.zeros(len(email), bool)
    faulty[list(batch.faults)] = True

    good, rejects = ~faulty, [_faults(batch.faults, first)]
    for field, code, column, broken in _problems(batch, email, name):
        found = good & broken
        if found.any():
            good &= ~found
            rejects.append(_rejects(record[found], field, code, column.filter(pa.array(found))))

    contacts = pa.table(
        {"email": pc.ascii_lower(email), "name": name, "attributes": batch.attributes, "record": pa.array(record)}
    )
    if good.all():
        return contacts, REJECTS.empty_table()
    return contacts.filter(pa.array(good)), pa.concat_tables(rejects).sort_by("record")


def _trim(column: Column) -> Column:
    return pc.utf8_trim(pc.fill_null(column, ""), BLANKS)


def _problems(batch: Columns, email: Column, name: Column) -> list[Problem]:
    """Every problem a Record can have, the one that counts first. `email` and `name` are trimmed."""
    return [
        ("email", "required", batch.email, np.asarray(batch.email.is_null())),
        ("email", "email_empty", batch.email, _sizes(email) == 0),
        ("email", "email_too_long", batch.email, _longer(email, EMAIL_LENGTH_MAX)),
        ("email", "email_invalid", batch.email, ~np.asarray(pc.match_substring_regex(email, EMAIL_PATTERN))),
        ("name", "required", batch.name, np.asarray(batch.name.is_null())),
        ("name", "name_empty", batch.name, _sizes(name) == 0),
        ("name", "name_too_long", batch.name, _longer(name, NAME_LENGTH_MAX)),
        ("name", "control_character", batch.name, _controlled(name)),
    ]


def _sizes(column: Column) -> npt.NDArray[np.int32]:
    """In bytes."""
    return np.asarray(pc.binary_length(column))


def _longer(column: Column, most: int) -> Flags:
    """Which have more characters; these are counted only if one has more bytes."""
    longer: Flags = _sizes(column) > most
    return longer & (np.asarray(pc.utf8_length(column)) > most) if longer.any() else longer


def _controlled(column: Column) -> Flags:
    """Which have a control character; they are searched one by one only if there is a byte that might be one."""
    text = value_bytes(column)
    if not ((text < ord(" ")) | (text == 0x7F)).any():
        return np.zeros(len(column), np.bool_)
    return np.asarray(pc.match_substring_regex(column, CONTROL_PATTERN))


def _is_invisible(character: str) -> bool:
    return bool(pc.match_substring_regex(pa.scalar(character), INVISIBLE_PATTERN).as_py())


def _email_codes(values: Column) -> Column:
    """Why each of these addresses is not valid."""
    codes = pa.array(["email_invalid"] * len(values), _STRING)
    for code, pattern in reversed(EMAIL_REASONS.items()):
        codes = pc.if_else(pc.match_substring_regex(values, f"(?s){pattern}"), code, codes)
    return codes


def _rejects(record: Offsets, field: str, code: str, values: Column) -> pa.Table:
    count = len(record)
    codes = _email_codes(_trim(values)) if code == "email_invalid" else pa.repeat(code, count)
    columns = [pa.array(record), pa.repeat(field, count), codes, _shown(values)]
    return pa.table(columns, schema=REJECTS)


def _faults(faults: dict[int, RecordError], first: int) -> pa.Table:
    found = [(first + index, fault.field, fault.code, _encodable(fault.value)) for index, fault in faults.items()]
    record, field, code, value = zip(*found, strict=True) if found else ((), (), (), ())
    return pa.table([record, field, code, _shown(pa.array(value, pa.string()))], schema=REJECTS)


def _encodable(value: str | None) -> str | None:
    """Half characters and the like are shown as `?`: this is for people, the exact bytes stand in `raw`."""
    return None if value is None else value.encode("utf-8", "replace").decode()


def _shown(values: Column) -> Column:
    """Cut, and without NUL, which Postgres cannot store."""
    return pc.replace_substring(pc.utf8_slice_codeunits(values, 0, VALUE_LENGTH_MAX), "\0", "\ufffd")
