"""Parts: the same Records in the same Parts, however the bytes arrive and wherever an import goes on."""

from __future__ import annotations

import gzip
import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rollcall.errors import EmptyFile, InvalidJson, NoRecords, ReaderChanged
from rollcall.records import Part, Plan, inspect, parts
from rollcall.records.formats.reader import RecordError, Slice
from rollcall.records.parts import RAW_BYTES_MAX, cut, join_small

FILES = Path(__file__).parent.parent / "files"


def sliced(records: list[bytes], at: list[int]) -> Iterator[Slice]:
    """The records as Slices that end at these places; faults tell who is who."""
    bounds = [0, *sorted(at), len(records)]
    for begin, end in pairwise(bounds):
        some = records[begin:end]
        ends = np.cumsum([len(record) + 1 for record in some], dtype=np.int64) - 1
        starts = ends - np.array([len(record) for record in some], np.int64)
        faults = {
            place: RecordError(f"fault {begin + place}") for place in range(len(some)) if (begin + place) % 3 == 0
        }
        yield Slice(b"\n".join(some), starts, ends, faults)


@given(
    st.data(), st.lists(st.binary(max_size=6), max_size=40), st.integers(1, 9), st.integers(1, 20), st.integers(1, 5)
)
def test_parts_the_grid_depends_on_the_records_alone(
    data: st.DataObject, records: list[bytes], most: int, size: int, least: int
) -> None:
    at = data.draw(st.lists(st.integers(0, len(records)), max_size=8))
    expected: list[list[bytes]] = []
    for record in records:
        full = not expected or len(expected[-1]) == most or sum(map(len, expected[-1])) >= size
        expected = [*expected, [record]] if full else [*expected[:-1], [*expected[-1], record]]

    found = list(cut(sliced(records, at), most, size))

    assert [[some.raw(index) for some in slices for index in range(len(some))] for _, slices in found] == expected
    numbers = np.cumsum([1, *(len(part) for part in expected)])[:-1]
    assert [first for first, _ in found] == numbers.tolist()
    for first, slices in found:
        joined = list(join_small(slices, least, 2 * size))
        assert len(joined) == 1 or all(
            sum(map(len, pair)) > least or sum(len(each.data) for each in pair) > 2 * size for pair in pairwise(joined)
        )
        for some in joined:
            assert len(some) <= least or any(some is each for each in slices)
            whole = range(first - 1, first - 1 + len(some))
            assert [some.raw(index) for index in range(len(some))] == [records[number] for number in whole]
            assert some.faults == {n - first + 1: RecordError(f"fault {n}") for n in whole if n % 3 == 0}
            assert (some.starts[0], some.ends[-1]) == (0, len(some.data))
            first += len(some)


@pytest.mark.parametrize("limits", [(3, 100), (100, 4)], ids=["records", "bytes"])
def test_parts_what_is_parsed_together_has_a_limit(limits: tuple[int, int]) -> None:
    slices = list(sliced([b"a"] * 7, [1, 3, 4, 6]))

    assert [len(some) for some in join_small(slices, *limits)] == [3, 3, 1]


def rows(count: int) -> bytes:
    lines = [
        "name,email,note",
        *(f"Ann {n},{'bad' if n % 7 == 0 else f'ann{n}@x.org'},é{n}" for n in range(1, count + 1)),
    ]
    return "\n".join(lines).encode() + b"\n"


def every(data: bytes, plan: Plan | None = None, **more: int) -> list[Part]:
    return list(parts(io.BytesIO(data), plan or inspect(io.BytesIO(data)), **more))


def digest(found: list[Part]) -> list[object]:
    return [(part.first, part.last, part.contacts.to_pylist(), part.rejects.to_pylist()) for part in found]


class Dribble(io.BytesIO):
    """A stream that answers with less than it was asked for, as sockets do."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(min(size, 7) if size and size > 0 else size)


def test_parts_numbers_every_record() -> None:
    found = every(rows(100), part_records=30)

    assert [(part.first, part.last) for part in found] == [(1, 30), (31, 60), (61, 90), (91, 100)]
    for part in found:
        numbers = part.contacts["record"].to_pylist() + part.rejects["record"].to_pylist()
        assert sorted(cast(list[int], numbers)) == list(range(part.first, part.last + 1))
    assert found[1].rejects.slice(0, 1).to_pylist() == [
        {"record": 35, "field": "email", "code": "email_invalid", "value": "bad", "raw": "Ann 35,bad,é35".encode()}
    ]
    assert found[0].contacts.slice(0, 1).to_pylist() == [
        {"email": "ann1@x.org", "name": "Ann 1", "attributes": '{"note":"é1"}', "record": 1}
    ]


def test_parts_is_the_same_however_the_bytes_arrive() -> None:
    data, plan = rows(100), inspect(io.BytesIO(rows(100)))

    assert digest(list(parts(Dribble(data), plan, part_records=30))) == digest(every(data, part_records=30))


@pytest.mark.parametrize("after", [0, 1, 29, 30, 31, 60, 99, 100, 1000])
def test_parts_goes_on_after_any_record(after: int) -> None:
    whole = every(rows(100), part_records=30)

    assert digest(every(rows(100), part_records=30, after=after)) == digest([p for p in whole if p.last > after])


def test_parts_what_is_loaded_is_not_parsed_again() -> None:
    """The first Part cannot be parsed: going on after it does not notice."""
    data = b'[{"name":"Ann","email":"ann@x.org"},{"name":"Bob" "email":1},{"name":"Co","email":"co@x.org"}]'
    plan = inspect(io.BytesIO(b'[{"name":"Ann","email":"ann@x.org"}]'))

    with pytest.raises(InvalidJson, match="Record 2") as raised:
        every(data, plan, part_records=2)
    assert raised.value.more == {"record": 2}
    assert [part.first for part in every(data, plan, part_records=2, after=2)] == [3]


def test_parts_tells_how_far_it_read_in_the_stored_file() -> None:
    notes = random.Random(7).randbytes(2_500_000).hex()
    lines = "".join(f"Ann,ann{n}@x.org,{notes[n * 100 : n * 100 + 100]}\n" for n in range(50_000))
    data = gzip.compress(f"name,email,note\n{lines}".encode(), 1)
    positions = [part.position for part in every(data, part_records=10_000)]

    assert positions == sorted(positions)
    assert positions[0] < positions[-1] == len(data)


def test_part_has_so_many_records() -> None:
    assert [part.last for part in every(rows(40_000))] == [16_000, 32_000, 40_000]


def test_part_ends_with_the_record_that_reaches_its_bytes() -> None:
    line = b"x" * 100_000 + b",ann@x.org\n"
    found = every(b"name,email\n" + line * 100)

    assert [part.last for part in found] == [42, 84, 100]  # 42 * 100,010 bytes is the first sum over 4 MiB


@pytest.mark.parametrize(
    ("before", "record", "after"),
    [
        (b"name,email\n", b"Ann,ann@x.org" + b"\n" * (1 << 19), b""),
        (b"", b'{"name":"Ann","email":"ann@x.org"}\n' + b" " * (1 << 19), b""),
        (b"[", b'{"name":"Ann","email":"ann@x.org"},' + b" " * (1 << 17), b'{"name":"Ann","email":"ann@x.org"}]'),
    ],
)
def test_parts_blanks_between_records_take_no_memory(before: bytes, record: bytes, after: bytes) -> None:
    data = before + record * ((64 << 20) // len(record)) + after
    plan = inspect(io.BytesIO(data))
    tracemalloc.start()
    try:
        (part,) = every(data, plan)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
    assert part.contacts.num_rows == part.last == (64 << 20) // len(record) + bool(after)


def test_parts_the_raw_record_is_bounded() -> None:
    found = every(b"name,email\n" + b"x" * 100_000 + b",ann@x.org\n")

    assert found[0].rejects["raw"][0].as_py() == b"x" * RAW_BYTES_MAX
    assert found[0].rejects["code"][0].as_py() == "name_too_long"


def test_parts_a_file_without_records_is_told() -> None:
    plan = inspect(io.BytesIO(b"name,email\nAnn,ann@x.org\n"))

    with pytest.raises(NoRecords):
        every(b"name,email\n\n\n", plan)
    with pytest.raises(EmptyFile):
        every(b"", plan)


def test_parts_another_reader_goes_on_with_nothing() -> None:
    plan = inspect(io.BytesIO(rows(3)))

    with pytest.raises(ReaderChanged):
        every(rows(3), replace(plan, reader=plan.reader + 1))


CONTACTS = json.loads((FILES / "contacts.json").read_bytes())
UNPACKED = {
    "csv": (FILES / "contacts.csv").read_bytes(),
    "csv, crlf and bom": b"\xef\xbb\xbf" + (FILES / "contacts.csv").read_bytes().replace(b"\n", b"\r\n"),
    "csv, semicolons": (FILES / "contacts.csv").read_bytes().replace(b",", b";"),
    "tsv": (FILES / "contacts.csv").read_bytes().replace(b",", b"\t"),
    "json": (FILES / "contacts.json").read_bytes(),
    "json, compact": json.dumps(CONTACTS, ensure_ascii=False, separators=(",", ":")).encode(),
    "json, ascii": json.dumps(CONTACTS).encode(),
    "data": json.dumps({"data": CONTACTS}, indent=1).encode(),
    "envelope": json.dumps({"source": "crm", "data": CONTACTS, "useResumable": False}).encode(),
    "ndjson": "\n".join(json.dumps(contact) for contact in CONTACTS).encode(),
    "ndjson, blank lines": "\r\n\r\n".join(json.dumps(contact) for contact in CONTACTS).encode(),
}
PACKED: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("written", UNPACKED)
def test_parts_the_same_contacts_give_the_same_parts(written: str, packed: str) -> None:
    """One list, however it is written: our own of 12 contacts, of which five are bad."""
    data = PACKED[packed](UNPACKED[written])
    found = every(data, part_records=5)

    def meant(contact: dict[str, str]) -> dict[str, object]:
        return contact | {"attributes": json.loads(contact["attributes"])}

    contacts = [meant(contact) for part in found for contact in part.contacts.to_pylist()]
    rejects = [(row["record"], row["field"], row["code"]) for part in found for row in part.rejects.to_pylist()]
    assert [(part.first, part.last) for part in found] == [(1, 5), (6, 10), (11, 12)]
    assert rejects == [
        (3, "email", "email_invalid"),
        (5, "name", "name_empty"),
        (6, "email", "email_empty"),
        (9, "name", "name_too_long"),
        (11, "email", "email_invalid"),
    ]
    assert contacts == [
        {
            "email": "ann@example.com",
            "name": "Ann Lee",
            "attributes": {"phone": "+49 170 1", "city": "Köln"},
            "record": 1,
        },
        {"email": "bob@example.com", "name": 'Robert "Bob" Smith', "attributes": {"city": "Paris"}, "record": 2},
        {"email": "jose@example.com", "name": "José Núñez", "attributes": {"phone": "007"}, "record": 4},
        {"email": "li@example.com", "name": "李 小龍", "attributes": {}, "record": 7},
        {"email": "o'hara@example.com", "name": "O'Hara | Söhne", "attributes": {"city": "Genève"}, "record": 8},
        {"email": "ann@example.com", "name": "Ann Lee-Miller", "attributes": {"city": "Bonn"}, "record": 10},
        {"email": "zoe@example.com", "name": "Zoë 😀", "attributes": {"phone": "=1+1"}, "record": 12},
    ]


def test_parts_takes_any_binary_stream(tmp_path: Path) -> None:
    file = tmp_path / "contacts.csv.gz"
    file.write_bytes(gzip.compress(rows(10)))
    with file.open("rb") as stream:
        plan = inspect(cast(BinaryIO, stream))
    with file.open("rb") as stream:
        assert sum(part.contacts.num_rows for part in parts(stream, plan)) == 9
