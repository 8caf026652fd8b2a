"""Which keys an import has met: what it says is new is new; what it says was met may be new after all.

A Bloom filter of 8 MiB, however many keys there are: it errs at one key in 100,000 after half a million of them, at one
in a hundred after five million, at most of them after fifty. Lives as long as one attempt; nothing of it is stored.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

BITS = 1 << 26
PROBES = 3

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Words = npt.NDArray[np.uint64]


class Seen:
    """Empty at first."""

    def __init__(self) -> None:
        self._words: Words = np.zeros(BITS // 64, np.uint64)

    def meet(self, keys: Column) -> npt.NDArray[np.bool_]:
        """Which of these (all different) were met before; from now on all of them are."""
        places = _places(keys)
        words, bits = places >> np.uint64(6), np.uint64(1) << (places & np.uint64(63))
        met: npt.NDArray[np.bool_] = (self._words[words] & bits != 0).all(axis=0)
        np.bitwise_or.at(self._words, words, bits)
        return met


def _places(keys: Column) -> Words:
    """PROBES bits for every key, from two halves of one hash: Python's own, which nobody outside can guess."""
    hashes = np.fromiter(map(hash, keys.to_pylist()), np.int64, len(keys)).view(np.uint64)
    step = hashes >> np.uint64(32) | np.uint64(1)
    return np.stack([hashes + np.uint64(probe) * step for probe in range(PROBES)]) & np.uint64(BITS - 1)
