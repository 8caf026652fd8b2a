"""A request's body as it arrives: whole, in time and not too large, or an exception.

A slow client holds one of few places, so it has to send: no silence of IDLE_SECONDS, and BYTES_PER_SECOND on
average over any WINDOW_SECONDS. Only the time in which the client is waited for counts, not what the disk takes.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator

from fastapi import Request
from starlette.requests import ClientDisconnect

from rollcall.errors import RequestTimeout, TooLarge, UploadFailed

IDLE_SECONDS = 30.0
WINDOW_SECONDS = 60.0
BYTES_PER_SECOND = 1024


def content_length(request: Request, bytes_max: int) -> int:
    """How long the body will be, by its Content-Length; 0: it does not say. Raises TooLarge."""
    length = int(request.headers.get("content-length", 0))
    if length > bytes_max:
        raise _too_large(bytes_max)
    return length


async def paced_body(request: Request, bytes_max: int) -> AsyncGenerator[bytes, None]:
    """The body in pieces. Raises UploadFailed when it breaks off, RequestTimeout when it is slow, TooLarge."""
    expected, received, pace, stream = content_length(request, bytes_max), 0, Pace(), request.stream()
    while True:
        began = time.monotonic()
        try:
            async with asyncio.timeout(IDLE_SECONDS):
                piece = await anext(stream, b"")
        except ClientDisconnect as error:
            raise UploadFailed from error
        except TimeoutError as error:
            raise RequestTimeout(f"No byte came for {IDLE_SECONDS:.0f} seconds; nothing was imported.") from error
        if not piece:
            break
        received += len(piece)
        if received > bytes_max:
            raise _too_large(bytes_max)
        if pace.slow(time.monotonic() - began, len(piece)):
            raise RequestTimeout(
                f"Less than {BYTES_PER_SECOND:,} bytes a second came for {WINDOW_SECONDS:.0f} seconds; nothing was"
                " imported."
            )
        yield piece
    if expected and received != expected:
        raise UploadFailed


def _too_large(bytes_max: int) -> TooLarge:
    return TooLarge(f"The body is larger than {bytes_max:,} bytes (MAX_UPLOAD_SIZE).")


class Pace:
    """How much came in how much waiting, over the last window."""

    def __init__(self) -> None:
        self._waited, self._received = 0.0, 0
        self._marks = deque([(0.0, 0)])

    def slow(self, seconds: float, count: int) -> bool:
        """After so many seconds more of waiting, so many bytes came: whether the window is full and too little in it.

        Exact to a sixtieth of the window: that is how often a mark is set.
        """
        self._waited += seconds
        self._received += count
        since, before = self._marks[0]
        while len(self._marks) > 1 and self._marks[1][0] <= self._waited - WINDOW_SECONDS:
            self._marks.popleft()
            since, before = self._marks[0]
        if self._waited - self._marks[-1][0] >= WINDOW_SECONDS / 60:
            self._marks.append((self._waited, self._received))
        spent = self._waited - since
        return spent >= WINDOW_SECONDS and self._received - before < spent * BYTES_PER_SECOND
