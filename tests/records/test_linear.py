"""No input costs more than in proportion to its bytes: CPU time of the guess, every reader and the messages."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from rollcall.errors import BadMapping, NoEmailColumn, Unreadable
from rollcall.records import Mapping, inspect, message, parts, sample_emails
from rollcall.records.mapping import SAMPLE_CHARACTERS, SAMPLE_KEYS, check, guess

GOOD = '{"name":"Ann","email":"ann@example.com"'
SIZES = (64 << 10, 256 << 10, 1 << 20)

FIXED, SLACK = 0.4, 3
"""Seconds that any file may take, and the factor by which a busy machine may disturb a measurement.

Four times the bytes may take 4 x SLACK = 12 times the time; what grows with the square takes 16 times."""

ACCENTS = "\u0301\u0323"
"""Two combining marks in the wrong order: to sort n of them, as normalisation does, takes n * n steps."""


def often(unit: str, size: int) -> str:
    return unit * (size // len(unit.encode()))


def record(members: str) -> str:
    return f"[{GOOD}}},{GOOD},{members}}}]"


def records(unit: str, size: int) -> str:
    """A good Record, then one that all the others are like."""
    return f"[{GOOD}}}{often(',' + unit, size)}]"


WORST: dict[str, Callable[[int], str]] = {
    "a heading": lambda size: "a" * size + "\n1\n",
    "a heading of half addresses": lambda size: often("a@", size) + "\n1\n",
    "a heading of accents": lambda size: f"name,email,a{often(ACCENTS, size)[: 1 << 18]}\nAnn,a@x.org,1\n",
    "headings": lambda size: ",".join(["x"] * min(size // 2, 10_001)) + "\n1\n",
    "commas": lambda size: "name,email\n" + "," * size,
    "quotes": lambda size: "name,email\n" + '"' * size,
    "open quotes": lambda size: "name,email\n" + often('"a\n', size),
    "an address": lambda size: f"name,email\nAnn,{often('a.', size)}@x.org\n",
    "half addresses": lambda size: f"name,email\nAnn,{often('a@', size)}\n",
    "a name": lambda size: f"name,email\n{often(ACCENTS, size)},ann@example.com\n",
    "brackets": lambda size: "[" * size,
    "brackets, closed": lambda size: "[" * (size // 2) + "]" * (size // 2),
    "objects in objects": lambda size: often('{"a":', size),
    "objects in an array": lambda size: "[" + often('{"a":', size),
    "brackets after a contact": lambda size: f"[{GOOD}}}," + "[" * size,
    "brackets in a line": lambda size: f"{GOOD}}}\n" + "[" * size,
    "objects in a line": lambda size: f"{GOOD}}}\n" + often('{"a":', size),
    "a key": lambda size: record(f'"{"a" * size}":1'),
    "the only key": lambda size: f'[{{"{"a" * size}":1}}]',
    "a key of accents": lambda size: record(f'"{often(ACCENTS, size)}":1'),
    "a key of escapes": lambda size: record('"{}":1'.format(often("\\u0301\\u0323", size))),
    "keys": lambda size: record(",".join(f'"k{number}":1' for number in range(size // 12))),
    "a key each": lambda size: records("", 0)[:-1] + "".join(f',{{"k{n}":1}}' for n in range(size // 12)) + "]",
    "aliases": lambda size: records('{"E-Mail":1,"Vorname":2}', size),
    "one key, often": lambda size: record(often('"a":1,', size) + '"a":1'),
    "escapes": lambda size: record('"x":"{}"'.format(often('\\"', size))),
    "escapes that do not end": lambda size: record('"x":"{}'.format(often('\\"', size))),
    "escapes in a line": lambda size: GOOD + '}}\n{{"x":"{}'.format(often('\\"', size)),
    "backslashes": lambda size: record('"x":["{}\\u0000"]'.format(often("\\\\", size))),
    "half characters": lambda size: record('"x":"{}"'.format(often("\\ud83d", size))),
    "a long number": lambda size: record('"x":' + "9" * size),
    "long decimals": lambda size: record('"x":0.' + "9" * size),
    "a long exponent": lambda size: record('"x":1e' + "9" * size),
    "exponents": lambda size: record('"x":[' + often("1e99999,", size) + "1]"),
    "empty arrays": lambda size: record('"x":[' + often("[],", size) + "1]"),
    "records that are empty": lambda size: records("{}", size),
    "records that are arrays": lambda size: records("[]", size),
    "lines that are empty objects": lambda size: f"{GOOD}}}\n" + often("{}\n", size),
    "lines that are broken": lambda size: f"{GOOD}}}\n" + often("{\n", size),
    "a wide record among narrow ones": lambda size: (
        records("{" + ",".join(f'"k{number}":1' for number in range(2_000)) + "}", size // 2)[:-1]
        + often(',{"a":1}', size // 2)
        + "]"
    ),
    "blanks": lambda size: f"[{' ' * size}{GOOD}}}{' ' * size}]",
    "lines of blanks": lambda size: f"{GOOD}}}\n" + often(" \n", size),
}


def seconds(data: bytes) -> float:
    """The CPU time of all there is to do with a file; when its columns are not guessed, with given ones."""
    began = time.process_time()
    with suppress(Unreadable):
        try:
            plan = inspect(io.BytesIO(data))
        except Unreadable:
            plan = inspect(io.BytesIO(data), mapping=Mapping("email", ("name",)))
        sample_emails(io.BytesIO(data), plan)
        for part in parts(io.BytesIO(data), plan):
            for reject in part.rejects.slice(0, 100).to_pylist():
                message(reject["code"], reject["field"])
    return time.process_time() - began


@pytest.mark.parametrize("kind", WORST)
def test_linear_reading_takes_time_in_proportion_to_bytes(kind: str) -> None:
    before = None
    for size in SIZES:
        took = seconds(WORST[kind](size).encode())
        assert before is None or took < FIXED + 4 * SLACK * before, f"{size} bytes: {took:.2f} s after {before:.2f} s"
        before = took


@pytest.mark.parametrize("size", SIZES)
def test_linear_errors_that_list_columns_are_short(size: int) -> None:
    header = [*(f"column {number}" for number in range(size // 16)), "x" * size]

    with pytest.raises(BadMapping) as given:
        check(Mapping("email", tuple(f"n{number}" for number in range(size // 16))), header)
    with pytest.raises(NoEmailColumn) as guessed:
        guess(header)

    assert len(str(given.value)) < 2_000
    assert len(str(guessed.value)) < 2_000
    assert f'"n18" and {size // 16 - 19} more' in str(given.value)


def test_linear_a_record_of_too_many_keys_is_rejected_alone() -> None:
    wide = [
        f"{GOOD},{','.join(f'{chr(34)}k{number}{chr(34)}:1' for number in range(count))}}}" for count in (9_998, 9_999)
    ]
    data = f"[{GOOD}}},{wide[0]},{wide[1]},{GOOD}}}]".encode()

    [part] = parts(io.BytesIO(data), inspect(io.BytesIO(data)))

    assert part.contacts["record"].to_pylist() == [1, 2, 4]
    assert [(row["record"], row["code"]) for row in part.rejects.to_pylist()] == [(3, "too_many_keys")]


def test_linear_plan_shows_the_first_keys_and_the_mapped_ones() -> None:
    keys = [*(f"k{number}" for number in range(5_000)), "name", "x" * SAMPLE_CHARACTERS, "email"]
    data = ("[{" + ",".join(f'"{key}":"a@x.org"' for key in keys) + "}]").encode()

    plan = inspect(io.BytesIO(data))

    assert plan.header == (*keys[:SAMPLE_KEYS], "name", "email")
    assert plan.mapping == Mapping("email", ("name",))
