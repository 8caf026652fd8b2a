"""What every store is: the protocol, and the words that are used with it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import BinaryIO, Protocol

KEY_BYTES = 20


@dataclass(frozen=True)
class Segment:
    """One object: `length` bytes of an Upload, from its byte `offset` on.

    `checksums`: the CRC-32 of each MiB of the object, four bytes each, big endian. They detect accidents, not
    forgery: whoever may write to the store is trusted.
    """

    key: str
    offset: int
    length: int
    checksums: bytes


def new_key() -> str:
    """A key that nobody can guess and that holds no part of a file's name: 40 hexadecimal digits."""
    return secrets.token_hex(KEY_BYTES)


def is_key(name: str) -> bool:
    """Whether a name found in a store can be a key made by `new_key`; all others are somebody else's."""
    return len(name) == 2 * KEY_BYTES and not set(name) - set("0123456789abcdef")


class Store(Protocol):
    """Immutable objects under keys.

    Writing is asynchronous, reading is not: readers run in threads anyway. A store knows no checksums and no
    Segments; `integrity` adds them, once, above every store. All methods raise StoreDown when the store fails.
    """

    async def put(self, key: str, blocks: AsyncIterator[bytes | bytearray]) -> None:
        """Store the blocks as one object, durable on return; an object of that key is replaced.

        On any exception, from `blocks` or a cancellation too, nothing is left. Raises NoSpace.
        """
        ...

    def open_range(self, key: str, start: int = 0, length: int | None = None) -> BinaryIO:
        """The object's bytes from `start` on, at most `length` of them, to be read once. Raises ObjectMissing."""
        ...

    def size(self, key: str) -> int:
        """The length of the object in bytes. Raises ObjectMissing."""
        ...

    async def delete_many(self, keys: Iterable[str]) -> None:
        """Remove these objects, and what an interrupted `put` may have left of them; absent ones are fine."""
        ...

    def list(self, *, older_than: timedelta) -> AsyncGenerator[list[str], None]:
        """The keys of the objects last written that long ago, some at a time; of half-written ones too."""
        ...

    async def require(self, count: int) -> None:
        """Raises NoSpace when there is no room for `count` bytes more."""
        ...

    async def owner(self) -> str | None:
        """The identity that `claim` recorded; None when there is none yet."""
        ...

    async def claim(self, identity: str) -> None:
        """Record `identity` as the owner, durably, unless an owner is recorded: `owner` then says which one it is."""
        ...

    async def check(self) -> None:
        """Whether objects can be stored now, for `/health`: cheap, it is asked often. Raises NoSpace."""
        ...
