"""Reject files: mended and read again they say what the mended original says; unmended they are rejected again."""

from __future__ import annotations

import csv
import io
import json
import re
import time
from decimal import Decimal
from typing import Any

import hypothesis.strategies as st
import pyarrow as pa
import pytest
from hypothesis import example, given, settings

from rollcall import export
from rollcall.records import Plan, inspect, parts, reject_file
from rollcall.records.reject_file import guarded, mark_in, marked, unguarded, unmarked
from rollcall.rejects import Reject

SIGNS = st.text(st.sampled_from("'=+-@＝,;|:\t\r\n \"a\u00a0\ufffd0"))
FORMULA = re.compile(r'[\s"]*[=+\-@＝＋－＠]')

Contact = tuple[str, str, Any]


@settings(max_examples=100)
@given(SIGNS | st.text())
@example("\t=1")
@example("'\t'=1")
def test_reject_file_unguarded_is_the_inverse_of_guarded(text: str) -> None:
    assert unguarded(guarded(text)) == text


@given(st.lists(SIGNS, min_size=1, max_size=3), st.sampled_from(",;\t|"), st.sampled_from(",;\t|:"))
def test_reject_file_guarded_cells_are_no_formulas_under_any_separator(row: list[str], own: str, assumed: str) -> None:
    out = io.StringIO()
    csv.writer(out, delimiter=own, quoting=csv.QUOTE_ALL).writerow(map(guarded, row))
    for cells in csv.reader(io.StringIO(out.getvalue(), newline=""), delimiter=assumed):
        assert not any(FORMULA.match(cell) for cell in cells)


def test_reject_file_guarded_leaves_ordinary_values_alone() -> None:
    for text in ("Ann", "a - b", "O'Neil", "'tis", "1-2", "ann@example.com", "", "a, b"):
        assert guarded(text) == unguarded(text) == text


@given(st.text())
def test_reject_file_unmarked_is_the_inverse_of_marked(text: str) -> None:
    shown = marked(text.encode())
    assert ("\0" in text) == (mark_in(shown) is not None)
    assert unmarked(shown).replace("\ufffd00", "\0") == text or "\0" in text


@given(st.binary())
def test_reject_file_marked_bytes_that_are_no_text_have_a_mark(raw: bytes) -> None:
    try:
        broken = "\0" in raw.decode()
    except UnicodeDecodeError:
        broken = True
    assert (mark_in(marked(raw)) is not None) == broken


# Round trips


def read(data: bytes) -> tuple[Plan, list[Contact], list[Reject]]:
    """The Plan, the contacts (email, name, attributes) and the Rejects of a file."""
    plan = inspect(io.BytesIO(data))
    found = list(parts(io.BytesIO(data), plan))
    contacts = pa.concat_tables(part.contacts for part in found).to_pylist()
    rejects = pa.concat_tables(part.rejects for part in found).to_pylist()
    return plan, [contact(row) for row in contacts], [Reject(**row) for row in rejects]


def contact(row: dict[str, Any]) -> Contact:
    return row["email"], row["name"], json.loads(row["attributes"], parse_float=Decimal)


def reject_file_of(data: bytes, form: export.Form = "csv") -> bytes:
    plan, _, rejects = read(data)
    head, write = export.writer(form, plan, len(rejects))
    return head + write(rejects)


def rows_of(file: bytes, delimiter: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(file.decode(), newline=""), delimiter=delimiter))


@st.composite
def saved(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """As a spreadsheet may write it."""
    out = io.StringIO()
    alone = any("\r" in cell for row in rows for cell in row)  # Python does not quote a CR alone, spreadsheets do
    csv.writer(
        out,
        delimiter=draw(st.sampled_from(",;\t|")),
        lineterminator=draw(st.sampled_from(["\n", "\r\n"])),
        quoting=csv.QUOTE_ALL if alone or draw(st.booleans()) else csv.QUOTE_MINIMAL,
    ).writerows(rows)
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + out.getvalue().encode()


VALUES = st.text(st.characters(blacklist_categories=["Cs"], blacklist_characters="\0"), max_size=12) | SIGNS
HEADINGS = ["=name", "e-mail", "note", "+x"]


def line(cells: list[str], delimiter: str) -> bytes:
    return delimiter.join('"' + cell.replace('"', '""') + '"' for cell in cells).encode()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_reject_file_csv_mended_equals_the_mended_original(data: st.DataObject) -> None:
    """Any values, dialect and reason; mended in a spreadsheet that writes another dialect."""
    delimiter = data.draw(st.sampled_from([",", ";", "\t", "|", "^"]))
    head = f"sep={delimiter}\n".encode() if delimiter == "^" else b""
    good, bad = list[bytes](), list[bytes]()
    mends: list[dict[int, str]] = []
    for number in range(data.draw(st.integers(1, 5))):
        note, more = data.draw(VALUES), data.draw(VALUES)
        right = ["Ann", f"a{number}@x.org", note, more]
        kind = data.draw(st.sampled_from(["email", "name", "byte", "nul", "stray", "surplus"]))
        if kind == "email":
            bad.append(line(["Ann", "=nobody", note, more], delimiter))
            mends.append({1: right[1]})
        elif kind == "name":
            bad.append(line(["", right[1], note, more], delimiter))
            mends.append({0: "Ann"})
        elif kind in ("byte", "nul"):
            bad.append(
                line(["Ann", right[1], "N?", more], delimiter).replace(b"N?", b"\x92" if kind == "byte" else b"\0")
            )
            mends.append({2: note.strip("\r\n\t '") if guarded(note) != note else note})
            right[2] = mends[-1][2]
        else:
            right[2:] = ["fixed", "too"]
            broken = b'"An"n' if kind == "stray" else b"Ann"
            rest = [right[1], "x", "y", *(["z"] if kind == "surplus" else [])]
            bad.append(broken + delimiter.encode() + delimiter.join(rest).encode())
            mends.append(dict(enumerate(right)))
        if any(guarded(text) != text or "\ufffd" in text for text in mends[-1].values()):
            mends[-1] = {at: "plain" if at == 2 else text for at, text in mends[-1].items()}
            right[2] = mends[-1].get(2, right[2])
        good.append(line(right, delimiter))
    header = line(["name", "e-mail", "note", "+x"], delimiter)
    original, mended = (head + b"\n".join([header, *lines, b""]) for lines in (bad, good))
    _, _, rejects = read(original)
    assert len(rejects) == len(bad)

    file = reject_file_of(original)
    rows = rows_of(file, delimiter)
    assert rows[0][-3:] == list(reject_file.ADDED)
    assert read(file)[1] == []  # unmended, all of them are rejected again
    assert len(read(file)[2]) == len(bad)
    for row, mend in zip(rows[1:], mends, strict=True):
        for at, text in mend.items():
            row[at] = text
    assert read(data.draw(saved(rows)))[1] == read(mended)[1]


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | VALUES | st.sampled_from(["json:1", "", " "]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(VALUES, inner, max_size=2),
    max_leaves=4,
)
RAW_VALUES = st.sampled_from(["1.00", "1e400", "-0.10", "12345678901234567890123", '"\\ufffd"', '"\\u00e9"'])


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_reject_file_json_mended_equals_the_mended_original(data: st.DataObject) -> None:
    keys = data.draw(st.lists(VALUES | st.sampled_from(["age", "=k", "column 3"]), max_size=4, unique=True))
    good, bad = list[str](), list[str]()
    for number in range(data.draw(st.integers(1, 4))):
        texts = {
            key: data.draw(RAW_VALUES) if data.draw(st.booleans()) else json.dumps(data.draw(JSON_VALUES))
            for key in keys
            if data.draw(st.booleans())
        }
        for texts_of, email in ((good, f"a{number}@x.org"), (bad, "nobody")):
            members = {json.dumps("name"): '"Ann"', json.dumps("email"): json.dumps(email)}
            members |= {json.dumps(key): text for key, text in texts.items() if key not in ("name", "email")}
            texts_of.append("{\n" + ", ".join(f"{key}: {text}" for key, text in members.items()) + "}")
    original, mended = (f"[{', '.join(texts)}]".encode() for texts in (bad, good))
    expected = read(mended)[1]

    rows = rows_of(reject_file_of(original), ",")
    for number, row in enumerate(rows[1:]):
        row[rows[0].index("email")] = f"a{number}@x.org"
    assert read(data.draw(saved(rows)))[1] == expected
    lines = reject_file_of(original, "records").splitlines()
    again = [text.replace(b'"nobody"', b'"a%d@x.org"' % number) for number, text in enumerate(lines)]
    before = b'{"name":"B","email":"b@x.org"}\n'
    assert read(before + b"\n".join(again))[1] == [("b@x.org", "B", {}), *expected]


UNMENDED = [
    b'{"name":"caf\xe9","email":"a@x.org"}',
    rb'{"name":"\ud800","email":"a@x.org"}',
    rb'{"name":"Ann","email":"a@x.org","k":{"\ud800":[1]}}',
    rb'{"name":"Ann","email":"a@x.org","k":"\u0000"}',
    b'{"name":"Ann","email":"a@x.org","k":1e99999999}',
    b'{"name":7,"email":"a@x.org"}',
    b'{"name":"Ann","email":null}',
    b'{"name":"Ann"',
    b"[1]",
    b'{"name":"' + b"n" * 70_000 + b'","email":"a@x.org"}',
]


@pytest.mark.parametrize("form", ["csv", "records"])
@pytest.mark.parametrize("raw", UNMENDED)
def test_reject_file_json_unmended_is_rejected_again(raw: bytes, form: export.Form) -> None:
    data = b'{"name":"Bob","email":"b@x.org"}\n' + raw + b"\n"
    _, _, rejects = read(data)
    assert len(rejects) == 1
    before = b'{"name":"B","email":"b@x.org"}\n' if form != "csv" else b""
    _, contacts, again = read(before + reject_file_of(data, form))
    assert (len(contacts), len(again)) == (form != "csv", 1)
    once_more = reject_file_of(reject_file_of(data, form) if form == "csv" else data)
    assert len(read(once_more)[2]) == 1


CSV_UNMENDED = [
    b"O\x92Neil,a@x.org,",
    b'"Ann "A" Doe",a@x.org,"x, y"',
    b'"Bob"b ,a@x.org,',
    b'"Bob,a@x.org,',
    b"Ann,a@x.org,1,2,3",
    b"Ann,a@x.org,\0",
    b"Ann,a@x.org," + b"n" * 4_300_000,
    b"Ann,a@x.org,\xef\xbf\xbd\x92",
    b"Ann,nobody," + b"n" * 70_000,
]


@pytest.mark.parametrize("raw", CSV_UNMENDED)
def test_reject_file_csv_unmended_is_rejected_again_and_again(raw: bytes) -> None:
    data = b"name,email,note\n" + raw + b"\n"
    assert len(read(data)[2]) == 1
    for _ in range(3):
        data = reject_file_of(data)
        _, contacts, rejects = read(data)
        assert (contacts, len(rejects)) == ([], 1)
        assert data.decode()


def test_reject_file_csv_of_many_columns_and_short_records_stays_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "CELLS_MAX", 10_000)
    columns = [f"c{number}" for number in range(400)]
    data = ",".join(["name", "email", *columns]).encode() + b"\n" + b"A,x\n" * 100
    file = reject_file_of(data)
    assert len(file) < 50_000
    plan, contacts, rejects = read(file.replace(b'"x"', b'"x@x.org"'))
    assert (len(contacts), rejects) == (100, [])
    assert plan.header[:3] == reject_file.ADDED


def test_reject_file_csv_of_json_with_many_keys_stays_short() -> None:
    many = ",".join(f'"k{number}":{number}' for number in range(3_000))
    data = f'[{{"name":"A","email":"x",{many}}}{",{}" * 1_000}]'.encode()
    assert len(reject_file_of(data)) < 20 * len(data)


def test_reject_file_added_columns_are_no_attributes_in_any_format() -> None:
    added = dict.fromkeys(reject_file.NAMES, "1")
    row = {"name": "Ann", "email": "a@x.org", "k": 1} | added
    assert read(json.dumps([row]).encode())[1] == [("a@x.org", "Ann", {"k": 1})]
    table = b"rollcall_message,name,rollcall_code,email,k\nwhy,Ann,code,a@x.org,'+1\n"
    assert read(table)[1] == [("a@x.org", "Ann", {"k": "+1"})]
    assert read(b"name,email,record,code,k\nAnn,a@x.org,1,2,'+1\n")[1] == [
        ("a@x.org", "Ann", {"record": "1", "code": "2", "k": "'+1"})
    ]


@pytest.mark.parametrize("more", [[], [reject_file.MORE]])
def test_reject_file_resent_wide_file_costs_as_its_bytes(more: list[str]) -> None:
    columns = [*reject_file.ADDED, "name", "email", *more, *(f"c{number}" for number in range(9_990))]
    rest = "," * bool(more)
    rows = [f"1,x,y,Ann,a{number}@x.org{rest},'+{number}" for number in range(16_000)]
    rows[7] = f"1,x,y,Ann,a7@x.org{rest},\ufffd92"
    rows[9] = f"1,x,y,Ann,a9@x.org{rest},{',' * 9_988}last"
    data = "\n".join([",".join(columns), *rows, ""]).encode()
    began = time.process_time()
    _, contacts, rejects = read(data)
    assert time.process_time() - began < 10  # 160 million cells would take minutes
    assert [(reject.record, reject.code) for reject in rejects] == [(8, "invalid_utf8")]
    assert contacts[0] == ("a0@x.org", "Ann", {"c0": "+0"})
    assert contacts[8] == ("a9@x.org", "Ann", {"c9988": "last"})
    assert len(contacts) == 15_999


@pytest.mark.parametrize(
    "cell", ['="00123"', '"=""00123"""', '\'="00123"', '="a""b"', '="', '=""', ' ="1" ', '="1"&"2"']
)
def test_reject_file_resent_formulas_are_unwrapped_as_in_any_file(cell: str) -> None:
    """A number that a spreadsheet wrote as text, whether it stood there before or was mended in."""
    original = read(f"name,email,k\nAnn,a@x.org,{cell}\n".encode())[1]
    file = reject_file_of(f"name,email,k\nAnn,nobody,{cell}\n".encode())
    assert read(file.replace(b"nobody", b"a@x.org"))[1] == original
    if not cell.startswith("'"):
        assert read(f"name,email,k,rollcall_code\nAnn,a@x.org,{cell},x\n".encode())[1] == original
        once_more = reject_file_of(f"name,email,k,rollcall_code\nAnn,nobody,{cell},x\n".encode())
        assert read(once_more.replace(b"nobody", b"a@x.org"))[1] == original
