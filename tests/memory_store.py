"""A store in memory: the second one that the suite in test_storage.py runs over, so that it asks only for what every
store can do."""

from __future__ import annotations

import io
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from datetime import timedelta
from typing import BinaryIO

from rollcall.errors import NoSpace, ObjectMissing


class MemoryStore:
    """Objects of at most `room` bytes together."""

    def __init__(self, room: int = 1 << 30) -> None:
        self._room = room
        self._owner: str | None = None
        self._objects: dict[str, tuple[bytes, float]] = {}

    async def put(self, key: str, blocks: AsyncIterator[bytes | bytearray]) -> None:
        data = bytearray()
        async for block in blocks:
            await self.require(len(data) + len(block))
            data += block
        self._objects[key] = bytes(data), time.time()

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        return io.BytesIO(self._object(key)[start : None if length is None else start + length])

    def size(self, key: str) -> int:
        return len(self._object(key))

    async def delete_many(self, keys: Iterable[str]) -> None:
        for key in keys:
            self._objects.pop(key, None)

    async def list(self, *, older_than: timedelta) -> AsyncGenerator[list[str], None]:
        before = time.time() - older_than.total_seconds()
        yield [key for key, (_, written) in self._objects.items() if written < before]

    async def require(self, count: int) -> None:
        if sum(len(data) for data, _ in self._objects.values()) + count > self._room:
            raise NoSpace

    async def owner(self) -> str | None:
        return self._owner

    async def claim(self, identity: str) -> None:
        self._owner = self._owner or identity

    async def check(self) -> None:
        await self.require(1)

    def _object(self, key: str) -> bytes:
        try:
            return self._objects[key][0]
        except KeyError as error:
            raise ObjectMissing from error
