"""The members of a JSON object, found while its bytes pass by: against the json module, in pieces of every size."""

from __future__ import annotations

import json
import random
import time
import tracemalloc
from typing import Any

import pytest

from rollcall.errors import InvalidInput
from rollcall.web import members
from rollcall.web.members import Members


def found(body: bytes, size: int) -> Members:
    found = Members()
    for at in range(0, len(body), size):
        found.feed(body[at : at + size])
    return found


def value(random: random.Random, depth: int) -> Any:
    match random.randrange(9 if depth else 5):
        case 0:
            return random.choice([None, True, False, 0, -1.5e-7, 12345678901234567890])
        case 1 | 2 | 3 | 4:
            return "".join(random.choice('ab"\\\n{}[],:é😀 ') for _ in range(random.randrange(12)))
        case 5 | 6:
            return [value(random, depth - 1) for _ in range(random.randrange(4))]
        case _:
            return {str(value(random, 0)): value(random, depth - 1) for _ in range(random.randrange(4))}


@pytest.mark.parametrize("seed", range(60))
def test_members_are_those_of_the_json_module(seed: int) -> None:
    generator = random.Random(seed)
    pairs = [(str(value(generator, 0)), value(generator, 5)) for _ in range(generator.randrange(1, 8))]
    texts = [f"{json.dumps(name)} :{json.dumps(each, ensure_ascii=seed % 2 == 0)}" for name, each in pairs]
    body = (" {" + " , ".join(texts) + "}\n").encode()
    for size in (len(body), 7, 64):
        seen = found(b"\xef\xbb\xbf" + body, size)
        assert [(member.name, member.loads()) for member in seen.members] == pairs
        assert seen.complete
        cut = found(body[:-2], size)
        assert [member.name for member in cut.members] == [name for name, _ in pairs[:-1]]
        assert not cut.complete


def test_members_of_what_is_no_object() -> None:
    for body in (b"", b"  ", b"[1,2]", b'"a"', b"5", b"{}", b"]"):
        seen = found(body, 1)
        assert [member.name for member in seen.members] == []
        assert seen.opening == body.strip()[:1]


def test_members_are_kept_up_to_a_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "MEMBER_BYTES_MAX", 100)
    body = json.dumps({"a": "x" * 80, "b": "x" * 200, "k" * 200: 1, "data": [{"a": "}"}] * 100, "c": 5}).encode()
    for size in (len(body), 13):
        seen = found(body, size).members
        assert [(member.name, member.value is None) for member in seen] == [
            ("a", False), ("b", True), ("data", True), ("c", False),
        ]  # fmt: skip
    with pytest.raises(InvalidInput):
        found(json.dumps({str(number): 0 for number in range(2000)}).encode(), 1000)


HOSTILE = [
    b'{"data":[' + b"{}," * 700_000, b'{"data":' + b"[" * 2_000_000, b'{"data":[' + b'"[\\"",' * 350_000,
    b'{"data":["' + b"\\" * 2_000_000, b'{"data":["' + b"[" * 2_000_000, b'{"' + b"a" * 2_000_000,
    b'{"data":[' + b'[{},"\\u0041"],' * 150_000, b"{" + b" " * 2_000_000, b'{"a":' + b"]" * 2_000_000,
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE)
def test_members_cost_time_and_memory_by_bytes(body: bytes) -> None:
    tracemalloc.start()
    began = time.process_time()
    found(body, 65_536)
    assert time.process_time() - began < 2
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()
