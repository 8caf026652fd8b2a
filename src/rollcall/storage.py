"""The store: immutable objects under random keys, in a directory. What it acknowledges is durable.

    store.put(key, chunks)        a whole object or none; fsynced before it returns
    whole(store, segments)        an Upload's Segments as one binary stream; length and checksum checked while reading

Assumes one file system. Knows no table.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass


@dataclass(frozen=True)
class Segment:
    """One object: a stretch of an Upload's bytes, `length` bytes from `offset` on."""

    key: str
    offset: int
    length: int
    sha256: bytes


def new_key() -> str:
    """A key that nobody can guess and no file name is part of."""
    return secrets.token_hex(20)
