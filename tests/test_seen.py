"""Keys that were met: never taken for new; new ones rarely taken for met."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollcall.errors import NoSpace
from rollcall.loading import seen as seen_module
from rollcall.loading.seen import Met, Seen


def keys(*emails: str) -> pa.StringArray:
    return pa.array(emails, pa.string())


@given(st.lists(st.sets(st.text(max_size=8) | st.text("ab", max_size=40), max_size=20), max_size=8))
def test_seen_what_was_met_is_never_new(batches: list[set[str]]) -> None:
    """Whatever stands beside it in its array."""
    seen, before = Seen(), set[str]()
    for batch in batches:
        met = seen.meet(keys("beside", *batch, "it").slice(1, len(batch)))
        assert {key for key, was in zip(batch, met, strict=True) if not was}.isdisjoint(before)
        before |= batch


KINDS = {
    "counted": "u{}@x.org",
    "padded": "user{:07}@mail.example.net",
    "short": "{:x}",
    "by their beginning": "{}.a-very-long-name-that-all-of-them-have@example.com",
    "by their middle": "ann.{}.lee@x.org",
}


@pytest.mark.parametrize("kind", KINDS)
def test_seen_new_keys_are_rarely_taken_for_met(kind: str) -> None:
    seen = Seen()
    batches = [
        keys(*(KINDS[kind].format(number) for number in range(at, at + 10_000))) for at in range(0, 200_000, 10_000)
    ]
    wrong = [seen.meet(batch).sum() for batch in batches]

    assert sum(wrong) < 10
    assert seen.meet(keys(KINDS[kind].format(1), "new@x.org")).tolist() == [True, False]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("in_memory", [1 << 20, 500], ids=["in memory", "in files"])
def test_seen_met_is_exact(kind: str, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of every size, keys that come again after a long way or soon; with a filter that helps little."""
    monkeypatch.setattr(seen_module, "IN_MEMORY", in_memory)
    monkeypatch.setattr(seen_module, "WORDS_LOG2", 6)
    chance, met, before = random.Random(1), Met(), set[int]()
    for size in [1, 1, 2, 0, 500, 3000, 7, 7, 1000, 1, 2000, 4000]:
        batch = chance.sample(range(20_000), size)

        answer = met.meet(keys(*(KINDS[kind].format(number) for number in batch)))

        assert answer.tolist() == [number in before for number in batch]
        before |= set(batch)


def test_seen_met_says_when_the_temporary_folder_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_module, "IN_MEMORY", 10)
    with Path("/dev/full").open("r+b", buffering=0) as full:
        monkeypatch.setattr("rollcall.loading.seen.tempfile.TemporaryFile", lambda: full)
        with pytest.raises(NoSpace, match="TMPDIR"):
            Met().meet(keys(*map(str, range(20))))
