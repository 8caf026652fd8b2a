"""What makes a Record a Contact, and what a Reject says."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rollcall.records.formats import reader
from rollcall.records.formats.reader import Columns, RecordError
from rollcall.records.rules import CODES, judge, message

BRIEF = re.compile(
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$", re.DOTALL
)


def batch(*records: tuple[str | None, str | None], faults: dict[int, RecordError] | None = None) -> Columns:
    names, emails = zip(*records, strict=True)
    return Columns(
        name=pa.array(names, pa.string()),
        email=pa.array(emails, pa.string()),
        attributes=pa.array(["{}"] * len(records)),
        faults=faults or {},
    )


def verdict(name: str | None, email: str | None) -> tuple[str | None, str] | None:
    contacts, rejects = judge(batch((name, email)), 1)
    assert contacts.num_rows + rejects.num_rows == 1
    return None if contacts.num_rows else (rejects["field"][0].as_py(), rejects["code"][0].as_py())


@pytest.mark.parametrize(
    ("name", "email", "problem"),
    [
        ("Ann", "ann@example.com", None),
        ("Ann", None, ("email", "required")),
        ("Ann", " \u00a0", ("email", "email_empty")),
        ("Ann", "a" * 309 + "@example.com", ("email", "email_too_long")),
        ("Ann", "a" * 308 + "@example.com", None),
        ("Ann", "nope", ("email", "email_invalid")),
        (None, "ann@example.com", ("name", "required")),
        ("\u200b \ufeff", "ann@example.com", ("name", "name_empty")),
        ("n" * 256, "ann@example.com", ("name", "name_too_long")),
        ("😀" * 255, "ann@example.com", None),
        ("  " + "n" * 255 + "\n", "ann@example.com", None),
        ("An\x00n", "ann@example.com", ("name", "control_character")),
        ("An\x1fn", "ann@example.com", ("name", "control_character")),
        ("An\x7fn", "ann@example.com", ("name", "control_character")),
        ("An\x1bn", "ann@example.com", ("name", "control_character")),
        ("An\u2028n\u0085n", "ann@example.com", None),
        ("An\n\tn", "ann@example.com", None),
        (None, "nope", ("email", "email_invalid")),
        ("", None, ("email", "required")),
        ("\x00" * 256, "ann@example.com", ("name", "name_too_long")),
    ],
)
def test_judge_the_first_problem_counts(name: str | None, email: str | None, problem: tuple[str, str] | None) -> None:
    assert verdict(name, email) == problem


def test_judge_contacts_are_trimmed_and_lowered_and_keep_their_numbers() -> None:
    contacts, rejects = judge(batch((" Ann ", "\tANN@Example.com\n"), ("Bob", "bob@"), ("Ço", "co@x.org")), 41)

    assert contacts.to_pydict() == {
        "email": ["ann@example.com", "co@x.org"],
        "name": ["Ann", "Ço"],
        "attributes": ["{}", "{}"],
        "record": [41, 43],
    }
    assert rejects.to_pylist() == [{"record": 42, "field": "email", "code": "email_invalid", "value": "bob@"}]


def test_judge_what_the_reader_found_comes_first() -> None:
    faults = {2: RecordError("stray_quote", "phone", "x" * 300), 0: RecordError("invalid_json")}
    contacts, rejects = judge(batch(("Ann", "ann@x.org"), ("Bob", "bob@"), ("", ""), faults=faults), 1)

    assert contacts.num_rows == 0
    assert rejects.to_pylist() == [
        {"record": 1, "field": None, "code": "invalid_json", "value": None},
        {"record": 2, "field": "email", "code": "email_invalid", "value": "bob@"},
        {"record": 3, "field": "phone", "code": "stray_quote", "value": "x" * 200},
    ]


def test_judge_a_value_is_cut_by_characters_and_made_fit_to_be_stored() -> None:
    faults = {1: RecordError("lone_surrogate", "name", "\ud800")}
    _, rejects = judge(batch(("é" * 256, "ann@x.org"), ("", ""), ("\x00", "a@x.org"), faults=faults), 1)

    assert rejects["value"].to_pylist() == ["é" * 200, "?", "\ufffd"]


def test_judge_no_records_are_no_trouble() -> None:
    nothing = pa.array([], pa.string())
    contacts, rejects = judge(Columns(nothing, nothing, nothing, {}), 1)

    assert (contacts.num_rows, rejects.num_rows) == (0, 0)


def test_judge_slices_of_larger_columns_are_judged_alike() -> None:
    whole = batch(("Ann", "ann@x.org"), ("Bob", "bob@"), (None, "co@x.org"))
    part = Columns(whole.name[1:], whole.email[1:], whole.attributes[1:], {})

    assert judge(part, 2)[1]["code"].to_pylist() == ["email_invalid", "required"]


@given(st.text("aZ9_'+-.@ \n\u00e9", max_size=20))
@example("a@b.co\n")
@example("a.b'@c.de")
@example(".a@b.co")
@example("a..b@c.de")
@example("a.@b.co")
@example("'a@b.co")
@example("a@-b.co")
@example("a@b-.co")
@example("a@b..co")
def test_judge_the_pattern_is_the_briefs(email: str) -> None:
    email = "x" + email + "x@y.zz" if email.startswith("Z") else email
    trimmed = email.strip(" \n")

    assert (verdict("Ann", email) is None) == (BRIEF.fullmatch(trimmed) is not None)


def test_judge_readers_find_only_what_can_be_said() -> None:
    sources = [file.read_text() for file in Path(reader.__file__).parent.glob("*.py")]
    found = {code for source in sources for code in re.findall(r'RecordError\(\s*"(\w+)"', source)}

    assert "stray_quote" in found
    assert found <= set(CODES)


def test_judge_every_code_says_what_to_do() -> None:
    for code in CODES:
        text = message(code, "phone {x}")
        assert text.endswith(".")
        assert "{field}" not in text
    assert message("required", "email") == "The email is missing. Every record needs a name and an email."
    assert message("invalid_json", None) == "The record is not valid JSON. Correct it."


@pytest.mark.parametrize(
    ("code", "emails"),
    {
        "email_several": [
            *("a@x.org; b@x.org", "a@x.org,b@x.org", "a@x.org / b@x.org", "a@x.org b@x.org", "a@x.org\nb@x.org"),
            *("a@x.org or b@x.org", "a@x.org;", "a@x.org , ", ",a@x.org", "Ann <a@x.org>, Bob <b@x.org>"),
        ],
        "email_mailto": ["mailto:a@x.org", "MAILTO:a@x.org", "mailto: a@x.org?subject=x"],
        "email_with_name": ["Ann <a@x.org>", "<a@x.org>", '"Ann" <a@x.org>', "Jörg <j@x.org>", "Ann <mailto:a@x.org>"],
        "email_invisible_character": [
            *(
                "\u202aa@x.org\u202c",
                "a@x.org\u200e",
                "a\u200b@x.org",
                "a\u00ad@x.org",
                "a@x.org\u3000",
                "\u2060a@x.org",
            ),
            *("a@x\u00a0.org", "a\t@x.org", "a@x.org\x00", "a\u2028@x.org", "a\ufe0f@x.org", "a\u3164@x.org"),
        ],
        "email_not_ascii": ["info@müller.example", "jörg@x.org", "a\uff20x.org", "\uff42@x.org", "a@x.org…"],
        "email_invalid": [
            "nope",
            "a@b",
            "a@x.org.",
            ".a@x.org",
            "a@@x.org",
            "a b@x.org",
            "@",
            "'a@x.org'",
            "a/b@x.org",
        ],
    }.items(),
)
def test_judge_a_reject_says_what_is_wrong_with_an_address(code: str, emails: list[str]) -> None:
    for email in emails:
        assert verdict("Ann", email) == ("email", code), email


def test_judge_message_names_an_invisible_character_by_its_number() -> None:
    code = "email_invisible_character"

    assert "(U+200B)" in message(code, "email", "\ufeff a\u200b@x.org")
    assert "(U+E0041)" in message(code, "email", "a\U000e0041@x.org")
    assert message(code, "email", "a" * 200) == message(code, "email")
    assert "ASCII" in message("email_not_ascii", "email", "jörg@x.org")
