"""Dealing and folding: no Contact lost, none twice, and the same as the merge would do."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.records import shares


def contacts(*rows: tuple[str, str, str]) -> pa.Table:
    """Email, name, attributes of each; numbered from 1."""
    return pa.table(
        {
            "email": pa.array([row[0] for row in rows], pa.string()),
            "name": pa.array([row[1] for row in rows], pa.string()),
            "attributes": pa.array([row[2] for row in rows], pa.string()),
            "record": pa.array(range(1, len(rows) + 1), pa.int64()),
        }
    )


def of(emails: Iterable[str]) -> pa.Table:
    return contacts(*((email, "Ann", "{}") for email in emails))


def deal(table: pa.Table, lanes: int) -> list[pa.Table]:
    return [table.take(rows) for rows in shares.deal(table, lanes)]


def fold(table: pa.Table, keep: Literal["last", "first"] = "last") -> tuple[pa.Table, int]:
    return shares.fold(table, np.arange(table.num_rows), keep)


def realistic(kind: str, count: int = 20_000) -> list[str]:
    chance = random.Random(7)
    first, last = ("ann", "bob", "carla", "dimitri", "eve"), ("lee", "miller", "garcia", "dubois", "ng", "schmidt")
    hosts = ("gmail.com", "outlook.com", "web.de", "orange.fr", "example.com")
    match kind:
        case "counted":
            return [f"user{number}@example.com" for number in range(count)]
        case "padded":
            return [f"user{number:07d}@example.com" for number in range(0, count * 2, 2)]
        case "random":
            return [f"user{chance.randrange(10**9)}@example.com" for _ in range(count)]
        case _:
            return [
                f"{chance.choice(first)}.{chance.choice(last)}{chance.randrange(3000)}@{chance.choice(hosts)}"
                for _ in range(count)
            ]


@pytest.mark.parametrize("kind", ["counted", "padded", "random", "names"])
@pytest.mark.parametrize("lanes", [2, 3, 4, 8])
def test_lanes_get_even_shares(kind: str, lanes: int) -> None:
    emails = realistic(kind)
    dealt = deal(of(emails), lanes)

    assert sum(share.num_rows for share in dealt) == len(emails)
    for share in dealt:
        assert share.num_rows == pytest.approx(len(emails) / lanes, rel=0.1)


def test_the_lane_of_a_key_never_changes() -> None:
    """Fixed by hand: an import that began with one version goes on with the next."""
    dealt = deal(of(["ann@example.com", "bob@example.com", "co@x.org", "d@x.org", "user1@example.com"]), 3)

    assert [share["email"].to_pylist() for share in dealt] == [
        ["ann@example.com", "co@x.org"],
        ["d@x.org"],
        ["bob@example.com", "user1@example.com"],
    ]


def test_a_key_has_one_lane_wherever_it_stands() -> None:
    emails = realistic("names", 500)
    homes = {email: lane for lane, share in enumerate(deal(of(emails), 4)) for email in share["email"].to_pylist()}
    later = deal(of(emails).slice(77), 4)

    assert all(homes[email] == lane for lane, share in enumerate(later) for email in share["email"].to_pylist())


def test_file_order_is_kept_and_one_lane_gets_all() -> None:
    table = of(realistic("random", 1000))

    assert deal(table, 1) == [table]
    assert all(np.all(np.diff(share["record"]) > 0) for share in deal(table, 3))
    assert [share.num_rows for share in deal(table.slice(0, 0), 2)] == [0, 0]


def test_folds_in_file_order() -> None:
    rows, folded = fold(
        contacts(
            ("b@x.org", "Bob", '{"phone":"1","city":"Rom"}'),
            ("a@x.org", "Ann", "{}"),
            ("b@x.org", "Robert", '{"phone":"2"}'),
            ("b@x.org", "Bobby", "{}"),
        )
    )

    assert folded == 2
    assert rows.drop_columns("attributes").to_pydict() == {
        "email": ["a@x.org", "b@x.org"],
        "name": ["Ann", "Bobby"],
        "record": [2, 4],
    }
    assert [json.loads(str(text)) for text in rows["attributes"]] == [{}, {"phone": "2", "city": "Rom"}]


def test_the_first_wins_whole_when_asked() -> None:
    rows, folded = fold(contacts(("b@x.org", "Bob", '{"a":1}'), ("b@x.org", "Robert", '{"b":2}')), keep="first")

    assert folded == 1
    assert rows.to_pylist() == [{"email": "b@x.org", "name": "Bob", "attributes": '{"a":1}', "record": 1}]


def test_no_number_changes_in_a_merge() -> None:
    numbers = '{"a":12345678901234567890123,"b":1e400,"c":1.10,"d":-0,"e":{"f":0.1000000000000000055511151231257827}}'
    rows, _ = fold(contacts(("b@x.org", "Bob", numbers), ("b@x.org", "Bob", '{ "z" : 1 }'), ("b@x.org", "Bob", "{ }")))

    assert rows["attributes"][0].as_py() == numbers[:-1] + ',"z" : 1}'


def test_sorts_by_bytes() -> None:
    emails = ["z@x.org", "a_b@x.org", "a-b@x.org", "ab@x.org", "a+b@x.org", "0@x.org"]

    assert fold(of(emails))[0]["email"].to_pylist() == sorted(emails)


ROW = st.tuples(
    st.sampled_from(["a@x.org", "b@x.org", "c@x.org", "d@x.org"]),
    st.sampled_from(["Ann", "Bob"]),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3) | st.just("ü,}"), max_size=2),
)


@given(st.lists(ROW, max_size=25), st.sampled_from(["last", "first"]), st.integers(1, 4))
def test_dealt_and_folded_is_what_one_after_the_other_gives(
    rows: list[tuple[str, str, dict[str, Any]]], keep: Any, lanes: int
) -> None:
    expected: dict[str, tuple[str, dict[str, Any], int]] = {}
    for record, (email, name, attributes) in enumerate(rows, 1):
        if email not in expected:
            expected[email] = (name, attributes, record)
        elif keep == "last":
            expected[email] = (name, expected[email][1] | attributes, record)
    table = contacts(*((email, name, json.dumps(attributes)) for email, name, attributes in rows))

    folds = [fold(share, keep) for share in deal(table, lanes)]

    found = {
        row["email"]: (row["name"], json.loads(row["attributes"]), row["record"])
        for share, _ in folds
        for row in share.to_pylist()
    }
    assert found == expected
    assert sum(share.num_rows for share, _ in folds) == len(expected)
    assert sum(folded for _, folded in folds) == len(rows) - len(expected)
