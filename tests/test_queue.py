"""What the Parts have for a loader waits in file order, is taken together up to a limit, and holds the reader back."""

from __future__ import annotations

import asyncio

import pyarrow as pa
import pytest

from rollcall.loading import queue
from rollcall.loading.partition import by_address
from rollcall.loading.queue import LoaderQueue, distribute
from rollcall.records import Part

ALL = by_address(("",))
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


async def dealt(*parts: Part, begins: tuple[str, ...] = ("",)) -> list[LoaderQueue]:
    loaders = [LoaderQueue(loaders=len(begins)) for _ in begins]
    for each in parts:
        await asyncio.wait_for(distribute(each, by_address(begins), loaders), 5)
    for loader in loaders:
        await loader.end()
    return loaders


async def taken(loader: LoaderQueue) -> list[tuple[list[object], list[object]]]:
    """Record numbers of the Contacts and Rejects of each batch, to the end."""
    shares = []
    while share := await asyncio.wait_for(loader.take(), 5):
        contacts = pa.concat_tables([portion.contacts for portion in share])["record"].to_pylist()
        rejects = pa.concat_tables([portion.rejects for portion in share])["record"].to_pylist()
        shares.append((contacts, rejects))
    return shares


async def test_loader_queue_each_contact_goes_to_the_loader_that_it_belongs_to_and_rejects_to_the_first() -> None:
    [low, high] = await dealt(part(1, 10), begins=("", "k"))

    assert await taken(low) == [([1, 3, 5, 7, 9], [2, 4, 6, 8, 10, 12, 14, 16, 18, 20])]
    assert await taken(high) == [([11, 13, 15, 17, 19], [])]


async def test_loader_queue_what_waits_becomes_one_batch() -> None:
    [loader] = await dealt(part(1, 2), part(5, 1), part(7, 2))

    assert await taken(loader) == [([1, 3, 5, 7, 9], [2, 4, 6, 8, 10])]


@pytest.mark.parametrize(("limit", "value"), [("BATCH_ROWS", 5), ("BATCH_BYTES", 350)])
async def test_loader_queue_up_to_a_limit_and_the_reader_waits(
    limit: str, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, limit, value)
    loader = LoaderQueue(loaders=1)
    await distribute(part(1, 2, width=30), ALL, [loader])
    await distribute(part(5, 2, width=30), ALL, [loader])
    third = asyncio.create_task(distribute(part(9, 2, width=30), ALL, [loader]))
    await asyncio.wait([third], timeout=0.1)
    assert not third.done()

    share = await loader.take()

    await asyncio.wait_for(third, 5)
    assert [portion.first for portion in share] == [1, 5]


async def test_loader_queue_one_that_is_too_large_is_a_batch_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_ROWS", 3)
    [loader] = [LoaderQueue(loaders=1)]
    await asyncio.wait_for(distribute(part(1, 5), ALL, [loader]), 5)

    assert [portion.first for portion in await loader.take()] == [1]


async def test_loader_queue_all_loaders_together_keep_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "BATCH_ROWS", 8)
    for loaders, count in ((1, 4), (2, 2), (4, 1)):
        loader = LoaderQueue(loaders=loaders)
        for first in range(1, 4 * count, 4):
            await asyncio.wait_for(distribute(part(first, 2), ALL, [loader]), 5)
        over = asyncio.create_task(distribute(part(4 * count + 1, 2), ALL, [loader]))
        await asyncio.wait([over], timeout=0.1)

        assert len(await loader.take()) == count
        await asyncio.wait_for(over, 5)


async def test_loader_queue_a_loader_without_contacts_gets_on() -> None:
    """Its batch is empty, and ends where the Part does: an import that goes on need not read this again."""
    [_, high] = await dealt(part(1, 2), begins=("", "z"))

    [portion] = await high.take()

    assert (portion.contacts.num_rows, portion.last) == (0, 4)
