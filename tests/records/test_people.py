"""Files as people write them (tests/corpora/people): the cases that are plain reading of CSV."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rollcall.errors import Unreadable
from rollcall.records import inspect, parts

READ = (
    *("02b-sep-spaced.csv", "08-cr-inside-field.csv", "08c-lf-inside-field.csv", "10-ctrl-z.csv", "12-u2028.csv"),
    *("14-space-before-quote.csv", "14b-space-before-quote-email.csv", "14c-space-quote-header.csv"),
    *("15-blank-after-quote.csv", "16-backslash-quotes.csv", "17-quoted-nickname.csv", "19-line-in-quotes.csv"),
    *("20-newline-in-heading.csv", "23-ragged.csv", "53-html-xls.xls", "53b-html-a.xls", "54-ods.ods", "54e-docx.docx"),
    "68-excel-formula-text.csv",
)

NOT_YET = {
    "56c-gzip-cut.csv.gz": "nothing of an archive that is cut within its first 2 MiB is read",
}


def account(data: bytes) -> dict[str, Any]:
    """What becomes of the file, in the words of the expectations."""
    contacts: dict[str, Any] = {}
    rejects: list[list[Any]] = []
    end: dict[str, Any] = {"state": "succeeded"}
    try:
        for part in parts(io.BytesIO(data), inspect(io.BytesIO(data))):
            for row in part.contacts.to_pylist():
                attributes = json.loads(row["attributes"])
                contacts[row["email"]] = {"name": row["name"]} | ({"attributes": attributes} if attributes else {})
            rejects += [[row["record"], row["code"]] for row in part.rejects.to_pylist()]
    except Unreadable as error:
        end = {"state": "failed", "code": error.code, "message": str(error)}
    counts = {"created": len(contacts), "rejected": len(rejects)}
    return (
        end
        | {"counts": {name: count for name, count in counts.items() if count}, "contacts": contacts}
        | {"rejects": rejects}
    )


def fits(found: dict[str, Any], expect: dict[str, Any]) -> bool:
    if "either" in expect:
        return any(fits(found, each) for each in expect["either"])
    own = {name: expect[name] for name in ("state", "code", "counts", "rejects") if name in expect}
    contacts = expect.get("contacts", {})
    return (
        own == {name: found.get(name) for name in own}
        and all(word in found["message"] for word in expect.get("message_has", ()))
        and all(contacts[each].items() <= found["contacts"].get(each, {}).items() for each in contacts)
        and sum(found["counts"].values()) >= expect.get("counts_read_at_least", 0)
    )


@pytest.mark.parametrize(
    "file", [*READ, *(pytest.param(file, marks=pytest.mark.xfail(reason=why)) for file, why in NOT_YET.items())]
)
def test_people_inspect_and_parts_read_files_as_people_write_them(corpora: Path, file: str) -> None:
    folder = corpora / "people"
    cases = [json.loads(line) for line in (folder / "expectations.jsonl").read_text().splitlines()]
    (expect,) = [case["expect"] for case in cases if case["file"] == file]
    found = account((folder / file).read_bytes())
    assert fits(found, expect), found


def test_people_a_long_quoted_note_is_one_record(corpora: Path) -> None:
    found = account((corpora / "people" / "21-long-multiline-note.csv").read_bytes())
    assert found["counts"] == {"created": 2}


@pytest.mark.parametrize("file", ["27-linkedin-preamble.csv", "27b-title-line.csv", "27c-comment-line.csv"])
def test_people_inspect_says_that_a_title_stands_before_the_header(corpora: Path, file: str) -> None:
    found = account((corpora / "people" / file).read_bytes())
    assert "Remove what stands before the header" in found["message"]
    assert "Rename" not in found["message"]
