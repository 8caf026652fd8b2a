"""CSV: every Record is found whatever is broken beside it, and every value comes out as it was written."""

from __future__ import annotations

import json
import random
import re
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall.records.formats import csv, csv_scan, csv_values
from rollcall.records.formats.csv_dialect import csv_dialect
from rollcall.records.formats.csv_grammar import QUOTED_BYTES_MAX
from rollcall.records.formats.reader import RECORD_BYTES_MAX, Slice
from rollcall.records.plan import LineEnd, Mapping, Plan
from rollcall.records.text import BLANKS

MIB = 1 << 20
HEADER = ("name", "email", "note")


def plan(*header: str, name: tuple[str, ...] = ("name",), email: str = "email", delimiter: str = ",") -> Plan:
    return Plan("csv", "none", header or HEADER, Mapping(email, name), delimiter)


def scanned(data: bytes, plan: Plan, blocks: int | list[bytes] = MIB) -> list[tuple[bytes, str | None]]:
    """Every Record's bytes, and the code of its RecordError; `blocks` of so many bytes, or these."""
    if isinstance(blocks, int):
        blocks = [data[at : at + blocks] for at in range(0, len(data), blocks)]
    return [
        (part.raw(index), part.faults[index].code if index in part.faults else None)
        for part in csv.scan(blocks, plan)
        for index in range(len(part))
    ]


def whole(data: bytes, plan: Plan) -> Slice:
    (part,) = csv.scan([data], plan)
    return part


def read(data: bytes, plan: Plan) -> list[list[str]]:
    """What `parse` makes of a file without faults, column by column, by way of one Plan for each column."""
    part, columns = whole(data, plan), []
    for column in plan.header:
        batch = csv.parse(part, replace(plan, mapping=Mapping(column, (column,))))
        assert not batch.faults
        columns.append(batch.email.to_pylist())
    return [list(row) for row in zip(*columns, strict=True)]


def rows(data: bytes, plan: Plan) -> list[tuple[object, ...]]:
    """What `parse` makes of a file: (name, email, attributes), or (code, field) of the RecordError."""
    batch = csv.parse(whole(data, plan), plan)
    attributes = [json.loads(str(each)) for each in batch.attributes.to_pylist()]
    found: list[tuple[object, ...]] = list(
        zip(batch.name.to_pylist(), batch.email.to_pylist(), attributes, strict=True)
    )
    for index, fault in batch.faults.items():
        found[index] = fault.code, fault.field
    return found


# The grammar once more, a byte at a time: slow, and right by looking at it.


class Limits(NamedTuple):
    quoted: int
    record: int
    kept: int


WIDE = Limits(QUOTED_BYTES_MAX, RECORD_BYTES_MAX, csv_scan.KEPT_BYTES)
NARROW = Limits(6, 9, 2)


class Broken(Exception):
    """The code of the fault."""


class Reference:
    """The records of a file of three columns after its header, by the rules as they are written down."""

    def __init__(self, data: bytes, limits: Limits, line_end: str = "\n") -> None:
        self.data, self.limits = data.removeprefix(b"\xef\xbb\xbf"), limits
        if not self.data.endswith((b"\n", b"\r") if line_end == "\r" else b"\n"):
            self.data = self.data.rstrip(b"\0\x1a")
        self.lines = list(self.physical_lines(line_end))

    def physical_lines(self, line_end: str) -> Iterator[tuple[int, int]]:
        """Where each line begins and ends that is not empty."""
        begin = 0
        for line in re.split(rb"[\r\n]" if line_end == "\r" else rb"\n", self.data):
            full = line if line_end == "\r" else line.removesuffix(b"\r").removesuffix(b"\r")
            pieces = full.split(b"\r")
            parted = b'"' not in full and all(piece.count(b",") == 2 for piece in pieces if piece)
            at = begin
            for piece in pieces if parted else [full]:
                if piece:
                    yield at, at + len(piece)
                at += len(piece) + 1
            begin += len(line) + 1

    def __iter__(self) -> Iterator[tuple[bytes, list[bytes] | str]]:
        """Every record: its bytes, and its cells or what is wrong with it."""
        line, header = 0, True
        while line < len(self.lines):
            begin, end = self.lines[line]
            last: int
            found: list[bytes] | str
            try:
                last, found = self.record(line)
            except Broken as fault:
                last, found = line, str(fault)
            raw = self.data[begin : self.lines[last][1]]
            if end - begin > self.limits.record or len(raw) > self.limits.record:
                found, raw = "record_too_long", raw[: self.limits.kept]
            if isinstance(found, str) or raw.decode("utf-8", "replace").strip(BLANKS + ",\0\x1a"):
                if not header:
                    yield raw, found
                header = False
            line = last + 1

    def record(self, first: int) -> tuple[int, list[bytes]]:
        return self.fields(first, first, self.lines[first][0], [])

    def fields(self, first: int, line: int, at: int, cells: list[bytes]) -> tuple[int, list[bytes]]:
        """The last line, and all cells, of a record whose next field begins here."""
        end = self.lines[line][1]
        quote = at
        while quote < end and self.data[quote] in b" \t":
            quote += 1
        if self.data[quote:end].startswith(b'"'):
            closed = self.quoted(first, line, quote + 1)
            if closed and closed[3]:
                into, after, value, _ = closed
                try:
                    return self.following(first, into, after, [*cells, value])
                except Broken:
                    if quote == at or into == line:
                        raise
            elif quote == at:
                raise Broken("stray_quote" if closed and closed[0] == first else "unclosed_quote")
        after = self.data.find(b",", at, end)
        after = end if after < 0 else after
        return self.following(first, line, after, [*cells, self.data[at:after]])

    def following(self, first: int, line: int, at: int, cells: list[bytes]) -> tuple[int, list[bytes]]:
        return (line, cells) if at == self.lines[line][1] else self.fields(first, line, at + 1, cells)

    def quoted(self, first: int, line: int, at: int) -> tuple[int, int, bytes, bool] | None:
        """Where the value that begins here is closed, what follows the blanks behind it, the value; if well."""
        begin = at
        while True:
            while line < len(self.lines) and at >= self.lines[line][1]:
                line += 1
            if line == len(self.lines):
                return None
            if line > first and self.lines[line][1] - self.lines[first][0] > self.limits.quoted:
                return None
            if self.data[at : at + 1] != b'"':
                at += 1
            elif self.data[at + 1 : at + 2] == b'"':
                at += 2
            else:
                after, end = at + 1, self.lines[line][1]
                while after < end and self.data[after] in b" \t":
                    after += 1
                value = self.data[begin:at].replace(b'""', b'"')
                return line, after, value, after == end or self.data[after : after + 1] == b","


FORMULA = re.compile(r'\A[ \t\r\n\u00a0\u200b\ufeff]*="((?:[^"]|"")*)"[ \t\r\n\u00a0\u200b\ufeff]*\Z')


def expected(raw: bytes, found: list[bytes] | str) -> tuple[object, ...]:
    """What `rows` has for this record, under HEADER."""
    if isinstance(found, str):
        return found, None
    try:
        raw.decode()
    except UnicodeDecodeError:
        return "invalid_utf8", None
    cells = [FORMULA.sub(lambda cell: cell[1].replace('""', '"'), cell.decode()) for cell in [*found, b"", b""]]
    name, email, note, *surplus = cells[: max(len(found), 3)]
    if any(cell.strip(BLANKS) for cell in surplus):
        return "too_many_fields", None
    if "\0" in note:
        return "nul_character", "note"
    return name.strip(BLANKS), email, {"note": note.strip(BLANKS)} if note.strip(BLANKS) else {}


@contextmanager
def limits(limits: Limits) -> Iterator[None]:
    """Limits of a few bytes, so that small files meet them all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_scan, "STRETCH_BYTES", 1)
        patch.setattr(csv_scan, "QUOTED_BYTES_MAX", limits.quoted)
        patch.setattr(csv_scan, "RECORD_BYTES_MAX", limits.record)
        patch.setattr(csv_scan, "KEPT_BYTES", limits.kept)
        yield


SIGNS = [
    b' "',
    b'" ',
    b',"',
    b'"',
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b'"\n',
    b',"',
    b'",',
    b'""',
    b"a",
    b"b c",
    b" ",
    b"\t",
    b"\0",
    b"\\",
    b"=",
]
ODDITIES = ["é".encode(), "\u00a0".encode(), "\ufeff".encode(), b"\xff", b"\xc3", b"aaaaaaa", b"         "]
FILES = st.lists(st.sampled_from(SIGNS * 3 + ODDITIES), max_size=40).map(b"".join)


@pytest.mark.parametrize("line_end", ["\n", "\r"])
@pytest.mark.parametrize("seed", range(60))
def test_csv_scan_of_any_bytes_in_any_blocks_finds_the_records_of_the_grammar(seed: int, line_end: LineEnd) -> None:
    chance = random.Random(seed)
    data = b"name,email,note\n" + b"".join(chance.choices(SIGNS * 3 + ODDITIES, k=400))
    blocks: list[bytes] = []
    at = 0
    while at < len(data):
        blocks.append(data[at : at + chance.randint(0, seed % 12 + 1)])
        at += len(blocks[-1])
    limit = NARROW if seed % 3 else Limits(40, 60, 2)
    with limits(limit):
        assert scanned(data, replace(plan(), line_end=line_end), blocks) == [
            (raw, found if isinstance(found, str) else None) for raw, found in Reference(data, limit, line_end)
        ]


@settings(deadline=None, max_examples=300)
@given(FILES, st.sampled_from(["\n", "\r"]))
def test_csv_parse_of_any_bytes_has_the_values_of_the_grammar(body: bytes, line_end: LineEnd) -> None:
    data, written = b"name,email,note\n" + body, replace(plan(), line_end=line_end)
    found = rows(data, written) if scanned(data, written) else []
    assert found == [expected(raw, cells) for raw, cells in Reference(data, WIDE, line_end)]


@settings(deadline=None)
@given(st.lists(st.lists(st.text("ab \"',;\n\r\tNA0é\\\x01\x1f", max_size=8), min_size=3, max_size=3), max_size=8))
def test_csv_what_is_quoted_comes_back_as_it_was(table: list[list[str]]) -> None:
    lines = [",".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in [list(HEADER), *table]]
    data = "\n".join(lines).encode()
    assert (read(data, plan()) if table else []) == table


# The rules, one by one.


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'"Ann" B,a@x.org,', "stray_quote"),
        (b'"Ann" "B",a@x.org,', "stray_quote"),
        (b'"Ann"B",a@x.org,', "stray_quote"),
        (b'Ann,a@x.org,"z', "unclosed_quote"),
        (b'"Ann,a@x.org,', "unclosed_quote"),
        (b'"Ann""",a@x.org,"""', "unclosed_quote"),
    ],
)
@pytest.mark.parametrize("neighbour", [b"Bob,b@x.org,", b'"Bob","b@x.org",""', b'Rob "B" Bob,b@x.org,"x, ""y"""'])
def test_csv_a_broken_quote_costs_its_own_line(line: bytes, code: str, neighbour: bytes) -> None:
    data = b"\n".join([b"name,email,note", neighbour, line, neighbour, neighbour, line, line, neighbour, b""])
    good = (neighbour, None)
    assert scanned(data, plan()) == [good, (line, code), good, good, (line, code), (line, code), good]


def test_csv_a_quote_that_is_not_closed_within_4_mib_costs_its_own_line() -> None:
    lines = [b"Bob %d,b%d@x.org," % (number, number) for number in range(400_000)]
    data = b"\n".join([b"name,email,note", b'Ann,a@x.org,"open', *lines, b'close",,'])
    found = scanned(data, plan())
    assert found[0] == (b'Ann,a@x.org,"open', "unclosed_quote")
    assert [raw for raw, _ in found[1:-1]] == lines
    assert found[-1] == (b'close",,', None)


@pytest.mark.parametrize(("size", "records"), [(4 * MIB, 2), (4 * MIB + 1, 3)])
@pytest.mark.parametrize("other", [b'Bob,b@x.org,""', b'"Bob" B,b@x.org,'])
def test_csv_quoted_line_breaks_carry_a_record_4_mib_and_no_further(size: int, records: int, other: bytes) -> None:
    begin, end = b'Ann,a@x.org,"\n', b'"'
    record = begin + b"x" * (size - len(begin) - len(end)) + end
    found = scanned(b"\n".join([b"name,email,note", record, other]), plan(), 64 * 1024)
    assert len(found) == records
    assert found[0] == ((record, None) if records == 2 else (begin[:-1], "unclosed_quote"))


def test_csv_line_breaks_within_quotes_belong_to_the_value() -> None:
    data = b'name,email,note\r\n"Ann\r\nB",a@x.org,"1\n\n2\r3 ""4"""\r\nBob,b@x.org,\r\n'
    assert read(data, plan()) == [["Ann\r\nB", "a@x.org", '1\n\n2\r3 "4"'], ["Bob", "b@x.org", ""]]


def test_csv_a_large_quoted_value_is_a_value() -> None:
    note = "x" * (2 * MIB) + ' "y"'
    quoted, open_ = note.replace('"', '""'), "2" * 4 * MIB
    data = f'name,email,note\nAnn,a@x.org,"{quoted}"\nBob,b@x.org,"1\n{open_}"\n'.encode()
    assert rows(data, plan())[:2] == [("Ann", "a@x.org", {"note": note}), ("unclosed_quote", None)]


@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"])
def test_csv_every_line_end_ends_a_record(newline: bytes) -> None:
    data = newline.join([b"name,email,note", b"Ann,a@x.org,", b'"Bob","b@x.org",', b"", b"Cat,c@x.org,\n\r\nDan,,"])
    written = replace(plan(), line_end="\r" if newline == b"\r" else "\n")
    assert [raw for raw, _ in scanned(data, written, 1)] == [
        b"Ann,a@x.org,",
        b'"Bob","b@x.org",',
        b"Cat,c@x.org,",
        b"Dan,,",
    ]


def test_csv_blank_lines_are_no_records() -> None:
    blanks = ["", " ", ",", ",,,,,", " , \t,", "\u00a0,\u200b", "\ufeff", ""]
    data = "\n".join([*blanks, "name,email,note", *blanks, "é,,", *blanks, ",,à", *blanks, '"",,']).encode()
    assert [raw.decode() for raw, _ in scanned(data, plan())] == ["é,,", ",,à", '"",,']


def test_csv_a_bom_and_what_the_plan_skips_are_no_records() -> None:
    data = b"\xef\xbb\xbfsep=;\r\n\r\n" + b"name;email\r\nAnn;a@x.org"
    written = csv_dialect(data)
    found = Plan("csv", "none", ("name", "email"), Mapping("email", ("name",)), written.delimiter, written.skip)
    assert [scanned(data, found, size) for size in (1, 5, MIB)] == [[(b"Ann;a@x.org", None)]] * 3
    assert rows(data, found) == [("Ann", "a@x.org", {})]
    assert scanned('\ufeff"na\nme",email\nAnn,a@x.org'.encode(), plan()) == [(b"Ann,a@x.org", None)]


def test_csv_too_few_fields_are_blank_and_too_many_are_a_fault() -> None:
    data = (
        b'name,email,note\nAnn\n"Bob",b@x.org\nCat,c@x.org,1, ,\nDan,d@x.org,"1, ""2""",\nEve,e@x.org,,1\nFay,,,,""\n'
    )
    assert rows(data, plan()) == [
        ("Ann", "", {}),
        ("Bob", "b@x.org", {}),
        ("Cat", "c@x.org", {"note": "1"}),
        ("Dan", "d@x.org", {"note": '1, "2"'}),
        ("too_many_fields", None),
        ("Fay", "", {}),
    ]


def test_csv_bytes_that_are_not_utf8_cost_their_own_record() -> None:
    data = b"name,email,note\nZo\xc3\xab,a@x.org,\nJos\xe9,b@x.org,\nBob,c@x.org,\xed\xa0\x80\nCat,d@x.org,\n"
    assert rows(data, plan()) == [
        ("Zoë", "a@x.org", {}),
        ("invalid_utf8", None),
        ("invalid_utf8", None),
        ("Cat", "d@x.org", {}),
    ]


def test_csv_a_nul_is_left_to_the_rules_or_a_fault_of_its_column() -> None:
    data = b"name,email,note\nA\0,a@x.org,\nBob,b\0@x.org,\nCat,c@x.org,1\x002\nDan,d@x.org,3\n"
    assert rows(data, plan()) == [
        ("A\0", "a@x.org", {}),
        ("Bob", "b\0@x.org", {}),
        ("nul_character", "note"),
        ("Dan", "d@x.org", {"note": "3"}),
    ]


def test_csv_the_first_column_with_a_nul_is_named() -> None:
    assert rows(b"name,email,a,b\nAnn,a@x.org,\0,\0", plan("name", "email", "a", "b")) == [("nul_character", "a")]


def test_csv_values_are_text_whatever_they_look_like() -> None:
    cells = ["NA", "NULL", "nan", "#N/A", "", "007", "1e5", "true", "2024-01-01", " x ", "\\", "\\N", "=1+1", "'", "{}"]
    data = ("a,b\n" + "".join(f'{cell},"{cell}"\n' for cell in cells)).encode()
    assert read(data, plan("a", "b")) == [[cell, cell] for cell in cells]


def test_csv_one_column_is_a_file_too() -> None:
    data = b'email\na@x.org\n\n""\n"b@x.org"\nc@x.org,d\n,\n'
    assert rows(data, plan("email", name=("email",))) == [
        ("a@x.org", "a@x.org", {}),
        ("", "", {}),
        ("b@x.org", "b@x.org", {}),
        ("too_many_fields", None),
    ]


def test_csv_names_are_joined_and_the_rest_is_kept_as_json() -> None:
    header = ("first", "last", "email", 'a "b"\\', "ü")
    data = 'f,l,e,a,u\n Zoë , Lee,z@x.org,"tab\there, ""q"" \\ \n\x1f", é\u00a0\n,Lee,,\u200b,\nAnn,,,,NA\n'.encode()
    assert rows(data, plan(*header, name=("first", "last"))) == [
        ("Zoë Lee", "z@x.org", {'a "b"\\': 'tab\there, "q" \\ \n\x1f', "ü": "é"}),
        ("Lee", "", {}),
        ("Ann", "", {"ü": "NA"}),
    ]


def test_csv_a_bom_within_the_file_is_part_of_its_value() -> None:
    data = 'name,email,note\n\ufeff"Ann",a@x.org,\n\ufeffBob,b@x.org,'.encode()
    assert rows(data, plan()) == [('"Ann"', "a@x.org", {}), ("Bob", "b@x.org", {})]


def test_csv_records_that_do_not_lie_side_by_side_are_parsed_alike() -> None:
    part = Slice(b"xxAnn,a@x.orgBob,b@x.org,1", np.array([2, 13]), np.array([13, 26]))
    assert csv.parse(part, plan()).name.to_pylist() == ["Ann", "Bob"]


def test_csv_no_records_are_parsed_to_no_rows() -> None:
    nothing = csv.parse(Slice(b"", np.array([], np.int64), np.array([], np.int64)), plan())
    assert len(nothing.name) == len(nothing.email) == len(nothing.attributes) == 0


def test_csv_every_part_of_many_is_numbered_right() -> None:
    lines = [f"N{number},{number}@x.org" + (",1" if number % 7 else "") for number in range(70_000)]
    batch = csv.parse(whole("\n".join(["name,email,note", *lines]).encode(), plan()), plan())
    assert batch.name.to_pylist() == [f"N{number}" for number in range(70_000)]
    assert batch.attributes.to_pylist() == ['{"note":"1"}' if number % 7 else "{}" for number in range(70_000)]


@pytest.mark.parametrize("size", [MIB, 3 * MIB, 64 * MIB])
def test_csv_a_record_that_is_too_long_is_cut(size: int) -> None:
    most = b"Bob,b@x.org," + b"x" * (RECORD_BYTES_MAX - 12)
    long = [most + b"x", b'"' + b"z" * 9 * MIB, b"y" * 6 * MIB]
    data = b"\r\n".join([b"name,email,note", most, *long, b"Cat,c@x.org,", long[2]])
    assert scanned(data, plan(), size) == [
        (most, None),
        *((each[: csv_scan.KEPT_BYTES], "record_too_long") for each in long),
        (b"Cat,c@x.org,", None),
        (long[2][: csv_scan.KEPT_BYTES], "record_too_long"),
    ]


def test_csv_memory_is_bounded_by_the_longest_record() -> None:
    def blocks() -> Iterator[bytes]:
        yield b"name,email,note\n"
        yield from (b"x" * MIB for _ in range(100))
        yield b"\nAnn,a@x.org,"

    tracemalloc.start()
    try:
        found = sum(len(part) for part in csv.scan(blocks(), plan()))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == 2
    assert peak < 40 * MIB


@pytest.mark.parametrize(
    "line",
    [b'x","y', b'a,b,"open', b'"a" b,c,d', b'"""', b'Robert "Bob" Smith,x,y', b'"",a"",""b', b",,x,,", b'"' * 40],
)
def test_csv_time_grows_with_the_file_and_no_faster(line: bytes) -> None:
    def seconds(count: int) -> float:
        data = b"name,email,note\n" + (line + b"\n") * count
        begin = time.process_time()
        scanned(data, plan())
        return time.process_time() - begin

    seconds(100)
    assert seconds(80_000) < 30 * max(seconds(8_000), 0.005)


def test_csv_open_lines_before_a_long_one_take_no_longer() -> None:
    open_line, long_line = b'x","y', b'""' * 250_000 + b'" z'
    begin = time.process_time()
    found = scanned(b"\n".join([b"name,email,note", *[open_line] * 70_000, long_line, b"Ann,,"]), plan())
    assert time.process_time() - begin < 20
    assert found == [*[(open_line, "unclosed_quote")] * 70_000, (long_line, "unclosed_quote"), (b"Ann,,", None)]


def test_csv_cells_of_a_reject_are_as_many_as_the_columns() -> None:
    assert csv.cells(b'Ann,"a ""b"""', plan()) == ["Ann", 'a "b"', ""]
    assert csv.cells(b"Ann,a,1,2,3", plan()) == ["Ann", "a", "1\ufffd,2\ufffd,3"]
    assert csv.cells(b'"Ann,a@x.org,\xff', plan()) == ['\ufffd"Ann', "a@x.org", "\ufffdff"]
    assert csv.cells(b'"Ann" B,a@x.org,', plan()) == ['\ufffd"Ann\ufffd" B', "a@x.org", ""]
    assert csv.cells(b"", plan()) == ["", "", ""]


@settings(deadline=None)
@given(st.binary())
def test_csv_cells_never_raises(raw: bytes) -> None:
    assert len(csv.cells(raw, plan())) == 3


# Wide files.


def wide(columns: int, *lines: str) -> tuple[bytes, Plan]:
    header = ("name", "email", *(f"c{number}" for number in range(columns - 2)))
    return "\n".join([",".join(header), *lines]).encode() + b"\n", plan(*header)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.lists(st.sampled_from(["", "a", '"b,c"', " ", "\0", '="01"', ' "d" ']), max_size=90), max_size=60),
    st.sampled_from([0, 1, 1000]),
)
def test_csv_parse_of_a_wide_file_gives_what_narrow_ones_give(table: list[list[str]], few: int) -> None:
    data, written = wide(70, *(",".join(["x", *row]) for row in table))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_values, "WIDE_COLUMNS", 1000)
        expected = rows(data, written) if table else []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_values, "FEW_ROWS", few)
        patch.setattr(csv_values, "CELLS_MAX", 200)
        assert (rows(data, written) if table else []) == expected


def test_csv_parse_of_short_rows_costs_no_more_than_their_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 columns, and rows of two values: 280 KB that once took 1.8 GB."""
    data, written = wide(10_000, *["A,a1@x.co"] * 16_000, "A,a2@x.co" + ",v" * 9_998)
    cells = []
    read = csv_values._read

    def counted(part: Slice, rows: dict[int, bytes], delimiter: bytes, width: int) -> Any:
        cells.append(len(part) * width)
        return read(part, rows, delimiter, width)

    monkeypatch.setattr(csv_values, "_read", counted)
    found = csv.parse(whole(data, written), written)
    assert sum(cells) <= 2 * len(data)
    assert max(cells) <= csv_values.CELLS_MAX
    assert found.attributes.to_pylist()[:16_000] == ["{}"] * 16_000
    assert len(json.loads(str(found.attributes[16_000]))) == 9_998


def test_csv_scan_counts_long_headings_for_every_record_that_repeats_them() -> None:
    header = ("name", "email", "h" * 5_000, "i" * 7_000)
    data = (",".join(header) + "\nAnn,a@x.org\nBob,b@x.org,1\nCat,c@x.org,1,2\n").encode()
    (part,) = csv.scan([data], plan(*header))
    assert part.weights is not None
    assert part.weights.tolist() == [11 + 9, 13 + 5_009, 15 + 12_009]
    assert whole(b"name,email,note\nAnn,,", plan()).weights is None


# The corpora.


def dialect(data: bytes) -> Plan:
    found = csv_dialect(data[:MIB])
    mapping = Mapping(found.header[0], (found.header[0],))
    plan = Plan("csv", "none", tuple(found.header), mapping, found.delimiter, found.skip)
    return replace(plan, quoting=found.quoting, line_end=found.line_end)


def test_csv_spectrum_reads_as_its_json_says(corpora: Path) -> None:
    folder = corpora / "csv-spectrum"
    for line in (folder / "expectations.jsonl").read_text().splitlines():
        case = json.loads(line)
        if case["file"].endswith("location_coordinates.csv"):
            continue  # its JSON is of another file
        data = (folder / case["file"]).read_bytes()
        if "_crlf" in case["file"]:
            data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")  # git took the CRs out
        found = dialect(data)
        assert found.delimiter == case["delimiter"]
        assert [dict(zip(found.header, row, strict=True)) for row in read(data, found)] == case["rows"], case["file"]


@pytest.mark.parametrize(
    ("file", "records", "faults"),
    [
        ("csv_2mb_field.csv", 2, {}),
        ("csv_bom_quoted_header.csv", 1, {}),
        ("csv_cp1252.csv", 1, {0: "invalid_utf8"}),
        ("csv_cr_only.csv", 2, {}),
        ("csv_excel_text_formula.csv", 1, {}),
        ("csv_lone_quote_mid.csv", 2, {}),
        ("csv_mixed_newlines.csv", 3, {}),
        ("csv_newline_in_quotes.csv", 2, {}),
        ("csv_nul.csv", 2, {}),
        ("csv_proto_headers.csv", 1, {}),
        ("csv_ragged.csv", 3, {1: "too_many_fields"}),
        ("csv_sep_line.csv", 1, {}),
        ("csv_sql_headers.csv", 1, {}),
        ("csv_unclosed_quote_row2.csv", 1001, {0: "unclosed_quote"}),
        ("csv_utf8_one_bad_byte_row900.csv", 1000, {900: "invalid_utf8"}),
    ],
)
def test_csv_hostile_files_lose_no_line(corpora: Path, file: str, records: int, faults: dict[int, str]) -> None:
    data = (corpora / "hostile" / file).read_bytes()
    found = dialect(data)
    batch = csv.parse(whole(data, found), found)
    assert len(batch.name) == records
    assert {index: fault.code for index, fault in batch.faults.items()} == faults
