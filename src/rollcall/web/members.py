"""The members of a JSON object that stand beside its large `data`, found while its bytes pass by.

Memory is bounded whatever the body holds, and work is linear in its bytes. Nothing is judged here but what is asked
for: whether the body is valid JSON is for the reader of files to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from rollcall.errors import InvalidInput

MEMBER_BYTES_MAX = 128 << 10
"""How much of one member is kept. No option is as long."""
MEMBERS_MAX = 1000
PIECE_BYTES = 256 << 10
_STRUCTURE = b'"{}[]'
_REST = bytes(set(range(256)) - set(_STRUCTURE))
_STEPS = np.array([(byte in b"{[") - (byte in b"}]") for byte in range(256)])
_KEY = re.compile(rb'[ \t\r\n]*("[^"\\]*(?:\\.[^"\\]*)*")[ \t\r\n]*:[ \t\r\n]*', re.DOTALL)


@dataclass(frozen=True)
class Member:
    """One member of the object. `value`: its text, None when it is longer than MEMBER_BYTES_MAX."""

    name: str
    value: bytes | None

    def loads(self) -> Any:
        """The value; its own bytes if they are no JSON, or nested too deeply."""
        try:
            return orjson.loads(self.value or b"")
        except orjson.JSONDecodeError:
            return self.value


class Members:
    """Fed with a body piece by piece.

    `members`: those that ended. `opening`: the first byte that is no blank; a body that is no object has no members.
    """

    def __init__(self) -> None:
        self.members: list[Member] = []
        self.opening = b""
        self._member, self._too_long, self._count = bytearray(), False, 0
        self._held, self._depth, self._quoted = b"", 0, False

    def feed(self, data: bytes) -> None:
        """Take in the next bytes; the first ones hold a byte order mark whole. Raises InvalidInput when the object has
        more than MEMBERS_MAX members."""
        for at in range(0, len(data), PIECE_BYTES):
            self._feed(data[at : at + PIECE_BYTES])

    @property
    def complete(self) -> bool:
        """Whether the object has ended."""
        return self._count > 0 and self._depth == 0

    def begun(self) -> Member | None:
        """The member that has begun and not ended, its value as far as it came."""
        return _member(bytes(self._member), cut=False)

    def _feed(self, data: bytes) -> None:
        if not self.opening:
            data = data.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n")
            self.opening = data[:1]
        if self.opening != b"{":
            return
        data = self._held + data
        odd = (len(data) - len(data.rstrip(b"\\"))) % 2
        self._held = data[-1:] if odd else b""
        data = data[: len(data) - odd]
        if self._depth < 2 or not self._stays_inside(data):
            self._split(data)

    def _stays_inside(self, data: bytes) -> bool:
        """Whether the outer object is not reached in this piece: then only its depth is followed.

        Everything but quotes and brackets is dropped at the speed of memory; so are quotes with nothing between them,
        which changes nothing for what stands around them.
        """
        marks = data.replace(b"\\\\", b"").replace(b'\\"', b"") if b"\\" in data else data
        marks = marks.translate(None, _REST).replace(b'""', b"")
        texts = marks.split(b'"')
        outside = b"".join(texts[self._quoted :: 2]).replace(b"{}", b"").replace(b"[]", b"")
        depths = np.cumsum(_STEPS[np.frombuffer(outside, np.uint8)]) + self._depth
        if len(depths):
            if depths.min() < 2:
                return False
            self._depth = int(depths[-1])
        self._quoted ^= len(texts) % 2 == 0
        self._keep(data)
        return True

    def _split(self, data: bytes) -> None:
        """Cut the outer object at its commas."""
        masked = re.sub(rb"\\.", b"__", data, flags=re.DOTALL) if b"\\" in data else data
        text = np.frombuffer(masked, np.uint8)
        lower = text | 0x20  # makes a brace of a bracket, and of nothing else that is a mark
        at = np.flatnonzero((text == 0x22) | (text == 0x2C) | (lower == 0x7B) | (lower == 0x7D))
        quotes = text[at] == 0x22
        inside = np.bitwise_xor.accumulate(quotes) ^ self._quoted
        self._quoted = bool(inside[-1]) if len(at) else self._quoted
        at = at[~(quotes | inside)]
        steps = _STEPS[text[at]]
        depths = np.cumsum(steps) + self._depth
        self._depth = int(depths[-1]) if len(at) else self._depth
        ends = (depths == 0) | ((depths == 1) & (text[at] == 0x2C))
        begin = int(at[0]) + 1 if len(at) and not self._count and self._is_opening(depths, steps) else 0
        for end in at[ends].tolist():
            self._keep(data[begin:end])
            self._end()
            begin = end + 1
        self._keep(data[begin:])

    def _is_opening(self, depths: Any, steps: Any) -> bool:
        """Whether the first mark is the brace that opens the object."""
        return not self._member and depths[0] == 1 and steps[0] == 1

    def _keep(self, data: bytes) -> None:
        room = MEMBER_BYTES_MAX - len(self._member)
        self._member += data[:room]
        self._too_long = self._too_long or len(data) > room

    def _end(self) -> None:
        self._count += 1
        if self._count > MEMBERS_MAX:
            raise InvalidInput(f"The body is an object with more than {MEMBERS_MAX:,} members.")
        if member := _member(bytes(self._member), cut=self._too_long):
            self.members.append(member)
        self._member.clear()
        self._too_long = False


def _member(text: bytes, *, cut: bool) -> Member | None:
    key = _KEY.match(text)
    try:
        return key and Member(orjson.loads(key[1]), None if cut else text[key.end() :].strip(b" \t\r\n"))
    except orjson.JSONDecodeError:
        return None
