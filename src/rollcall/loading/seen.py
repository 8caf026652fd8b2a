"""Which keys an import has met: what it says is new is new; what it says was met may be new after all.

A Bloom filter of 8 MiB, however many keys there are; all bits of a key stand in one word, so that it is looked up once.
It errs at one key in 8,000 after a million of them, at one in a hundred after five million, at a quarter after twenty.
Lives as long as one attempt; nothing of it is stored.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

WORDS_LOG2 = 20
PROBES = 4
"""Bits of a word that are a key's."""

MULTIPLIER = np.uint64(int.from_bytes(os.urandom(8), "big") | 1)
"""A secret of this process: nobody can make up addresses that are taken for each other."""

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Words = npt.NDArray[np.uint64]


class Seen:
    """Empty at first."""

    def __init__(self) -> None:
        self._words: Words = np.zeros(1 << WORDS_LOG2, np.uint64)

    def meet(self, keys: Column) -> npt.NDArray[np.bool_]:
        """Which of these (all different) were met before; from now on all of them are."""
        places, bits = _places(keys)
        words = self._words[places]
        self._words[places] = words | bits
        lost = np.flatnonzero(self._words[places] & bits != bits)  # two of them have one word
        np.bitwise_or.at(self._words, places[lost], bits[lost])
        met: npt.NDArray[np.bool_] = words & bits == bits
        return met


def _places(keys: Column) -> tuple[npt.NDArray[np.int64], Words]:
    """For every key the place of its word, and its bits there, from one hash."""
    hashes = _hashes(keys)
    bits = np.zeros(len(hashes), np.uint64)
    for probe in range(PROBES):
        bits |= np.uint64(1) << (hashes >> np.uint64(6 * probe) & np.uint64(63))
    return (hashes >> np.uint64(64 - WORDS_LOG2)).astype(np.int64), bits


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
