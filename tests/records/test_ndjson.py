"""NDJSON files: one line, one Record or one RecordError, however the file is split."""

from __future__ import annotations

import json as reference
import tracemalloc
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rollcall.records.formats import ndjson, spans
from rollcall.records.formats.reader import RECORD_BYTES_MAX, RecordError
from rollcall.records.plan import Mapping, Plan

PLAN = Plan("ndjson", "none", ("name", "email"), Mapping("email", ("name",)))
GOOD = b'{"name":"Ann","email":"ann@example.com"}'


def split(text: bytes, at: Iterable[int]) -> Iterator[bytes]:
    bounds = [0, *sorted(place % (len(text) + 1) for place in at), len(text)]
    return (text[begin:end] for begin, end in pairwise(bounds))


def scanned(blocks: Iterable[bytes]) -> tuple[list[bytes], dict[int, RecordError]]:
    """The raw Records and all the RecordErrors."""
    raws: list[bytes] = []
    faults: dict[int, RecordError] = {}
    for piece in ndjson.scan(blocks, PLAN):
        batch = ndjson.parse(piece, PLAN)
        assert len(batch.name) == len(batch.email) == len(batch.attributes) == len(piece)
        faults |= {len(raws) + index: fault for index, fault in batch.faults.items()}
        raws += [piece.raw(index) for index in range(len(piece))]
    return raws, faults


LINE = st.sampled_from(
    [GOOD, b"", b" \t", b"{bad json}", b"[1", b"2]", b'{"a":1},{"b":2}', b'"\\', b"\xff", b"{} \r{}"]
)
SPLIT = st.lists(st.integers(0, 1 << 16), max_size=8)


@settings(deadline=None)
@given(st.lists(st.tuples(LINE, st.sampled_from([b"\n", b"\r\n"]))), LINE, st.booleans(), SPLIT)
@example([], GOOD, True, [1, 2, 3])
def test_ndjson_every_line_that_is_not_blank_is_a_record(
    ended: list[tuple[bytes, bytes]], last: bytes, bom: bool, at: list[int]
) -> None:
    text = b"\xef\xbb\xbf" * bom + b"".join(line + newline for line, newline in ended) + last
    lines = [line for line, _ in [*ended, (last, b"")] if line.strip()]
    raws, faults = scanned(split(text, at))
    assert raws == lines
    assert [index not in faults for index in range(len(lines))] == [line == GOOD for line in lines]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), max_size=6), SPLIT)
def test_ndjson_long_lines_are_faults_however_the_file_is_split(lengths: list[int], at: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spans, "RECORD_BYTES_MAX", 30)
        patch.setattr(spans, "KEPT_BYTES", 20)
        lines = [b"1" * length for length in lengths]
        text = b"".join(b" " * (len(line) * 5 % 40) + line + b" " * (len(line) * 7 % 50) + b"\r\n" for line in lines)
        raws, faults = scanned(split(text, at))
        long = {index for index, fault in faults.items() if fault == RecordError("record_too_long")}
        assert long == {index for index, line in enumerate(lines) if len(line) > 30}
        assert raws == [line[:20] if len(line) > 30 else line for line in lines]


@pytest.mark.parametrize("size", [64 << 10, 1 << 20])
def test_ndjson_a_line_of_any_length_takes_bounded_memory(size: int) -> None:
    text = b"\n".join([GOOD, b'{"name":"' + b"x" * (20 << 20) + b'"}', b" " * (5 << 20), GOOD])
    tracemalloc.start()
    try:
        raws, faults = scanned(text[begin : begin + size] for begin in range(0, len(text), size))
        assert tracemalloc.get_traced_memory()[1] < 6 * RECORD_BYTES_MAX + 3 * size
    finally:
        tracemalloc.stop()
    assert faults == {1: RecordError("record_too_long")}
    assert [len(raw) for raw in raws] == [len(GOOD), 64 << 10, len(GOOD)]


def test_ndjson_a_bad_line_says_why_and_where() -> None:
    _, faults = scanned([GOOD + b'\n{"x":1e400,"y":5,"name":"Ann",}\n[1]\n' + b"[" * 5_000 + b"\n" + GOOD])
    assert {index: (fault.code, fault.field) for index, fault in faults.items()} == {
        1: ("invalid_json", None),
        2: ("invalid_type", None),
        3: ("invalid_json", None),
    }
    assert faults[2].value == "[1]"
    assert "character 30" in str(faults[1].value)
    assert "Ann" not in str(faults[1].value)


def test_ndjson_hostile_lines_take_no_longer_than_others() -> None:
    for line in (b'"' + b'\\"' * 1_000_000, b'{"a":' * 500_000, b'"\\ud83d' * 300_000, b"1e" * 1_000_000):
        assert scanned([line])[1].keys() == {0}


def test_ndjson_keys_of_a_beginning() -> None:
    head = b'{"b":1,"a":2}\n\n{bad}\n[1]\n{"c":1.5,"b":0}\n{"d":1}'
    assert ndjson.keys(head, True) == ["b", "a", "c", "d"]
    assert ndjson.keys(head, False) == ["b", "a", "c"]


def test_ndjson_hostile_file(corpora: Path) -> None:
    raws, faults = scanned([(corpora / "hostile" / "ndjson_mixed.ndjson").read_bytes()])
    assert {index: fault.code for index, fault in faults.items()} == {1: "invalid_json", 3: "invalid_type"}
    assert [reference.loads(raw)["email"][:3] for index, raw in enumerate(raws) if index not in faults] == [
        "ann",
        "bob",
        "cat",
    ]


@pytest.mark.parametrize("levels", [100, 1_000, 100_000])
def test_ndjson_a_line_that_is_nested_too_deep_is_rejected_alone(levels: int) -> None:
    deep = b'{"name":"Ann","email":"a@b.co","x":' + b"[" * levels + b"]" * levels + b"}"
    _, faults = scanned([GOOD + b"\n" + deep + b"\n" + deep[:-1] + b"\n" + GOOD])

    assert faults[1] == RecordError("nested_too_deep")
    assert faults[2].code == "invalid_json"
    assert set(faults) == {1, 2}
