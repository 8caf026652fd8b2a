"""Keys that were met: never taken for new; new ones rarely taken for met."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from rollcall.records.seen import Seen


def keys(*emails: str) -> pa.StringArray:
    return pa.array(emails, pa.string())


@given(st.lists(st.sets(st.text(max_size=8), max_size=20), max_size=8))
def test_what_was_met_is_never_new(batches: list[set[str]]) -> None:
    seen, before = Seen(), set[str]()
    for batch in batches:
        met = seen.meet(keys(*batch))
        assert {key for key, was in zip(batch, met, strict=True) if not was}.isdisjoint(before)
        before |= batch


def test_new_keys_are_rarely_taken_for_met() -> None:
    seen = Seen()
    wrong = [seen.meet(keys(*(f"u{batch}.{n}@x.org" for n in range(10_000)))).sum() for batch in range(20)]

    assert sum(wrong) < 10
    assert seen.meet(keys("u0.1@x.org", "new@x.org")).tolist() == [True, False]
