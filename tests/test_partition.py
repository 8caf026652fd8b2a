"""Dealing and folding: no Contact lost, none twice, and the same as the merge would do."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterable
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.loading import partition
from rollcall.loading.load_plan import LoadPlan
from rollcall.loading.seen import Met
from rollcall.records import inspect, sample_emails


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


def deal(table: pa.Table, loaders: int) -> list[pa.Table]:
    """To loaders that were found by these very addresses; some of them may be empty."""
    begins = partition.divide(map(str, table["email"].to_pylist()), loaders)
    return partition.by_address(begins)(table)


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
@pytest.mark.parametrize("loaders", [2, 3, 4, 8])
def test_partition_loaders_get_even_batches(kind: str, loaders: int) -> None:
    emails = realistic(kind)
    dealt = deal(of(emails), loaders)

    assert sum(share.num_rows for share in dealt) == len(emails)
    for share in dealt:
        assert share.num_rows == pytest.approx(len(emails) / loaders, rel=0.1)


@pytest.mark.parametrize(
    ("emails", "begins"),
    [
        ([], ("",)),
        (["ann@x.org"] * 3, ("",)),
        (["ann@x.org", "bob@x.org"], ("", "b")),
        (["ann@x.org", "ann@x.org.uk"], ("",)),
        (["user1@x.org", "user2@x.org", "user22@x.org"], ("", "user2")),
        (["subscriber.0000001@x.org", "subscriber.0000002@x.org"], ("", "subscriber.00000")),
        (["émile@x.org", "éva@x.org"], ("", "év")),
    ],
)
def test_partition_a_loader_begins_with_as_little_as_parts_two_addresses(
    emails: list[str], begins: tuple[str, ...]
) -> None:
    assert partition.divide(emails, 2) == begins


def test_partition_a_loader_begins_with_a_short_text_if_there_is_one_nearby() -> None:
    emails = [f"{letter}{number:04d}@x.org" for letter in "ab" for number in range(1000)]

    assert partition.divide(emails[:-20], 2) == ("", "b")


def test_partition_a_loader_is_a_stretch_of_the_order_of_addresses() -> None:
    """By bytes, as the index has them; what a loader begins with is its own."""
    emails = ["zoë@x.org", "a@x.org", "n@x.org", "m@x.org", "n", "éva@x.org"]

    assert [share["email"].to_pylist() for share in partition.by_address(("", "n", "éva@x.org"))(of(emails))] == [
        ["a@x.org", "m@x.org"],
        ["zoë@x.org", "n@x.org", "n"],
        ["éva@x.org"],
    ]


def test_partition_file_order_is_kept_and_one_loader_gets_all() -> None:
    table = of(realistic("random", 1000))

    assert partition.by_address(("",))(table) == [table]
    assert all(np.all(np.diff(share["record"]) > 0) for share in deal(table, 3))
    assert [share.num_rows for share in partition.by_address(("", "m"))(table.slice(0, 0))] == [0, 0]


@pytest.mark.parametrize("form", ["csv", "array", "lines", "gzip"])
@pytest.mark.parametrize("note", ["", "x" * 3000], ids=["narrow", "wide"])
def test_partition_divide_by_sample_emails_gives_even_loaders(form: str, note: str) -> None:
    """The sample is the first 5,000 Records, or the first MiB of wide ones."""
    emails = [f"{'ABCDEFGH'[number % 8]}{number}@x.org" for number in range(1_000 if note else 20_000)]
    people = [{"name": "Ann", "email": email, "note": note} for email in emails]
    csv = "\n".join(["name,email,note", *(",".join(person.values()) for person in people)]).encode()
    data = {
        "csv": csv,
        "array": json.dumps(people).encode(),
        "lines": "\n".join(map(json.dumps, people)).encode(),
        "gzip": gzip.compress(csv),
    }[form]

    sample = sample_emails(BytesIO(data), inspect(BytesIO(data)))
    begins = partition.divide(sample, 4)

    assert sample == [email.lower() for email in emails[: len(sample)]]
    assert 200 <= len(sample) <= (500 if note else 5_250)
    loaders = Counter(sum(email.lower() >= begin for begin in begins) for email in emails)
    assert loaders == {loader: pytest.approx(len(emails) / 4, rel=0.15) for loader in (1, 2, 3, 4)}


def test_partition_sample_emails_ends_where_the_file_cannot_be_read() -> None:
    data = b'[{"name":"Ann","email":"ann@x.org"},' + b'{"name":"Bob","email":"bob@x.org"},' * 1400 + b"oops]"
    plan = inspect(BytesIO(data))

    assert sample_emails(BytesIO(data), plan)[:2] == ["ann@x.org", "bob@x.org"]
    assert partition.divide(sample_emails(BytesIO(b"name,email\nAnn,\n"), plan), 2) == ("",)


def test_partition_load_plan_from_json_reads_what_was_stored() -> None:
    file = inspect(BytesIO(b"name,email\nAnn,ann@x.org\n"))
    plan = LoadPlan(file, ("", "m"), source_was_empty=True)
    stored = json.loads(json.dumps(plan.to_json()))

    assert LoadPlan.from_json(stored) == plan
    begins = stored.pop("loaders")
    assert LoadPlan.from_json(stored | {"lanes": begins, "later": 1}) == plan
    del stored["source_was_empty"]
    assert LoadPlan.from_json(stored) == LoadPlan(file, ("",), source_was_empty=False)


def test_partition_folds_in_file_order() -> None:
    rows, folded = partition.fold(
        contacts(
            ("b@x.org", "Bob", '{"phone":"1","city":"Rom"}'),
            ("a@x.org", "Ann", "{}"),
            ("b@x.org", "Robert", '{"phone":"2"}'),
            ("b@x.org", "Bobby", "{}"),
        )
    )

    assert folded.with_record(4) == folded.with_record(1) == [1, 3, 4]
    assert folded.with_record(2) == [2]
    assert rows.drop_columns("attributes").to_pydict() == {
        "email": ["a@x.org", "b@x.org"],
        "name": ["Ann", "Bobby"],
        "record": [2, 4],
    }
    assert [json.loads(str(text)) for text in rows["attributes"]] == [{}, {"phone": "2", "city": "Rom"}]


def test_partition_the_first_wins_whole_when_asked() -> None:
    rows, folded = partition.fold(
        contacts(("b@x.org", "Bob", '{"a":1}'), ("b@x.org", "Robert", '{"b":2}')), keep="first"
    )

    assert folded.with_record(1) == [1, 2]
    assert rows.to_pylist() == [{"email": "b@x.org", "name": "Bob", "attributes": '{"a":1}', "record": 1}]


def test_partition_no_number_changes_in_a_merge() -> None:
    numbers = '{"a":12345678901234567890123,"b":1e400,"c":1.10,"d":-0,"e":{"f":0.1000000000000000055511151231257827}}'
    bob = "b@x.org", "Bob"
    rows, _ = partition.fold(contacts((*bob, numbers), (*bob, '{ "z" : 1 }'), (*bob, "{ }")))

    assert rows["attributes"][0].as_py() == numbers[:-1] + ',"z" : 1}'


def test_partition_sorts_by_bytes() -> None:
    emails = ["z@x.org", "a_b@x.org", "a-b@x.org", "ab@x.org", "a+b@x.org", "0@x.org"]

    assert partition.fold(of(emails))[0]["email"].to_pylist() == sorted(emails)


ROW = st.tuples(
    st.sampled_from(["a@x.org", "b@x.org", "c@x.org", "d@x.org"]),
    st.sampled_from(["Ann", "Bob"]),
    st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3) | st.just("ü,}"), max_size=2),
)


@given(st.lists(ROW, max_size=25), st.sampled_from(["last", "first"]), st.integers(1, 4))
def test_partition_dealt_and_folded_is_what_one_after_the_other_gives(
    rows: list[tuple[str, str, dict[str, Any]]], keep: Any, loaders: int
) -> None:
    expected: dict[str, tuple[str, dict[str, Any], int]] = {}
    for record, (email, name, attributes) in enumerate(rows, 1):
        if email not in expected:
            expected[email] = (name, attributes, record)
        elif keep == "last":
            expected[email] = (name, expected[email][1] | attributes, record)
    table = contacts(*((email, name, json.dumps(attributes)) for email, name, attributes in rows))

    folds = [partition.fold(share, keep) for share in deal(table, loaders)]

    found = {
        row["email"]: (row["name"], json.loads(row["attributes"]), row["record"])
        for share, _ in folds
        for row in share.to_pylist()
    }
    assert found == expected
    assert sum(share.num_rows for share, _ in folds) == len(expected)
    records = [
        number for share, folded in folds for row in share["record"] for number in folded.with_record(row.as_py())
    ]
    assert sorted(records) == list(range(1, len(rows) + 1))


@given(st.lists(ROW, max_size=25), st.integers(1, 25))
def test_partition_split_finds_the_first_of_each_key_in_the_file(
    rows: list[tuple[str, str, dict[str, Any]]], size: int
) -> None:
    """However it is cut."""
    table, met = contacts(*((email, name, json.dumps(attributes)) for email, name, attributes in rows)), Met()
    firsts, others = list[Any](), list[Any]()
    for at in range(0, len(rows), size):
        first, later = partition.split(table.slice(at, size), met.meet)
        assert first["email"].to_pylist() == sorted(map(str, first["email"].to_pylist()))
        firsts += first["record"].to_pylist()
        others += later["record"].to_pylist()

    emails = [row[0] for row in rows]
    assert sorted(firsts) == [emails.index(email) + 1 for email in dict.fromkeys(emails)]
    assert sorted(firsts + others) == list(range(1, len(rows) + 1))
