"""How a JSON file is laid out is told by its values: white space, line ends and a bad first line change nothing."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rollcall.errors import InvalidJson, NoEmailColumn, NoRecords, Unreadable
from rollcall.records import inspect, parts

PEOPLE = [{"name": f"Ann {n}", "email": f"ann{n}@example.com"} for n in range(3)]
ADDRESSES = [person["email"] for person in PEOPLE]
ANN, BOB, CY = (json.dumps(person) for person in PEOPLE)
FILES = Path(__file__).parents[1] / "corpora" / "people"


def read(data: str | bytes, **given: Any) -> tuple[list[str], list[tuple[int, str]]]:
    """The addresses, and number and code of each Reject."""
    stream = io.BytesIO(data if isinstance(data, bytes) else data.encode())
    plan = inspect(stream, **given)
    stream.seek(0)
    emails: list[str] = []
    codes: list[tuple[int, str]] = []
    for part in parts(stream, plan):
        emails += map(str, part.contacts["email"].to_pylist())
        codes += [(row["record"], row["code"]) for row in part.rejects.to_pylist()]
    return emails, codes


VALUES: dict[str, Any] = {
    "an array": PEOPLE,
    "data": {"data": PEOPLE},
    "the whole envelope": {"source": "crm", "data": PEOPLE, "useResumable": False},
    "another key": {"contacts": PEOPLE},
    "another key among others": {"next": None, "count": 3, "links": ["a", "b"], "results": PEOPLE},
    "data beside another array": {"errors": [{"code": 1}], "data": PEOPLE},
    "one array of contacts among arrays of objects": {"errors": [{"code": 1}], "people": PEOPLE, "tags": [{}]},
}
WRITTEN: dict[str, dict[str, Any]] = {
    "compact": {"separators": (",", ":")},
    "spaced": {},
    "pretty": {"indent": 2},
    "tabs": {"indent": "\t", "separators": (" ,", " : ")},
}


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("given", [None, "json"])
def test_layout_detect_finds_the_records_however_they_are_written(value: str, written: str, given: str | None) -> None:
    text = json.dumps(VALUES[value], **WRITTEN[written])

    assert read(text, format=given) == (ADDRESSES, [])
    assert read("\ufeff\r\n " + text.replace("\n", "\r\n") + "\r\n", format=given) == (ADDRESSES, [])


@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("between", ["", " ", "\n", "\r\n\r\n"])
@pytest.mark.parametrize("given", [None, "json"])
def test_layout_detect_takes_each_of_several_objects_for_a_record(
    written: str, between: str, given: str | None
) -> None:
    people = [person | {"data": [{"x": 1}]} for person in PEOPLE]
    texts = [json.dumps(person, **WRITTEN[written]) for person in people]

    assert read(between.join(texts), format=given) == (ADDRESSES, [])
    assert read(between.join(texts[:2]) + between + between.join(texts[2:]) + "\n", format=given) == (ADDRESSES, [])
    assert read(texts[0], format=given) == (ADDRESSES[:1], [])
    assert read(texts[0] + texts[1] + "\n" + texts[2], format=given) == (ADDRESSES, [])


@pytest.mark.parametrize(
    "extra", [{"data": {"x": 1}}, {"data": [1, 2]}, {"data": []}, {"data": [{"x": 1}]}, {"tags": [{"a": 1}, {"b": 2}]}]
)
@pytest.mark.parametrize("written", WRITTEN)
def test_layout_detect_takes_one_object_with_an_address_for_a_contact(extra: dict[str, Any], written: str) -> None:
    for person in (PEOPLE[0] | extra, extra | PEOPLE[0]):
        assert read(json.dumps(person, **WRITTEN[written])) == (ADDRESSES[:1], [])


BAD_LINES = {
    "a bad byte": (ANN.encode().replace(b"Ann", b"An\xff"), "invalid_utf8"),
    "half a character": (ANN.replace("Ann", "\\ud800").encode(), "lone_surrogate"),
    "cut": (ANN[:-10].encode(), "invalid_json"),
    "cut at its beginning": (ANN[10:].encode(), "invalid_json"),
    "an array": (b"[" + ANN.encode(), "invalid_json"),
    "a word": (b"contacts", "invalid_json"),
    "a number": (b"17", "invalid_type"),
    "an open quote": (b'{"name":"Ann', "invalid_json"),
    "a comma behind": (ANN.encode() + b",", "invalid_json"),
    "deep": (b'{"x":' + b"[" * 2_000, "invalid_json"),
    "a long name": (json.dumps({"name": "x" * (2 << 20), "email": "a@x.org"}).encode(), "name_too_long"),
    "longer than a record may be": (json.dumps({"name": "x" * (6 << 20)}).encode(), "record_too_long"),
}


@pytest.mark.parametrize("what", BAD_LINES)
@pytest.mark.parametrize("given", [None, "ndjson"])
def test_layout_detect_is_not_misled_by_a_first_line_that_is_bad(what: str, given: str | None) -> None:
    line, code = BAD_LINES[what]

    assert read(b"\n".join([line, BOB.encode(), CY.encode()]), format=given) == (ADDRESSES[1:], [(1, code)])


@pytest.mark.parametrize("bad", ["{", "}", "x", "[1", '{"name":"Ann"', ANN[5:]])
def test_layout_detect_takes_lines_for_lines_though_most_are_bad(bad: str) -> None:
    assert read("\n".join([ANN, *[bad] * 60, BOB])) == (ADDRESSES[:2], [(n, "invalid_json") for n in range(2, 62)])


def test_layout_detect_takes_a_compact_object_before_pretty_ones_for_a_record() -> None:
    pretty = [json.dumps(person, indent=1) for person in PEOPLE]

    assert read("\n".join([ANN, *pretty[1:]])) == (ADDRESSES, [])
    assert read("\n".join([ANN, *pretty[1:] * 30])) == (ADDRESSES[:1] + ADDRESSES[1:] * 30, [])


@pytest.mark.parametrize("line", [f'{{"x":1e400,{ANN[1:]}', f'{{"x":"{"y" * (2 << 20)}",{ANN[1:]}'])
def test_layout_detect_takes_a_first_line_that_is_odd_but_good(line: str) -> None:
    assert read("\n".join([line, BOB, CY])) == (ADDRESSES, [])
    assert read(line) == (ADDRESSES[:1], [])


@pytest.mark.parametrize("text", ["[\n%s\n]", '{"data":[\n%s\n]}', "[\n\n%s\n,\n%s\n,%s]", '{"rows":[%s\n,\n%s\n]\n}'])
def test_layout_detect_does_not_take_the_elements_of_an_array_for_lines(text: str) -> None:
    count = text.count("%s")

    assert read(text % (ANN, BOB, CY)[:count]) == (ADDRESSES[:count], [])


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ('["ann@example.com"]', NoEmailColumn, "object"),
        ("[1, 2]", NoEmailColumn, "object"),
        ('{"rows":["ann@example.com"]}', NoEmailColumn, "object"),
        ('{"contacts":[]}', NoRecords, "empty"),
        ('{"a":[{"x":1}],"b":[{"x":1}]}', NoRecords, r'several arrays \("a", "b"\)'),
        (f"[{ANN},{BOB},]", InvalidJson, "comma"),
        (f"[{ANN},{BOB} , \n ] ", InvalidJson, "comma"),
        (f"{ANN},\n{BOB},\n{CY}\n", InvalidJson, "comma"),
        (f"{ANN}{BOB}]", InvalidJson, "bracket"),
        (f"{ANN}{BOB}{CY[:-5]}", InvalidJson, "within record 3"),
        (f'{{"data":[{ANN}]}} x', InvalidJson, "more text follows"),
    ],
)
def test_layout_that_cannot_be_read_is_said(text: str, error: type[Unreadable], says: str) -> None:
    with pytest.raises(error, match=says):
        read(text)


@pytest.mark.parametrize("key", ["data", "contacts"])
def test_layout_detect_needs_no_more_of_a_large_file_than_its_beginning(key: str) -> None:
    people = [{"name": "Ann", "email": f"ann{n}@example.com"} for n in range(40_000)]
    for text in (
        json.dumps({"meta": 1, key: people}),
        "\n".join(map(json.dumps, people)),
        "".join(map(json.dumps, people)),
    ):
        emails, rejects = read(text)
        assert (len(emails), rejects) == (40_000, [])


EXPECTED: dict[str, tuple[int, list[tuple[int, str]]] | str] = {
    "58-json-compact-wrapper.json": (2, []),
    "58b-json-pretty-wrapper.json": (1, []),
    "58c-json-one-object-pretty.json": (1, []),
    "58e-ndjson-data-key.ndjson": (1, []),
    "59-ndjson-first-line-broken.ndjson": (2, [(1, "invalid_json")]),
    "60-json-types.json": (0, [(1, "required"), (2, "invalid_type")]),
    "61b-json-strings.json": "object",
    "62-json-mixed-keys.json": (2, []),
    "63-json-trailing-comma.json": "comma",
}


@pytest.mark.parametrize("file", EXPECTED)
def test_layout_files_of_people_are_read(file: str) -> None:
    expected = EXPECTED[file]
    data = (FILES / file).read_bytes()

    if isinstance(expected, str):
        with pytest.raises(Unreadable, match=expected):
            read(data)
    else:
        emails, rejects = read(data)
        assert (len(emails), rejects) == expected
