"""What the Parts have for a Lane waits in file order, is taken together up to a limit, and holds the reader back."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from rollcall import portions
from rollcall.portions import Portions, give
from rollcall.records import Part

EMAILS = [f"{letter}@x.org" for letter in "abcdefghijklmnopqrst"]


def part(first: int, count: int, *, width: int = 0) -> Part:
    """So many Contacts, a Reject after each, and no more in it than that."""
    numbers = range(first, first + 2 * count)
    contacts = {
        "email": [EMAILS[number % 20] for number in numbers[::2]],
        "note": ["x" * width] * count,
        "record": numbers[::2],
    }
    return Part(
        first, numbers[-1], pa.table(contacts), pa.table({"record": pa.array(numbers[1::2], pa.int64())}), first, 0.0
    )


async def dealt(*parts: Part, after: int = 0, begins: tuple[str, ...] = ("",)) -> list[Portions]:
    lanes = [Portions(after=after, lanes=len(begins)) for _ in begins]
    for each in parts:
        await asyncio.wait_for(give(each, begins, lanes), 5)
    for lane in lanes:
        await lane.end()
    return lanes


async def taken(lane: Portions) -> list[tuple[list[object], list[object]]]:
    """Record numbers of the Contacts and Rejects of each Share, to the end."""
    shares = []
    while share := await asyncio.wait_for(lane.take(), 5):
        contacts = pa.concat_tables([portion.contacts for portion in share])["record"].to_pylist()
        rejects = pa.concat_tables([portion.rejects for portion in share])["record"].to_pylist()
        shares.append((contacts, rejects))
    return shares


async def test_each_contact_goes_to_the_lane_that_it_belongs_to_and_rejects_to_the_first() -> None:
    [low, high] = await dealt(part(1, 10), begins=("", "k"))

    assert await taken(low) == [([1, 3, 5, 7, 9], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20])]
    assert await taken(high) == [([11, 13, 15, 17, 19], [])]


async def test_what_waits_becomes_one_share() -> None:
    [lane] = await dealt(part(1, 2), part(5, 1), part(7, 2))

    assert await taken(lane) == [([1, 3, 5, 7, 9], [2, 4, 6, 8, 10])]


@pytest.mark.parametrize(("limit", "value"), [("ROWS", 5), ("BYTES", 350)])
async def test_up_to_a_limit_and_the_reader_waits(limit: str, value: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, limit, value)
    lane = Portions(after=0, lanes=1)
    await give(part(1, 2, width=30), ("",), [lane])
    await give(part(5, 2, width=30), ("",), [lane])
    third = asyncio.create_task(give(part(9, 2, width=30), ("",), [lane]))
    await asyncio.wait([third], timeout=0.1)
    assert not third.done()

    share = await lane.take()

    await asyncio.wait_for(third, 5)
    assert [portion.first for portion in share] == [1, 5]


async def test_one_that_is_too_large_is_a_share_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "ROWS", 3)
    [lane] = [Portions(after=0, lanes=1)]
    await asyncio.wait_for(give(part(1, 5), ("",), [lane]), 5)

    assert [portion.first for portion in await lane.take()] == [1]


async def test_all_lanes_together_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portions, "ROWS", 8)
    for lanes, count in ((1, 4), (2, 2), (4, 1)):
        lane = Portions(after=0, lanes=lanes)
        for first in range(1, 4 * count, 4):
            await asyncio.wait_for(give(part(first, 2), ("",), [lane]), 5)
        over = asyncio.create_task(give(part(4 * count + 1, 2), ("",), [lane]))
        await asyncio.wait([over], timeout=0.1)

        assert len(await lane.take()) == count
        await asyncio.wait_for(over, 5)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 4, 5, 20])
async def test_what_is_loaded_is_left_out(after: int) -> None:
    [lane] = await dealt(part(1, 2), part(5, 2), after=after)

    shares = await taken(lane)

    assert [numbers for share in shares for numbers in share] == (
        [[n for n in (1, 3, 5, 7) if n > after], [n for n in (2, 4, 6, 8) if n > after]] if after < 8 else []
    )


async def test_a_lane_without_contacts_gets_on() -> None:
    """Its Share is empty, and ends where the Part does: an import that goes on need not read this again."""
    [_, high] = await dealt(part(1, 2), begins=("", "z"))

    [portion] = await high.take()

    assert (portion.contacts.num_rows, portion.last) == (0, 4)
