"""JSON files: the verdict and the Records are those of a reader that takes the file as a whole, however it is split."""

from __future__ import annotations

import json as reference
import re
import tracemalloc
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollcall.errors import InvalidJson, NoRecords, TooDeep, UnknownFormat, Unreadable
from rollcall.records.formats import json, json_objects, spans
from rollcall.records.formats.reader import RECORD_BYTES_MAX, RecordError
from rollcall.records.formats.spans import STRING, mask_escapes
from rollcall.records.plan import Mapping, Plan

PLAN = Plan("json", "none", ("name", "email", "score", "tags"), Mapping("email", ("name",)))
GOOD = b'{"name":"Ann","email":"ann@example.com"}'


def split(text: bytes, at: Iterable[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return (text[begin:end] for begin, end in pairwise(bounds))


def scanned(blocks: Iterable[bytes]) -> tuple[list[bytes], dict[int, RecordError]]:
    raws: list[bytes] = []
    faults: dict[int, RecordError] = {}
    for piece in json.scan(blocks, PLAN):
        faults |= {len(raws) + index: fault for index, fault in piece.faults.items()}
        raws += [piece.raw(index) for index in range(len(piece))]
    return raws, faults


def loaded(text: bytes, plan: Plan = PLAN) -> tuple[list[tuple[str | None, str | None, str]], dict[int, RecordError]]:
    """Scan and parse: name, email and attributes of every Record, and the RecordErrors."""
    rows: list[tuple[str | None, str | None, str]] = []
    faults: dict[int, RecordError] = {}
    for piece in json.scan([text], plan):
        batch = json.parse(piece, plan)
        faults |= {len(rows) + index: fault for index, fault in batch.faults.items()}
        assert len(batch.attributes) == len(piece)
        rows += zip(batch.name.to_pylist(), batch.email.to_pylist(), map(str, batch.attributes), strict=True)
    return rows, faults


def one(record: str | bytes, plan: Plan = PLAN) -> Any:
    """The one Record of a file, or its RecordError."""
    (row,), faults = loaded(b"[" + (record if isinstance(record, bytes) else record.encode()) + b"]", plan)
    return faults.get(0, row)


class Object(list[Any]):
    """The members of a JSON object, with those that stand twice."""


def plainly(text: bytes) -> Any:
    """A value, as Python's own reader sees it. Raises ValueError for what is no JSON."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    return reference.loads(text.decode(errors="replace"), object_pairs_hook=Object, parse_constant=refuse)


def expected(text: bytes) -> list[Any] | None:
    """The Records of a file, read slowly and as a whole; None if it must be refused."""
    try:
        whole = plainly(text.removeprefix(b"\xef\xbb\xbf"))
    except ValueError:
        return None
    if isinstance(whole, Object):
        data = [value for key, value in whole if key == "data"]
        whole = data[0] if len(data) == 1 else None
    return whole if isinstance(whole, list) and not isinstance(whole, Object) else None


BLANK = st.text(" \n\t\r", max_size=3)
WORDS = ["0", "-1", "1.50", "1e400", "true", "false", "null"]
STRINGS = ["", "a,b", "[", "}{", "é", r"\"", r"\\", r"\\\"]", r"\ud83d\ude00", r"\ud83d"]
SCALAR = st.sampled_from(WORDS) | st.sampled_from(STRINGS).map('"{}"'.format)


def nested(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    array = st.lists(st.tuples(BLANK, inner, BLANK).map("".join), max_size=4).map(lambda all_: f"[{','.join(all_)}]")
    member = st.tuples(BLANK, st.sampled_from(['"name"', '"email"', '"data"', '"d\\u0061ta"', '"x\\\\"']), inner)
    record = st.lists(member, max_size=4).map(
        lambda all_: f"{{{','.join(f'{b}{k}{b}:{b}{v}{b}' for b, k, v in all_)}}}"
    )
    return array | record


VALUE = st.recursive(SCALAR, nested, max_leaves=12)
FILE = st.tuples(st.sampled_from(["", "\ufeff"]), BLANK, nested(VALUE), BLANK).map("".join).map(str.encode)
ENVELOPE = st.tuples(BLANK, nested(VALUE), BLANK, VALUE).map(
    lambda p: f'{p[0]}{{"x":{p[3]},"data":{p[1]}{p[2]}}}'.encode()
)
SPLIT = st.lists(st.integers(0, 1 << 16), max_size=8)
BYTE = st.sampled_from([bytes([byte]) for byte in b'"\\[]{},: \n1a\xff\x00'])


def same_verdict(text: bytes, at: list[int]) -> None:
    records = expected(text)
    try:
        raws, _ = scanned(split(text, at))
        loaded(text)
    except Unreadable:
        assert records is None
    else:
        assert records is not None
        assert [plainly(raw) for raw in raws] == records
        assert [raw.strip(b" \t\r\n") for raw in raws] == raws


@settings(deadline=None)
@given(FILE | ENVELOPE, SPLIT)
@example(b'{"a":"\\\\","data":[1,"\\\\\\"",2]}', list(range(40)))
@example(b"\xef\xbb\xbf[1]", [1, 2, 3])
def test_json_valid_files_are_read_like_by_a_reader_of_the_whole(text: bytes, at: list[int]) -> None:
    same_verdict(text, at)


@settings(deadline=None)
@given(FILE | ENVELOPE, st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 2), BYTE), max_size=2), SPLIT)
def test_json_broken_files_are_refused_like_by_a_reader_of_the_whole(
    text: bytes, edits: list[tuple[int, int, bytes]], at: list[int]
) -> None:
    for place, gone, byte in edits:
        place %= len(text) + 1
        text = text[:place] + (b"" if gone == 2 else byte) + text[place + min(gone, 1) :]
    same_verdict(text, at)


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), max_size=6), SPLIT)
def test_json_long_records_are_faults_however_the_file_is_split(lengths: list[int], at: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "RECORD_BYTES_MAX", 30)
        patch.setattr(spans, "KEPT_BYTES", 20)
        records = [b'"' + b" x"[length % 2 :][:1] * length + b'"' for length in lengths]
        text = b"[" + b" , ".join(record + b" " * (len(record) * 7 % 50) for record in records) + b"]"
        raws, faults = scanned(split(text, at))
        assert faults == {i: RecordError("record_too_long") for i, record in enumerate(records) if len(record) > 30}
        assert raws == [record[:20] if len(record) > 30 else record for record in records]


@pytest.mark.parametrize("size", [64 << 10, 1 << 20, 9 << 20])
def test_json_a_record_of_any_length_takes_bounded_memory(size: int) -> None:
    long, most = b'"' + b"x" * (20 << 20) + b'"', b'"' + b"x" * (RECORD_BYTES_MAX - 2) + b'"'
    text = b'{"note":' + long + b',"data":[' + b",".join([GOOD, long, most, GOOD]) + b"]}"
    tracemalloc.start()
    try:
        raws, faults = scanned(text[begin : begin + size] for begin in range(0, len(text), size))
        assert tracemalloc.get_traced_memory()[1] < 6 * RECORD_BYTES_MAX + 3 * size
    finally:
        tracemalloc.stop()
    assert faults == {1: RecordError("record_too_long")}
    assert raws == [GOOD, long[: 64 << 10], most, GOOD]


def test_json_the_data_may_stand_anywhere_in_the_envelope() -> None:
    for text in (
        b'{"data":[%s]}',
        b'{"source":"crm","data":[%s],"useResumable":false}',
        b'{"meta":{"data":[1,{"data":[2]}]},"list":[[3],[4]] , "d\\u0061ta" : [%s] }',
    ):
        assert scanned([text.replace(b"%s", GOOD + b" ,\n" + GOOD)])[0] == [GOOD, GOOD]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        (b"", NoRecords, "blank"),
        (b" \n", NoRecords, "blank"),
        (b'"x"', UnknownFormat, "array"),
        (b'{"rows":[1]}', NoRecords, '"data"'),
        (b'{"data":{"a":[1]}}', InvalidJson, "not an array"),
        (b'{"data":1,"data":[1]}', InvalidJson, "not an array"),
        (b'{"data":[1],"data":[1]}', InvalidJson, "two members"),
        (b'{"data":[1],"x":}', InvalidJson, "before byte 16"),
        (b'{"data":[1],}', InvalidJson, "before byte 12"),
        (b'{"x":1,,"data":[1]}', InvalidJson, "before byte 7"),
        (b'{"x":nul,"data":[1]}', InvalidJson, "before byte 8"),
        (b'{"data":[1]', InvalidJson, "ends before its outer object"),
        (b'{"data":[1]]', InvalidJson, "wrong bracket at byte 11"),
        (b"[1,2", InvalidJson, "within record 2"),
        (b'[1,"2', InvalidJson, "within record 2"),
        (b"[1,,2]", InvalidJson, "Record 2 is missing: nothing stands before byte 3"),
        (b"\xef\xbb\xbf[1, ]", InvalidJson, "Record 2 is missing: nothing stands before byte 7"),
        (b"[,]", InvalidJson, "Record 1 is missing"),
        (b"[1}", InvalidJson, "brace at byte 2"),
        (b"[1] x", InvalidJson, "follows at byte 4"),
        (b"[1]\n[2]", InvalidJson, "follows at byte 4"),
        (b"[" * 100_000 + b"]" * 100_000, TooDeep, "at byte 1000"),
        (b"[" * 100_000, TooDeep, "at byte 1000"),
    ],
)
def test_json_a_broken_file_is_refused_with_the_place(text: bytes, error: type[Unreadable], says: str) -> None:
    for step in (len(text) + 1, 7):
        with pytest.raises(error) as caught:
            scanned(split(text, range(0, min(len(text), 2_000), step)))
        assert says in str(caught.value)


@pytest.mark.parametrize(("opened", "closed"), [("[", "]"), ('{"a":', "}"), ('[{"a":[', "]}]")])
def test_json_what_is_nested_too_deep_is_rejected_alone(opened: str, closed: str) -> None:
    step = opened.count("[") + opened.count("{")

    def deep(levels: int) -> str:
        many = (levels - 1) // step
        return f'{{"name":"Ann","email":"a@b.co","x":{opened * many}1.0{closed * many}}}'

    levels = (json_objects.NESTING_MAX - 1) // step * step + 1
    assert one(deep(levels)) == ("Ann", "a@b.co", "{" + deep(levels).partition('co",')[2])
    for many in (levels + step, 300, 990):
        rows, faults = loaded(f"[{GOOD.decode()},{deep(many)},{GOOD.decode()}]".encode())
        assert faults == {1: RecordError("nested_too_deep")}
        assert rows[0] == rows[2] == ("Ann", "ann@example.com", "{}")
    with pytest.raises(TooDeep):
        loaded(f"[{deep(1_010)}]".encode())


@pytest.mark.parametrize(
    "bad", [b'{"a":1]', b"{'a':1}", b"NaN", b'{"a":1} {"b":2}', b'{"a":01}', b'"\t"', b"\xef\xbb\xbf1"]
)
def test_json_broken_json_in_a_record_names_the_record(bad: bytes) -> None:
    (piece,) = json.scan([b"[" + GOOD + b"," + bad + b"," + bad + b"]"], PLAN)
    with pytest.raises(InvalidJson) as caught:
        json.parse(piece, PLAN)
    assert caught.value.more == {"index": 1}
    with pytest.raises(InvalidJson, match="Record 2"):
        json.keys(b"[" + GOOD + b"," + bad + b"]", True)


def test_json_fields() -> None:
    assert one('{"name":" Ann ","email":"a@b.co"}') == (" Ann ", "a@b.co", "{}")
    assert one('{"name":"Ann","x":"1"}') == ("Ann", None, '{"x":"1"}')
    assert one('{"email":"x","name":"a","email":"y","n":1.0,"n":2.0}') == ("a", "y", '{"n":2.0}')
    assert one('{"\\u006eame":"R\\u00e9","email":"\\"\\u0000"}') == ("Ré", '"\0', "{}")


def test_json_a_name_of_several_keys() -> None:
    plan = Plan("json", "none", (), Mapping("email", ("first", "last")))
    assert one('{"first":" Ann ","last":"Lee","email":"e"}', plan) == ("Ann Lee", "e", "{}")
    assert one('{"last":"Lee","first":"\\u00a0","email":"e"}', plan) == ("Lee", "e", "{}")
    assert one('{"first":"Ann","last":null,"email":"e"}', plan) == ("Ann", "e", "{}")
    assert one('{"email":"e"}', plan) == (None, "e", "{}")
    assert one('{"first":"Ann","last":1.50,"email":"e"}', plan) == RecordError("invalid_type", "name", "1.50")


def test_json_one_key_for_both_fields() -> None:
    plan = Plan("json", "none", (), Mapping("email", ("email",)))
    assert one('{"email":"a@b.co","x":1}', plan) == ("a@b.co", "a@b.co", '{"x":1}')


@pytest.mark.parametrize("value", ["1", "1.50", "true", "[]", '{ "a" : 1.0 }', "1e400", "9" * 5_000])
def test_json_a_field_that_is_no_string_is_a_fault(value: str) -> None:
    assert one(f'{{"name":"Ann","email":{value}}}') == RecordError("invalid_type", "email", value[:200])
    assert one(f'{{"name":{value},"email":"a@b.co"}}') == RecordError("invalid_type", "name", value[:200])


@pytest.mark.parametrize(
    "record", ["1", "1e400", '"x"', "null", "[]", '["é", {"name":"Ann"}]', "[" + "1," * 500 + "1]"]
)
def test_json_a_record_that_is_no_object_is_a_fault(record: str) -> None:
    assert one(record) == RecordError("invalid_type", None, record[:200])


def test_json_attributes_are_kept_as_they_are_written_without_blanks() -> None:
    kept = (
        '"a":"x","zero":0,"off":false,"price":1.50,"long":12345678901234567890.123,"big":1e400,'
        '"int":123456789012345678901234567890,"list":[1.0, {"b":[ ]}],"o":{"n":null,"s":"\\"}]","e":1E+2},'
        '"é\\"":"y"'
    )
    blank = '"b1":null,"b2":"","b3":" \\t\\u00a0\\u200b\\ufeff",'
    row = one('{"name":"Ann","email":"e", ' + blank + kept + "}")
    assert row[2] == "{" + kept + "}"
    assert one('{"name":"Ann","email":"e","x":" \\u00a0a b\\n"}')[2] == '{"x":"a b"}'


def test_json_what_postgres_cannot_hold_is_a_fault() -> None:
    def other(value: str) -> Any:
        found = one(f'{{"name":"Ann","email":"e","ok":"\\\\\\\\u0000","x":{value}}}')
        return found if isinstance(found, RecordError) else None

    for text in ('"a\\u0000"', '["\\u0000"]', '{"\\u0000":1}', '{"a":[{"b":"\\\\\\u0000"}]}'):
        found = other(text)
        assert found is not None
        assert (found.code, found.field) == ("nul_character", "x")
        assert "\0" not in found.value
    assert other('["\\\\u0000"]') is None
    assert one('{"name":"Ann","email":"e","\\u0000":1}') == RecordError("nul_character")

    for text in (
        "1e131072",
        "-1e999999999999999999",
        "1e-16384",
        '[1, {"a":2e200000}]',
        "9" * 131_073,
        "0." + "1" * 16_384,
    ):
        assert other(text) == RecordError("number_out_of_range", "x", text[:200])
    many = ",".join(f'"x{index}":1e131071' for index in range(9))
    assert one('{"name":"Ann","email":"e",' + many + "}") == RecordError("number_out_of_range")
    assert other("[" + ",".join(["1e131071"] * 9) + "]") is not None
    for text in (
        "1e131071",
        "[" + ",".join(["1e131071"] * 8) + "]",
        "[" + ",".join(["1.5"] * 20_000) + "]",
        "1e-16383",
        "9" * 131_072,
        "0." + "1" * 16_383,
        '["1e999999"]',
    ):
        assert other(text) is None


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"name":"caf\xe9","email":"e"}', "invalid_utf8"),
        (b'{"name":"\xed\xa0\x80","email":"e"}', "invalid_utf8"),
        (b'{"name":"a","email":"e","x\xff":1}', "invalid_utf8"),
        (b'{"name":"\\ud83d","email":"e"}', "lone_surrogate"),
        (b'{"name":"\\\\\\uDE00\\ud83d","email":"e"}', "lone_surrogate"),
        (b'{"name":"a","email":"e","x":[{"\\ud83d\\ud83d\\ude00":1}]}', "lone_surrogate"),
    ],
)
def test_json_what_is_no_text_is_a_fault_of_its_record_alone(raw: bytes, code: str) -> None:
    rows, faults = loaded(b'{"note":"\xff\\ud800","data":[' + GOOD + b"," + raw + b"," + GOOD + b"]}")
    assert faults == {1: RecordError(code)}
    assert rows[0] == rows[2] == ("Ann", "ann@example.com", "{}")
    assert one(b'{"name":"\\ud83d\\ude00","email":"\\\\ud83d"}') == ("\U0001f600", "\\ud83d", "{}")
    with pytest.raises(InvalidJson):
        loaded(b"[" + raw[:-1] + b",}]")


def test_json_cells_keep_types_and_mark_what_cannot_be_imported() -> None:
    def cells(raw: bytes) -> list[str]:
        return json.cells(raw, PLAN)

    assert json.columns(PLAN) == ("name", "email", "score", "tags", "rollcall_more")
    assert cells(b'{"email":"e","score":1.50,"tags":["a", 1],"x":-1}') == [
        "", "e", "json:1.50", 'json:["a", 1]', '{"x":-1}',
    ]  # fmt: skip
    assert cells(b'{"name":"caf\xe9","email":null,"score":1e400}') == ["caf\ufffde9", "json:null", "json:1e400", "", ""]
    assert cells(b'{"name":"","email":"json:","tags":null,"score":""}') == ['json:""', 'json:"json:"', "", "", ""]
    assert cells(rb'{"name":"\ud800","email":"\u0000","score":"\ufffd"}') == [
        "\ufffdud800", "\ufffd00", "\ufffd\ufffd", "", "",
    ]  # fmt: skip
    for raw in (b"", b"[1", b"1e400", b"\xff", b'{"name":"Ann', b"[" * 5_000, b'"' + b'\\"' * 500_000):
        assert cells(raw) == ["", "", "", "", "\ufffd:" + raw.decode("latin-1").replace("\xff", "\ufffdff")]


def test_json_keys_of_a_beginning() -> None:
    head = b'{"x":[{"no":1}],"data":[{"b":1,"a":{"no":1}},[1],{"c":1e400,"\\u0000":1,"b":2},{"cut":'
    assert json.keys(head, False) == ["b", "a", "c"]
    with pytest.raises(InvalidJson):
        json.keys(head, True)
    with pytest.raises(NoRecords):
        json.keys(b'{"data": [ ]}', True)
    assert json.keys(b'{"data":', False) == []
    assert json.keys(b"[" + b'{"a":1},' * 1_000 + b'{"b":1}]', True) == ["a"]


def test_json_collected_files(corpora: Path) -> None:
    folder = corpora / "jsontestsuite"
    for line in (folder / "expectations.jsonl").read_text().splitlines():
        case = reference.loads(line)
        if "class" not in case:
            continue
        text = (folder / case["file"]).read_bytes()
        wrapped = b'[{"name":"Ann","email":"ann@example.com","x":' + text + b"}]"
        if case["class"] == "y":
            faults = [fault.code for fault in loaded(wrapped)[1].values()]
            assert faults == (["nul_character"] if b"\\u0000" in text.replace(b"\\\\", b"") else []), case["file"]
        for file in (text, wrapped):
            with suppress(UnknownFormat, NoRecords, *([] if case["class"] == "y" else [InvalidJson, TooDeep])):
                rows, found = loaded(file)
                assert case["class"] != "n" or len(found) == len(rows), case["file"]


def test_json_hostile_files(corpora: Path) -> None:
    faults = {
        "json_dup_keys": {},
        "json_nul_in_name": {},
        "json_lone_surrogate": {0: "lone_surrogate"},
        "json_huge_number": {},
        "json_name_2mb": {},
        "json_proto_names": {},
        "json_types": dict.fromkeys({*range(9)} - {3}, "invalid_type"),  # the fourth name is null, which is missing
        "json_utf8_bom": {},
        "json_invalid_utf8": {0: "invalid_utf8"},
    }
    errors = {
        "json_depth_100k": TooDeep,
        "json_depth_100k_unclosed": TooDeep,
        "json_1e400_nan": InvalidJson,
        "json_concatenated": NoRecords,
        "json_utf16le_bom": UnknownFormat,
    }
    files = {path.stem: path.read_bytes() for path in (corpora / "hostile").glob("json_*.json")}
    assert set(files) == set(faults) | set(errors)
    for name, codes in faults.items():
        assert {index: fault.code for index, fault in loaded(files[name])[1].items()} == codes, name
    for name, error in errors.items():
        with pytest.raises(error):
            loaded(files[name])


REFERENCE_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


@given(st.text(alphabet='\\"ab:,{', max_size=30))
def test_json_mask_escapes_leaves_the_quotes_of_strings(value: str) -> None:
    text = orjson.dumps({value: [value, 1, "", value]})
    masked = mask_escapes(text)
    assert len(masked) == len(text)
    assert [found.span() for found in re.finditer(STRING, masked)] == [
        found.span() for found in REFERENCE_STRING.finditer(text)
    ]
