"""Which column is what: guess it from the header, or check what was given.

A header is the first line of a CSV file, or the keys seen in a sample of JSON. Values are not looked at: what a column
is called decides, so that the same export is always read the same way. Errors show the beginning of the header; when
that seems to be somebody's data, they do not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any

from rollcall.errors import BadMapping, NoEmailColumn, NoNameColumn, Unreadable
from rollcall.records import fields
from rollcall.records.plan import Mapping, Plan
from rollcall.records.text import BLANKS

COLUMNS_SHOWN = 20
HEADING_SHOWN = 40
"""How much of a header an error message shows: columns, and characters of each."""

CONTRACT = Mapping("email", ("name",))
"""The keys of the HTTP contract."""

EXAMPLE = 'Each is an object such as {"name": "Ann", "email": "ann@example.com"}.'

SAMPLE_KEYS, SAMPLE_CHARACTERS = 1_000, 64 << 10
"""How many keys of a JSON file its Plan shows, and how many characters they have together."""

_ADDRESS = re.compile(r"[^\s@<>]@[^\s@<>]+\.[^\s@<>]")
"""Something like an address. One character before the `@` is enough, and keeps the search linear."""


def guess(header: Sequence[str]) -> Mapping:
    """The columns of the address and the name; a full name is preferred to a first and a last one.

    Raises NoEmailColumn and NoNameColumn.
    """
    columns: dict[str, str] = {}
    for column in header:
        columns.setdefault(fields.plain(column), column)
    email = _first(fields.EMAIL, columns)
    if email is None:
        raise _missing(NoEmailColumn, header, "the email addresses", "email, E-Mail-Adresse, courriel, correo …")
    name = _name(columns)
    if not name:
        raise _missing(NoNameColumn, header, "the names", "name, full name, first name and last name, Nachname, nom …")
    return Mapping(email=email, name=name)


def by_record(plan: Plan) -> Callable[[dict[str, Any]], Mapping]:
    """What finds the mapping of one JSON Record by its own keys; a null counts as missing.

    A given mapping is that of every Record. Else a Record's exact `email` and `name` come first: they are the contract.
    Where one is missing, its other keys are looked at as a header is; what they do not tell, the Plan does.
    """
    given = plan.mapping
    if plan.mapping_given:
        return lambda _: given

    @lru_cache(256)
    def guessed(keys: tuple[str, ...]) -> Mapping:
        columns: dict[str, str] = {}
        for key in keys:
            columns.setdefault(fields.plain(key), key)
        email = CONTRACT.email if CONTRACT.email in keys else _first(fields.EMAIL, columns)
        name = CONTRACT.name if CONTRACT.name[0] in keys else _name(columns)
        return Mapping(given.email if email is None else email, name or given.name)

    return lambda record: guessed(
        tuple([key for key, value in record.items() if value is not None and fields.is_alias(key)])
    )


def check(mapping: Mapping, header: Sequence[str]) -> Mapping:
    """The mapping, if the file has all of its columns. Raises BadMapping."""
    if not mapping.name:
        raise BadMapping(
            'The mapping names no column for the name. Give it one, or several: {"name": ["first", "last"]}.'
        )
    columns = set(header)
    unknown = [column for column in (mapping.email, *mapping.name) if column not in columns]
    if unknown:
        raise BadMapping(
            f"The mapping names {_some(unknown)}, which the file does not have. {_seen(header)} "
            "Write the column as it stands there."
        )
    return mapping


def unique(header: Iterable[str]) -> tuple[str, ...]:
    """The header with a name of its own for every column: an empty one is `column 3`, a second `Phone` is `Phone (2)`.

    Blanks around a heading are dropped. The first of several keeps its name; so does a `Phone (2)` of the file's own.
    """
    headings = [cell.strip(BLANKS) or f"column {number}" for number, cell in enumerate(header, 1)]
    taken = set(headings)
    met: dict[str, int] = {}
    columns = []
    for heading in headings:
        column, number = heading, met.get(heading, 0) + 1
        if number > 1:
            while (column := f"{heading} ({number})") in taken:
                number += 1
            taken.add(column)
        met[heading] = number
        columns.append(column)
    return tuple(columns)


def sample(keys: Iterable[str], mapping: Mapping) -> tuple[str, ...]:
    """The first of a JSON file's keys, few enough to be shown with every import; the mapped ones are among them."""
    mapped, shown, room = {mapping.email, *mapping.name}, list[str](), SAMPLE_CHARACTERS
    for key in keys:
        fits = len(shown) < SAMPLE_KEYS and len(key) <= room
        if fits or key in mapped:
            shown.append(key)
            room -= len(key) if fits else 0
    return tuple(shown)


def _name(columns: dict[str, str]) -> tuple[str, ...]:
    full = _first(fields.FULL_NAME, columns)
    first, last = _first(fields.FIRST_NAME, columns), _first(fields.LAST_NAME, columns)
    if full == columns.get("name") and first and not last and fields.plain(first) in fields.FAMILY_NAME_BESIDE:
        full, last = None, full
    if full:
        return (full,)
    if not first and not last:
        return ()
    return tuple(column for column in (first, _first(fields.MIDDLE_NAME, columns), last) if column)


def _first(aliases: Iterable[str], columns: dict[str, str]) -> str | None:
    return next((columns[alias] for alias in aliases if alias in columns), None)


def _missing(error: type[Unreadable], header: Sequence[str], what: str, aliases: str) -> Unreadable:
    if any(_ADDRESS.search(column[: fields.HEADING_LENGTH_MAX]) for column in header):
        return error(
            f"No column holds {what}: the first line holds an email address, so the file seems to have no header line. "
            "Put one before it, such as: name,email"
        )
    if not header:
        return error(f"No column holds {what}. {_seen(header)}")
    return error(
        f"No column holds {what}. {_seen(header)} Rename the column (looked for: {aliases}), or say in the mapping "
        "which one it is."
    )


def _seen(header: Sequence[str]) -> str:
    return f"The columns are {_some(header)}." if header else f"No record is a JSON object with keys. {EXAMPLE}"


def _some(columns: Sequence[str]) -> str:
    """The first of them, each cut to HEADING_SHOWN characters, and how many more there are."""
    shown = ", ".join(
        f'"{column if len(column) <= HEADING_SHOWN else column[: HEADING_SHOWN - 1] + "…"}"'
        for column in columns[:COLUMNS_SHOWN]
    )
    rest = len(columns) - COLUMNS_SHOWN
    return f"{shown} and {rest} more" if rest > 0 else shown
