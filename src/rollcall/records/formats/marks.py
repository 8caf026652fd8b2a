"""Find the brackets and commas of a JSON text that are not in strings: they show its structure.

Works on whole pieces at once and parses no values. It finds marks in a text that is not JSON too; the code that parses
the text between them detects that.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from rollcall.errors import TooDeep
from rollcall.records.formats.reader import Offsets
from rollcall.records.formats.spans import escaped_quotes

DEPTH_MAX: Final = 1_000
"""Brackets inside brackets, the array's own among them. orjson ends at 1,024."""

PIECE_BYTES: Final = 256 << 10
"""So much is looked at together: what numpy makes of it stays in the processor's cache."""

QUOTE, COMMA, OPENING, CLOSING, BRACE, BRACE_CLOSING = b'",[]{}'
_STEPS: Final = np.array([(byte in b"{[") - (byte in b"}]") for byte in range(256)])


@dataclass(frozen=True)
class Piece:
    """A piece of the file, and its marks: the brackets and commas that are not in strings.

    `offset`: of `data[0]` in the decoded file. Of each mark: `at`, its place in `data`; `kind`, its byte; `depth`, how
    many brackets are open behind it.
    """

    data: bytes
    offset: int
    at: Offsets
    kind: npt.NDArray[np.uint8]
    depth: Offsets

    def after(self, mark: int) -> Piece:
        """What follows this mark."""
        cut = int(self.at[mark]) + 1
        rest = slice(mark + 1, None)
        return Piece(self.data[cut:], self.offset + cut, self.at[rest] - cut, self.kind[rest], self.depth[rest])


def find_pieces(blocks: Iterable[bytes]) -> Iterator[Piece]:
    """Find the marks. Outside strings a backslash counts as an escape, too: such a text is no JSON anyway."""
    offset, depth, quoted = 0, 0, np.False_
    for data in _small(blocks):
        text = np.frombuffer(data, np.uint8)
        lower = text | 0x20  # makes a brace of a bracket, and of nothing else
        marked = (text == QUOTE) | (text == COMMA) | (lower == BRACE) | (lower == BRACE_CLOSING)
        if b"\\" in data:
            marked[escaped_quotes(text)] = False
        at = np.flatnonzero(marked)
        kind = text[at]
        quotes = kind == QUOTE
        inside = np.bitwise_xor.accumulate(quotes) ^ quoted
        quoted = inside[-1] if len(inside) else quoted
        outside = np.flatnonzero(~(quotes | inside))
        at, kind = at[outside], kind[outside]
        depths = np.cumsum(_STEPS[kind]) + depth
        if len(depths):
            depth = int(depths[-1])
            if depths.max() > DEPTH_MAX:
                place = offset + int(at[np.argmax(depths > DEPTH_MAX)])
                raise TooDeep(f"The JSON is nested more than {DEPTH_MAX} levels deep at byte {place}.")
        yield Piece(data, offset, at, kind, depths)
        offset += len(data)


def _small(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """The file in small pieces, none of which ends within an escape."""
    held = b""
    for block in blocks:
        for begin in range(0, len(block), PIECE_BYTES):
            data = held + block[begin : begin + PIECE_BYTES]
            backslashes = len(data) - len(data.rstrip(b"\\"))
            held = data[-1:] if backslashes % 2 else b""
            yield data[: len(data) - len(held)]
    yield held
