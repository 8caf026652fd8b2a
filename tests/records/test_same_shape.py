"""Records that are written alike: whoever reads them together finds what one finds who reads them one by one."""

from __future__ import annotations

import json as reference
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rollcall.errors import Unreadable
from rollcall.records.formats import same_shape
from rollcall.records.formats.reader import Slice
from rollcall.records.parts import FORMATS, cut, join_small
from rollcall.records.plan import FormatName, Mapping, Plan

KEYS = ("name", "email", "phone", "company")
MAPPING = Mapping("email", ("name",))
MAPPINGS = [MAPPING, Mapping("email", ("name", "phone")), Mapping("email", ("email",)), Mapping("x", ("phone", "none"))]

CONTACTS = [
    {
        "name": f"Zoë {n}",
        "email": f"zoe{n}@example.com",
        "phone": f" +49 {n}",
        "company": ['"Löwen" \\', "", "A/S"][n % 3],
    }
    for n in range(1_000)
]
WRITTEN: dict[str, Callable[[object], str]] = {
    "compact": lambda contact: reference.dumps(contact, ensure_ascii=False, separators=(",", ":")),
    "spaced": lambda contact: reference.dumps(contact, ensure_ascii=False),
    "ascii": reference.dumps,
    "pretty": lambda contact: reference.dumps(contact, ensure_ascii=False, indent="\t"),
    "slashes": lambda contact: reference.dumps(contact).replace("/", r"\/"),
}


def read(records: list[bytes], plan: Plan, least: int, size: int, block: int) -> list[object] | str:
    """Of each Record its bytes and its fields or its RecordError; or why the file is refused.

    From `least` Records on they are read together; `size`: Records in a Part, `block`: bytes that come at once.
    """
    text = b"[" + b",\n".join(records) + b"]" if plan.format == "json" else b"\n".join(records)
    blocks = [text[at : at + block] for at in range(0, len(text), block)]
    found: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(same_shape, "ALIKE_MIN", least)
        try:
            parts = cut(FORMATS[plan.format].scan(blocks, plan), size)
            for part in (joined for _, slices in parts for joined in join_small(slices)):
                batch = FORMATS[plan.format].parse(part, plan)
                fields = zip(
                    *(column.to_pylist() for column in (batch.name, batch.email, batch.attributes)), strict=True
                )
                found += [(part.raw(index), batch.faults.get(index, row)) for index, row in enumerate(fields)]
        except Unreadable as error:
            return str(error)
    return found


PLAIN = ["", "Ann", " Ann", "\u00a0\u200b", "Zoë ", "a,b", "}{", "[", "\x7f", "ann@example.com", "ab@x.org", "😀", "'"]
ESCAPES = [r"\"", r"\\", r"\\\"", r"\/", r"\u00e9", r"\ud83d\ude00", r"\u00A0x", r"\t", r"a\n", r"\u001f", r"\\u0000"]
STRANGE = [r"\u0000", r"\ud83d", r"\x", r"\u12", "\t", "\r", "\0", r"\\\u0000", '"', '","y":"', "\\", '":"', '","']
NOT_UTF8 = [b"\xff", b"\xed\xa0\x80", b"caf\xe9"]
OTHERS = [b"1", b"-0", b"1.50", b"1e400", b"true", b"null", b"[]", b'{"a":1.0}', b"nul", b"[", b""]


def quoted(texts: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return texts.map(lambda text: b'"' + text + b'"')


PLAIN_VALUE = quoted(st.sampled_from(PLAIN).map(str.encode))
ESCAPED_VALUE = quoted(st.lists(st.sampled_from(PLAIN + ESCAPES), max_size=3).map("".join).map(str.encode))
STRANGE_VALUE = quoted(st.sampled_from(STRANGE).map(str.encode) | st.sampled_from(NOT_UTF8)) | st.sampled_from(OTHERS)
KEYS_OF_FILES = [
    b'"name"',
    b'"email"',
    b'"phone"',
    b'"x"',
    b'""',
    b'"\\u0065mail"',
    b'"\\u0000"',
    '"é"'.encode(),
    b'"\\""',
]
STYLES = [(b"{", b":", b",", b"}"), (b"{", b": ", b", ", b"}"), (b"{\t", b"\t: ", b" ,\t", b"\t}")]
COMMON = st.permutations(KEYS_OF_FILES[:4])
ODD = st.lists(st.sampled_from(KEYS_OF_FILES), min_size=1, max_size=4)
SCALARS = [b"0", b"-7", b"12", b"1.50", b"-0.5", b"-0.0", b"true", b"false", b"9" * 18, b"0." + b"1" * 17]
STRANGE_SCALARS = [b"-0", b"1e5", b"9" * 19, b"01", b"1.", b"tru", b'"1"', b"1 ", b"-", b'12,"y":3', b"1}", b""]
OTHER = st.tuples(st.integers(0, 3), st.sampled_from([[], [b"null"], SCALARS, SCALARS]))
"""Which value of a shape's Records is no string, and what it may be."""
SHAPE = st.tuples(st.one_of(COMMON, COMMON, ODD), st.sampled_from(STYLES), st.lists(OTHER, max_size=2))
KIND = st.sampled_from(["plain", "plain", "plain", "plain", "escaped", "strange", "edited"])


@st.composite
def files(draw: st.DrawFn) -> list[bytes]:
    """Records of one or two shapes, most of them plain; of the others, each has one thing that may be strange."""
    shapes = draw(st.lists(SHAPE, min_size=1, max_size=2))
    records = []
    for kind in draw(st.lists(KIND, min_size=3, max_size=12)):
        keys, (opened, colon, comma, closed), others = draw(st.sampled_from(shapes))
        values = [draw(ESCAPED_VALUE if kind == "escaped" else PLAIN_VALUE) for _ in keys]
        for place, texts in others:
            if texts and place < len(keys):
                values[place] = draw(st.sampled_from(texts))
        if kind == "strange":
            strange = STRANGE_VALUE | st.sampled_from(STRANGE_SCALARS)
            values[draw(st.integers(0, len(keys) - 1))] = draw(strange)
        record = opened + comma.join(key + colon + value for key, value in zip(keys, values, strict=True)) + closed
        if kind == "edited":
            at, gone = draw(st.integers(0, len(record))), draw(st.sampled_from([0, 1, 1, 1]))
            record = (
                record[:at] + draw(st.sampled_from([b"", *map(bytes, zip(b'"\\{}:,x\t\xff'))])) + record[at + gone :]
            )
        records.append(record)
    return records


@settings(deadline=None, max_examples=400)
@given(
    records=files(),
    format_=st.sampled_from(["ndjson", "ndjson", "json"]),
    mapping=st.sampled_from(MAPPINGS),
    least=st.integers(1, 2),
    size=st.sampled_from([20, 5, 2]),
    block=st.sampled_from([1 << 20, 7]),
)
def test_same_shape_together_as_one_by_one(
    records: list[bytes], format_: FormatName, mapping: Mapping, least: int, size: int, block: int
) -> None:
    plan = Plan(format_, "none", KEYS, mapping)
    assert read(records, plan, least, size, block) == read(records, plan, 1 << 30, size, block)


def grouped(records: list[bytes]) -> list[tuple[list[int], dict[str, list[str | None]], set[str]]]:
    ends = np.cumsum([len(record) + 1 for record in records]) - 1
    part = Slice(b",".join(records), ends - [len(record) for record in records], ends)
    return [
        (rows.tolist(), {key: column.to_pylist() for key, column in columns.items()}, set(shape.scalars))
        for rows, columns, shape in same_shape.read_by_shape(part, lambda _: MAPPING)
    ]


@pytest.mark.parametrize("written", WRITTEN)
def test_same_shape_what_is_alike_is_read_together(written: str) -> None:
    values = {key: [contact[key] for contact in CONTACTS] for key in KEYS}
    assert grouped([WRITTEN[written](contact).encode() for contact in CONTACTS]) == [
        (list(range(1_000)), values, set())
    ]


@pytest.mark.parametrize("written", WRITTEN)
def test_same_shape_plain_numbers_and_booleans_are_read_together(written: str) -> None:
    contacts = [{"id": n} | contact | {"score": n / 8, "vip": n % 3 == 0} for n, contact in enumerate(CONTACTS)]
    [(rows, values, scalars)] = grouped([WRITTEN[written](contact).encode() for contact in contacts])
    assert rows == list(range(1_000))
    assert scalars == {"id", "score", "vip"}
    for key in scalars:
        assert values[key] == [reference.dumps(contact[key]) for contact in contacts]


def test_same_shape_a_strange_number_is_left() -> None:
    strange = {17: "-0", 250: "1e3", 600: "9" * 30, 999: "01"}
    texts = [f'{{"name":"Ann","email":"ann{n}@x.org","age":{strange.get(n, n)}}}' for n in range(1_000)]
    [(rows, _, _)] = grouped([text.encode() for text in texts])
    assert rows == [n for n in range(1_000) if n not in strange]


def test_same_shape_a_number_that_is_missing_is_left() -> None:
    """The texts around it share a blank then."""
    texts = [f'{{"age" : {n} ,"name":"Ann","email":"ann{n}@x.org"}}' for n in range(1_000)]
    texts[300] = texts[300].replace(" 300 ", " ")
    [(rows, _, _)] = grouped([text.encode() for text in texts])
    assert rows == [n for n in range(1_000) if n != 300]


def test_same_shape_every_shape_is_read_together_and_what_is_strange_is_left() -> None:
    def record(n: int) -> bytes:
        others = ['"x":"y"', '"x":null,"y":"z"', '"x":null,"y":1', '"x":"\t"'][n % 2 if n % 10 else n // 10 % 4]
        return f'{{"name":"Ann","email":"ann{n}@example.com",{others}}}'.encode()

    found = grouped([record(n) for n in range(2_000)])
    left = {n for n in range(0, 2_000, 10) if n // 10 % 4 > 1}
    assert [set(columns) for _, columns, _ in found] == [{"name", "email", "x"}, {"name", "email", "y"}]
    assert sorted(row for rows, _, _ in found for row in rows) == [n for n in range(2_000) if n not in left]
