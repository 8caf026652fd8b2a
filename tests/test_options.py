"""Options and Sources as they are given, stored and read again."""

from __future__ import annotations

import json
import time
import unicodedata

import pytest

from rollcall.errors import InvalidInput
from rollcall.options import GIVEN, Options, check_label, nearly
from rollcall.records import Mapping


def test_options_check_label_trims_and_composes() -> None:
    for text in ("crm", " crm\u00a0", "\u3000crm \u2003"):
        assert check_label(text) == "crm"
    assert check_label(unicodedata.normalize("NFD", "Kündigungen")) == "Kündigungen"
    assert len(check_label(unicodedata.normalize("NFD", "ǖ" * 100))) == 100


REFUSED = {
    "too_small": ["", " ", "\u2003\u00a0", " " * 5000],
    "too_big": ["x" * 101, "é" * 101, "e\u0301" * 101, "x" + "\u0301\u0323" * 500_000],
    "control_character": ["a\0b", "crm\n", "\tcrm", "\x1b[31m", "a\x7f", "a\x85b", "a\x9fb", "\x1fcrm"],
    "invalid_utf8": ["a\udce9", "\ud800"],
}


@pytest.mark.parametrize(("code", "text"), [(code, text) for code, texts in REFUSED.items() for text in texts])
def test_options_check_label_refuses(code: str, text: str) -> None:
    began = time.process_time()
    with pytest.raises(InvalidInput) as caught:
        check_label(text, "key")
    assert [(each["path"], each["code"]) for each in caught.value.issues or []] == [(["key"], code)]
    assert len(str(caught.value)) < 200
    assert time.process_time() - began < 0.5


SLIPS = {
    "source": [
        "Source",
        "SOURCE",
        "source_",
        "sourc",
        "sorce",
        "soruce",
        "sources",
        "source[]",
        "X-Source"[2:].upper(),
    ],
    "useResumable": ["use_resumable", "use-resumable", "useResumeable", "useresumable", "UseResumable"],
    "onInvalid": ["onInvald", "on_invalid", "oninvalid", "onInvalids", "OnInvalid", "noInvalid", "on invalid"],
    "onDuplicate": ["onDuplicates", "on_duplicate", "onDuplcate", "onduplicate", "on-duplicate", "ONDUPLICATE"],
    "format": ["Format", "fromat", "formats", "formt"],
    "mapping": ["Mapping", "maping", "mappings"],
    "maxRejects": ["max_rejects", "maxReject", "MaxRejects", "maxrejcts"],
    "dryRun": ["dryrun", "dry_run", "dryRun", "dry-run", "DryRun"],
}


def test_options_nearly_tells_what_was_meant() -> None:
    for option, names in SLIPS.items():
        for name in names:
            assert nearly(name) == option, name
    for name in (*GIVEN, "file", "data", "name", "email", "button", "submit", "form", "note", "comment", "sourceId",
                 "resource", "course", "csrf_token", "tags", "id", "version", "", "x" * 41, "source" * 10):  # fmt: skip
        assert nearly(name) is None, name


def test_options_nearly_costs_little_whatever_the_name() -> None:
    began = time.process_time()
    for name in ("e" * 1_000_000, "onDuplicat" * 100_000, *(f"ecruos{number}" for number in range(2000))):
        nearly(name)
    assert time.process_time() - began < 1


WRONG = {
    "mapping": [
        "5", "[]", "{}", "x", '{"email":"e"}', '{"email":"e","name":[]}', '{"email":"e","name":["n","n"]}',
        '{"email":"e","name":[1]}', '{"email":"e","name":"a\\u0000"}', json.dumps({"email": "e", "name": ["n"] * 1000}),
        json.dumps({"email": "e", "name": [str(number) for number in range(21)]}), "[" * 300 + "]" * 300,
        json.dumps({"email": "e" * 1001, "name": "n"}), " " * 65_537, '{"email":"e","name":"n","phone":"p"}',
    ],
    "maxRejects": ["1_000", "\u0661\u0662", " 5 ", "+5", "-1", "1e3", "", "%", "101%", "5 %",
                   "1" * 30, "inf%", "nan%", "5.%"],
    "format": ["xlsx", "CSV", ""],
    "onInvalid": ["maybe", "Fail"],
}  # fmt: skip


def test_options_parse_refuses_values_that_cannot_be_used() -> None:
    for name, values in WRONG.items():
        for value in values:
            with pytest.raises(InvalidInput) as caught:
                Options.parse({name: value})
            assert [each["path"] for each in caught.value.issues or []] == [[name]], value
            assert len(str(caught.value.issues)) < 500
    for value in ("0", "100", "5%", "0.5%", "100%", "99.999%"):
        assert Options.parse({"maxRejects": value}).max_rejects == value


def test_options_from_json_reads_what_other_versions_stored() -> None:
    options = Options("fail", "skip", "csv", Mapping("e", ("a", "b")), "5%")
    assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options
    assert Options.from_json({}) == Options()
    later = options.to_json() | {"emailRule": "modern", "mapping": {"email": "e", "name": ["a", "b"], "phone": "p"}}
    assert Options.from_json(later) == options
    other = {"onInvalid": "quarantine", "onDuplicate": "keep", "mapping": {"columns": []}, "maxRejects": "1_000"}
    assert Options.from_json(other) == Options("fail", "skip")
