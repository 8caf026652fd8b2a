"""Waiting: nobody goes on while a thread or a clean-up of its own is still at work."""

from __future__ import annotations

import asyncio
import threading

import pytest

from rollcall.waiting import in_thread, to_the_end


async def test_waiting_in_thread_is_waited_for_however_often_the_caller_is_cancelled() -> None:
    begun, leave, left = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        leave.wait(20)
        left.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(begun.wait, 20)
    for _ in range(3):
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert not task.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert left.is_set()


async def test_waiting_to_the_end_gives_result_and_exception() -> None:
    async def broken() -> None:
        raise ValueError

    assert await to_the_end(asyncio.sleep(0, "done")) == "done"
    with pytest.raises(ValueError):  # noqa: PT011
        await to_the_end(broken())
