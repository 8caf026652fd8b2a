"""In JSON, `name` and `email` are the contract's: what it accepts is stored with these very values."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall.errors import NoEmailColumn, NoNameColumn
from rollcall.records import Mapping, inspect, parts
from rollcall.records.formats import same_shape

EMAIL = re.compile(r"(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}")

Outcome = tuple[str, str] | str
"""Name and address, or the code of a Reject."""


def accepted(record: dict[str, Any]) -> tuple[str, str] | None:
    """What the contract's schema makes of a record; it knows no other keys."""
    name, email = record.get("name"), record.get("email")
    if not isinstance(name, str) or not 1 <= len(name) <= 255 or not isinstance(email, str):
        return None
    return (name, email.lower()) if EMAIL.fullmatch(email) else None


def read(text: str, mapping: Mapping | None = None) -> list[Outcome]:
    plan = inspect(io.BytesIO(text.encode()), mapping=mapping)
    found: dict[int, Outcome] = {}
    for part in parts(io.BytesIO(text.encode()), plan):
        found |= {row["record"]: (row["name"], row["email"]) for row in part.contacts.to_pylist()}
        found |= {row["record"]: row["code"] for row in part.rejects.to_pylist()}
    return [found[number] for number in sorted(found)]


def one(record: dict[str, Any], mapping: Mapping | None = None) -> Outcome:
    [outcome] = read(json.dumps([record]), mapping)
    return outcome


KEYS = ["name", "email", "Name", "Email", "fullName", "E-Mail", "first_name", "lastName", "mail", "x", "Vorname"]
VALUE = st.sampled_from(
    ["Ann", "Boss", "ann@example.com", "Old@example.com", "no address", "", None, 5, ["a"], {"b": 1}]
)
RECORD = st.dictionaries(st.sampled_from(KEYS), VALUE, max_size=6)
GOOD = st.builds(
    lambda own, others: own | {key: value for key, value in others.items() if key not in own},
    st.fixed_dictionaries(
        {"name": st.sampled_from(["Ann", "Bob"]), "email": st.sampled_from(["Ann@x.org", "b@x.org"])}
    ),
    RECORD,
)
FORMS: dict[str, Callable[[list[dict[str, Any]]], str]] = {
    "array": json.dumps,
    "envelope": lambda records: json.dumps({"source": "crm", "data": records}, indent=1),
    "lines": lambda records: "\n".join(map(json.dumps, records)),
}


@settings(deadline=None, max_examples=150)
@given(
    records=st.lists(GOOD | RECORD, min_size=2, max_size=8),
    form=st.sampled_from(sorted(FORMS)),
    least=st.integers(1, 9),
)
def test_own_keys_what_the_contract_accepts_is_stored_as_it_stands(
    records: list[dict[str, Any]], form: str, least: int
) -> None:
    expected = [accepted(record) for record in records]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same_shape, "ALIKE_MIN", least)  # read together, or one by one
        try:
            found = read(FORMS[form](records))
        except (NoEmailColumn, NoNameColumn):
            assert not any(expected)
            return
    assert len(found) == len(records)
    for outcome, contact in zip(found, expected, strict=True):
        assert contact is None or outcome == contact


ANN = ("Ann", "ann@example.com")
OWN = {"name": "Ann", "email": "ann@example.com"}


@pytest.mark.parametrize(
    ("record", "outcome"),
    [
        (OWN | {"fullName": "Boss"}, ANN),
        ({"fullName": "Boss"} | OWN, ANN),
        (OWN | {"fullName": None}, ANN),
        ({"Email": "old@example.com"} | OWN, ANN),
        (OWN | {"Email": 7, "full name": ["Boss"]}, ANN),
        ({"name": None, "fullName": "Ann", "email": "ann@example.com"}, ANN),
        ({"name": "Ann", "email": None, "E-Mail": "ann@example.com"}, ANN),
        ({"fullName": None, "first": "Ann", "last": "Lee", "mail": "ann@example.com"}, ("Ann Lee", "ann@example.com")),
        ({"Vorname": "Ann", "Name": "Lee", "email": "ann@example.com"}, ("Ann Lee", "ann@example.com")),
        ({"name": None, "email": "ann@example.com"}, "required"),
        ({"name": "Ann", "email": None}, "required"),
        ({"name": "", "fullName": "Ann", "email": "ann@example.com"}, "name_empty"),
        ({"name": 5, "fullName": "Ann", "email": "ann@example.com"}, "invalid_type"),
    ],
)
def test_own_keys_aliases_are_looked_at_where_the_own_key_is_missing(record: dict[str, Any], outcome: Outcome) -> None:
    assert one(record) == outcome


def test_own_keys_each_record_goes_by_its_own_keys() -> None:
    records = [
        OWN,
        {"name": "Bob", "email": "bob@example.com", "fullName": "Bob B"},
        {"Name": "Cy", "E-MAIL": "cy@example.com"},
        {"FULL NAME": "Di", "Mail": "di@example.com"},
        {"Vorname": "Ed", "Nachname": "Fox", "courriel": "ed@example.com"},
    ]
    expected = [ANN, ("Bob", "bob@example.com"), ("Cy", "cy@example.com"), ("Di", "di@example.com")]
    expected.append(("Ed Fox", "ed@example.com"))

    assert read(json.dumps(records)) == expected
    assert read(json.dumps(records[::-1])) == expected[::-1]
    assert read("\n".join(map(json.dumps, records * 300))) == expected * 300


def test_own_keys_a_given_mapping_is_taken_as_said() -> None:
    record = OWN | {"fullName": "Boss", "Email": "old@example.com"}

    assert one(record, Mapping("Email", ("fullName",))) == ("Boss", "old@example.com")
    assert one(record | {"fullName": None}, Mapping("Email", ("fullName",))) == "required"
