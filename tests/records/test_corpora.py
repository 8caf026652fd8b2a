"""Hard inputs that others collected: every one read, or refused with a code; nothing lost, nothing silently repaired.

They lie in tests/corpora, each folder with its source and licence.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollcall.errors import Unreadable
from rollcall.records import Part, inspect, parts
from rollcall.records.text import BLANKS

CORPORA = Path(__file__).parents[1] / "corpora"

BRIEF = re.compile(
    r"^(?!\.)(?!.*\.\.)([A-Za-z0-9_'+\-\.]*)[A-Za-z0-9_+-]@([A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$", re.DOTALL
)

OURS: dict[str, str | tuple[int, int, int]] = {
    # refused, with this code
    "gz_truncated_trailer.csv.gz": "ARCHIVE_TRUNCATED",
    "gz_truncated_half.csv.gz": "ARCHIVE_TRUNCATED",
    "gz_crc_bad.csv.gz": "ARCHIVE_CORRUPT",
    "gz_trailing_garbage.csv.gz": "ARCHIVE_CORRUPT",
    "gz_in_gz.csv.gz.gz": "NESTED_ARCHIVE",
    "gz_bomb_256m_one_line.csv.gz": "ARCHIVE_TOO_LARGE",
    "zst_bomb_1g_zeros.csv.zst": "ARCHIVE_TOO_LARGE",
    "zst_truncated.csv.zst": "ARCHIVE_TRUNCATED",
    "zst_window_2g.csv.zst": "ARCHIVE_CORRUPT",
    "csv_empty.csv": "EMPTY_FILE",
    "csv_only_bom.csv": "EMPTY_FILE",
    "csv_only_newlines.csv": "EMPTY_FILE",
    "csv_only_header.csv": "NO_RECORDS",
    "csv_no_header.csv": "NO_EMAIL_COLUMN",
    "csv_100k_columns.csv": "TOO_MANY_COLUMNS",
    "csv_utf16le.csv": "UNSUPPORTED_ENCODING",
    "json_utf16le_bom.json": "UNSUPPORTED_ENCODING",
    "json_depth_100k.json": "JSON_TOO_DEEP",
    "json_depth_100k_unclosed.json": "JSON_TOO_DEEP",
    "json_1e400_nan.json": "INVALID_JSON",
    "bin_png.csv": "UNKNOWN_FORMAT",
    "bin_elf.bin": "UNKNOWN_FORMAT",
    "html_named.csv": "UNKNOWN_FORMAT",
    # accepted, rejected, duplicates, where the expectation leaves the choice or our rule is another
    "csv_cp1252.csv": (0, 1, 0),
    "csv_ragged.csv": (2, 1, 0),
    "csv_dup_headers.csv": (1, 0, 0),
    "csv_excel_text_formula.csv": (1, 0, 0),
    "csv_formulas.csv": (18, 1, 0),
    "csv_named.xlsx": (1000, 0, 0),
    "json_concatenated.json": (2, 0, 0),
    "json_dup_keys.json": (1, 0, 0),
    "json_lone_surrogate.json": (1, 1, 0),
    "json_huge_number.json": (1, 0, 0),
    "json_invalid_utf8.json": (1, 1, 0),
}


def lines(corpus: str) -> list[dict[str, Any]]:
    if not CORPORA.is_dir():
        return []
    name = "emails" if corpus == "emails" else "expectations"
    return [json.loads(line) for line in (CORPORA / corpus / f"{name}.jsonl").read_bytes().splitlines()]


def read(data: bytes) -> Iterator[Part]:
    return parts(io.BytesIO(data), inspect(io.BytesIO(data)))


def outcomes(data: bytes) -> dict[int, tuple[str, str]]:
    """By record: ("name", its name) or the code of its Reject with its field."""
    found: dict[int, tuple[str, str]] = {}
    for part in read(data):
        found |= {row["record"]: ("name", row["name"]) for row in part.contacts.to_pylist()}
        found |= {row["record"]: (row["code"], row["field"]) for row in part.rejects.to_pylist()}
    return found


NOT_READ_YET = {".xlsx", ".vcf"}
HOSTILE = [case for case in lines("hostile") if case["file"] in OURS or Path(case["file"]).suffix not in NOT_READ_YET]


@pytest.mark.parametrize("case", HOSTILE, ids=lambda case: case["file"])
def test_corpora_hostile_files_end_as_expected(case: dict[str, Any]) -> None:
    file = CORPORA / "hostile" / case["file"]
    expected = OURS.get(case["file"]) or (case["accepted"], case["rejected"], case["duplicates"])
    emails, rejected = [], 0

    def run() -> None:
        nonlocal rejected
        with file.open("rb") as stream:
            plan = inspect(stream)
        with file.open("rb") as stream:
            for part in parts(stream, plan):
                emails.extend(part.contacts["email"].to_pylist())
                rejected += part.rejects.num_rows
                assert part.contacts.num_rows + part.rejects.num_rows == part.last - part.first + 1

    if isinstance(expected, str):
        with pytest.raises(Unreadable) as raised:
            run()
        assert raised.value.code == expected
    else:
        run()
        assert (len(set(emails)), rejected, len(emails) - len(set(emails))) == expected


def test_corpora_every_address_is_judged_as_the_brief_does() -> None:
    cases = lines("emails")
    data = json.dumps([{"name": "Ann", "email": case["email"]} for case in cases]).encode()
    found = outcomes(data)

    assert len(found) == len(cases) == 954
    for record, case in enumerate(cases, 1):
        trimmed = case["email"].strip(BLANKS)
        accepted = case["seed_expect"] == "accept" if trimmed == case["email"] else bool(BRIEF.fullmatch(trimmed))
        assert (found[record][0] == "name") == accepted, case["email"]


def test_corpora_naughty_strings_are_names() -> None:
    """507 are stored as they are, but for the blanks around them; four hold control characters, three are blank."""
    cases = lines("blns")
    data = json.dumps([{"name": case["s"], "email": "ann@example.com"} for case in cases]).encode()
    found = outcomes(data)

    for record, case in enumerate(cases, 1):
        name = case["s"].strip(BLANKS)
        if re.search(r"[\x00-\x08\x0e-\x1f\x7f]", name):
            assert found[record] == ("control_character", "name")
        elif name and len(name) <= 255:
            assert found[record] == ("name", name)
        else:
            assert found[record] == ("name_too_long" if name else "name_empty", "name")
    assert len(found) == 515
    assert sum(code == "name" for code, _ in found.values()) == 507


def test_corpora_utf8_is_read_strictly() -> None:
    cases = lines("utf8tests")
    names = [bytes.fromhex(case["hex"]) for case in cases]
    data = b"name,email\n" + b"".join(b'"x%bx",ann@example.com\n' % name.replace(b'"', b'""') for name in names)
    found = outcomes(data)

    assert len(found) == len(cases) == 222
    for record, (case, name) in enumerate(zip(cases, names, strict=True), 1):
        if case["python_strict"] != "valid":
            assert found[record][0] == "invalid_utf8", case
        elif re.search(rb"[\x00-\x08\x0e-\x1f\x7f]", name):
            assert found[record][0] == "control_character", case
        else:
            assert found[record] == ("name", f"x{name.decode()}x"), case
