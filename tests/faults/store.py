"""A store whose k-th call fails: with an error, by standing still, or by taking its process along."""

from __future__ import annotations

import io
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO, cast

from rollcall.errors import StoreDown
from rollcall.storage import FileStore

HANG_SECONDS = 1.0


class FaultyStore(FileStore):
    """`at`: the call that fails, from 1. Every opening, read and put is a call; `calls` counts them."""

    def __init__(self, root: Path, *, at: int, fault: str) -> None:
        super().__init__(root)
        self.at, self.fault, self.calls = at, fault, 0

    async def put(self, key: str, blocks: AsyncIterator[bytes | bytearray]) -> None:
        self.call()
        await super().put(key, blocks)

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        self.call()
        return cast(BinaryIO, _Object(self._path(key), self))

    def call(self) -> None:
        """Raises StoreDown, or not, or does not come back."""
        self.calls += 1
        if self.calls == self.at:
            match self.fault:
                case "error":
                    raise StoreDown
                case "hang":
                    time.sleep(HANG_SECONDS)
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)


class _Object(io.FileIO):
    def __init__(self, path: Path, store: FaultyStore) -> None:
        super().__init__(path)
        self._store = store

    def read(self, size: int | None = -1, /) -> bytes:
        self._store.call()
        return super().read(size)
