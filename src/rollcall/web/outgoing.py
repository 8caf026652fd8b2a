"""Bound the memory of answers, and send them.

An answer stays in memory until its client has read it, and a client may be slow. `Room` bounds the bytes of all answers
of this process together. `Body` sends one answer in pieces, because uvicorn waits for the client only between two
pieces. The code that builds an answer bounds its length (PAGE_BYTES for a page).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any

import orjson
from fastapi import Depends, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rollcall.errors import Busy

PAGE_BYTES = 1 << 20
"""A page ends before it would be longer than this."""
ROOM_BYTES = 64 << 20
"""For all answers of one process that are longer than PIECE_BYTES."""
PIECE_BYTES = 64 << 10
WAIT_SECONDS = 5.0


class Room:
    """A number of bytes, given out first come, first served."""

    def __init__(self, count: int | None = None) -> None:
        self._all = self._free = ROOM_BYTES if count is None else count
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, count: int) -> int:
        """Take `count` bytes, at most all; how many were taken. Raises Busy after WAIT_SECONDS."""
        count = min(count, self._all)
        if not self._waiting and count <= self._free:
            self._free -= count
            return count
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append((count, turn))
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self.give_back(count)
            else:
                with suppress(ValueError):
                    self._waiting.remove((count, turn))
                self.give_back(0)
            if isinstance(error, TimeoutError):
                raise Busy("Too many long answers are being read. Ask again in a moment.") from error
            raise
        return count

    def give_back(self, count: int) -> None:
        self._free += count
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.done():
                self._free -= wanted
                turn.set_result(None)


@dataclass
class Held:
    """The bytes of a Room that one answer has taken."""

    room: Room = field(repr=False)
    count: int = 0

    async def keep(self, count: int) -> None:
        """Take or give back bytes until this answer holds `count`; none for a short answer. Raises Busy."""
        count = count if count > PIECE_BYTES else 0
        if count > self.count:
            self.count += await self.room.take(count - self.count)
        else:
            self.room.give_back(self.count - count)
            self.count = count


async def _held(request: Request) -> AsyncGenerator[Held, None]:
    """Room for one answer. Gives back what was taken after the answer was sent."""
    held = Held(request.app.state.service.room)
    try:
        yield held
    finally:
        held.room.give_back(held.count)


AnswerRoom = Annotated[Held, Depends(_held)]


class Body(Response):
    """A JSON answer from encoded bytes."""

    media_type = "application/json"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        rest = memoryview(self.body)
        while len(rest) > PIECE_BYTES:
            await send({"type": "http.response.body", "body": bytes(rest[:PIECE_BYTES]), "more_body": True})
            rest = rest[PIECE_BYTES:]
        await send({"type": "http.response.body", "body": bytes(rest), "more_body": False})


def json(value: Any) -> bytes:
    """Compact JSON. Times are UTC and end in Z (RFC 3339)."""
    return orjson.dumps(value, option=orjson.OPT_UTC_Z)


async def reply(answer: BaseModel, room: Held, headers: Mapping[str, str] | None = None) -> Body:
    """Encode an answer and take room for it. Raises Busy."""
    body = json(answer.model_dump(by_alias=True))
    await room.keep(len(body))
    return Body(body, headers=headers)
