"""Which keys an import has met: for certain, or with a filter that may take a new key for a known one.

`Seen` is a Bloom filter of 8 MiB, however many keys there are; all bits of a key stand in one word, so that it is
looked up once. It never calls a known key new. It calls a new key known once in 8,000 after a million of them, once in
a hundred after five million, once in four after twenty million.

`Met` gives the exact answer. It keeps 8 bytes a key in sorted runs, in memory up to a million keys, beyond that in an
unnamed temporary file; only the keys that the filter may have seen are looked up there. Two different addresses share
their 64 bits with a chance of 2^-64, whoever made them up (see `_hashes`): in one of 400,000 files of ten million
addresses, one Record is counted as a duplicate that is none.

Both live as long as one attempt, and are not safe to be used by two threads at once.
"""

from __future__ import annotations

import errno
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from rollcall.errors import NoSpace

WORDS_LOG2 = 20
PROBES = 4
"""Bits of a word that are a key's."""

IN_MEMORY = 1 << 20
"""A run of more keys than this lies in a file."""

MULTIPLIERS: npt.NDArray[np.uint64] = np.random.default_rng(secrets.randbits(128)).integers(
    0, 1 << 64, (256, 4), np.uint64
)
"""A secret of this process: nobody can make up addresses that have one hash. Enough for 2,040 bytes; the rules admit
320."""

Column = Any  # a string array; Arrow's stubs lose the type in most kernels
Words = npt.NDArray[np.uint64]


class Seen:
    """Empty at first."""

    def __init__(self) -> None:
        self._words: Words = np.zeros(1 << WORDS_LOG2, np.uint64)

    def meet(self, keys: Column) -> npt.NDArray[np.bool_]:
        """Which of these (all different) may have been met before; from now on all of them are."""
        return self.meet_hashes(_hashes(keys))

    def meet_hashes(self, hashes: Words) -> npt.NDArray[np.bool_]:
        """The same for keys that are hashed already."""
        places, bits = _places(hashes)
        words = self._words[places]
        self._words[places] = words | bits
        lost = np.flatnonzero(self._words[places] & bits != bits)  # two of them have one word
        np.bitwise_or.at(self._words, places[lost], bits[lost])
        met: npt.NDArray[np.bool_] = words & bits == bits
        return met


class Met:
    """Empty at first. Raises NoSpace when the temporary folder (TMPDIR) is full."""

    def __init__(self) -> None:
        self._filter = Seen()
        self._runs: list[_Run] = []

    def meet(self, keys: Column) -> npt.NDArray[np.bool_]:
        """Which of these (all different) were met before; from now on all of them are."""
        hashes = _hashes(keys)
        met = self._filter.meet_hashes(hashes)
        maybe = np.flatnonzero(met)
        if len(maybe) and self._runs:
            met[maybe] = np.any([_holds(run.hashes(), hashes[maybe]) for run in self._runs], axis=0)
        if len(hashes):
            self._runs.append(_Run(len(hashes), [np.sort(hashes)]))
        while len(self._runs) > 1 and self._runs[-2].count <= self._runs[-1].count:
            self._runs[-2:] = [_merge(*self._runs[-2:])]  # sizes double, so there are few runs, and few merges of a key
        return met


class _Run:
    """Sorted hashes, given in pieces that follow each other. Many of them lie in a file."""

    def __init__(self, count: int, pieces: Iterable[Words]) -> None:
        self.count, self._hashes = count, None
        if count <= IN_MEMORY:
            self._hashes = np.concatenate([np.empty(0, np.uint64), *pieces])
            return
        self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the run
        try:
            for piece in pieces:
                self._file.write(piece.data)
            self._file.flush()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise NoSpace("The temporary folder of the worker (TMPDIR) has no room left.") from error

    def hashes(self) -> Words:
        """Read only; a file is mapped for as long as the caller keeps the array."""
        return np.memmap(self._file, np.uint64, "r") if self._hashes is None else self._hashes


def _merge(one: _Run, other: _Run) -> _Run:
    """Two runs as one; a slice of the values at a time, for hashes are spread evenly over all 64 bits."""
    count = one.count + other.count
    slices = -(-count // IN_MEMORY)
    bounds = [np.uint64((at << 64) // slices) for at in range(1, slices)]

    def pieces() -> Iterator[Words]:
        runs = [np.split(run.hashes(), np.searchsorted(run.hashes(), bounds)) for run in (one, other)]
        for pair in zip(*runs, strict=True):
            yield np.sort(np.concatenate(pair), kind="stable")

    return _Run(count, pieces())


def _holds(hashes: Words, wanted: Words) -> npt.NDArray[np.bool_]:
    """Which of the wanted ones are among these, sorted and at least one."""
    places = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
    found: npt.NDArray[np.bool_] = hashes[places] == wanted
    return found


def _places(hashes: Words) -> tuple[npt.NDArray[np.int64], Words]:
    """For every hash the place of its word in the filter, and its bits there."""
    bits = np.zeros(len(hashes), np.uint64)
    for probe in range(PROBES):
        bits |= np.uint64(1) << (hashes >> np.uint64(6 * probe) & np.uint64(63))
    return (hashes >> np.uint64(64 - WORDS_LOG2)).astype(np.int64), bits


def _hashes(keys: Column) -> Words:
    """64 bits of each key, whatever stands beside it.

    Twice 32 bits by the multilinear family (Lemire and Kaser, "Strongly universal string hashing is fast", 2014): the
    sum of its length and its words of four bytes, each multiplied by a secret number of 64 bits; the high half counts.
    Two different keys have the same 64 bits with a chance of 2^-64.
    """
    _, offsets, data = keys.buffers()
    bounds = np.frombuffer(offsets or bytes(4), np.int32)[keys.offset : keys.offset + len(keys) + 1].astype(np.int64)
    lengths, ends = np.diff(bounds), bounds[1:]
    text = bytes(7) + memoryview(data or b"")[: bounds[-1]]
    words = np.ndarray(int(bounds[-1]), "<u8", text, strides=(1,))  # words[i] ends with byte i
    high = lengths.astype(np.uint64) * MULTIPLIERS[0, 0] + MULTIPLIERS[0, 1]
    low = lengths.astype(np.uint64) * MULTIPLIERS[0, 2] + MULTIPLIERS[0, 3]
    shortest = lengths.min(initial=1 << 30)
    for done in range(0, lengths.max(initial=0), 8):
        left: Any = slice(None) if done + 8 <= shortest else np.flatnonzero(lengths > done)
        word = words[ends[left] - done - 1]
        if done + 8 > shortest:
            before = np.maximum(done + 8 - lengths[left], 0)  # bytes of a word that are not the key's
            word >>= (8 * before).astype(np.uint64)
        first, second = word >> np.uint64(32), word & np.uint64(0xFFFF_FFFF)
        by = MULTIPLIERS[1 + done // 8]
        high[left] += first * by[0] + second * by[1]
        low[left] += first * by[2] + second * by[3]
    hashes: Words = high & np.uint64(0xFFFF_FFFF_0000_0000) | low >> np.uint64(32)
    return hashes
