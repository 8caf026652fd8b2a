"""Which keys an import has met: what it says is new is new; what it says was met may be new after all.

A Bloom filter of 8 MiB, however many keys there are: it errs at one key in 100,000 after half a million of them, at one
in a hundred after five million, at most of them after fifty. Lives as long as one attempt; nothing of it is stored.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 1 << 26
PROBES = 3

MULTIPLIER = np.uint64(int.from_bytes(os.urandom(8), "big") | 1)
"""A secret of this process: nobody can make up addresses that are taken for each other."""

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Words = npt.NDArray[np.uint64]


class Seen:
    """Empty at first."""

    def __init__(self) -> None:
        self._words: Words = np.zeros(BITS // 64, np.uint64)

    def meet(self, keys: Column) -> npt.NDArray[np.bool_]:
        """Which of these (all different) were met before; from now on all of them are."""
        places = _places(keys)
        words, bits = (places >> np.uint64(6)).astype(np.int64), np.uint64(1) << (places & np.uint64(63))
        met: npt.NDArray[np.bool_] = (self._words[words] & bits != 0).all(axis=0)
        np.bitwise_or.at(self._words, words, bits)
        return met


def _places(keys: Column) -> Words:
    """PROBES bits for every key, from two halves of one hash."""
    hashes = _hashes(keys)
    step = hashes >> np.uint64(32) | np.uint64(1)
    return np.stack([hashes + np.uint64(probe) * step for probe in range(PROBES)]) & np.uint64(BITS - 1)


def _hashes(keys: Column) -> Words:
    """64 bits of each key, whatever stands beside it: eight bytes after the other, from its end, are mixed in."""
    _, offsets, data = keys.buffers()
    bounds = np.frombuffer(offsets or bytes(4), np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    lengths, ends = np.diff(bounds), bounds[1:]
    text = bytes(7) + memoryview(data or b"")[: bounds[-1]]
    words = np.ndarray(int(bounds[-1]), "<u8", text, strides=(1,))  # words[i] ends with byte i
    hashes = lengths.astype(np.uint64)
    for done in range(0, lengths.max(initial=0), 8):
        left = np.flatnonzero(lengths > done)
        before = np.maximum(done + 8 - lengths[left], 0)  # bytes of a word that are not the key's
        word = words[ends[left] - done - 1] >> (8 * before).astype(np.uint64)
        mixed = (hashes[left] ^ word) * MULTIPLIER
        hashes[left] = mixed ^ mixed >> np.uint64(32)
    return hashes
