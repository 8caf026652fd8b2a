"""A multipart form with one file in it, read as it arrives.

    form = Form(boundary, body)
    file = await form.file()          reads the fields before the file
    async for chunk in form.rest(): … the file's bytes; then the fields after it, to the closing boundary

The file is never held in memory, and a form without its closing boundary is UploadFailed: there the body broke off.
Libraries that do not notice that are the reason for this one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from typing import Any

from multipart import MultipartError, MultipartSegment, ParserLimitReached, PushMultipartParser

from rollcall.errors import InvalidInput, TooLarge, UploadFailed
from rollcall.options import GIVEN
from rollcall.web.import_request import invalid_request, misspelt, shorten, twice
from rollcall.web.responses import issue

PARTS_MAX = 100
HEADERS_MAX = 8
HEADER_BYTES_MAX = 8192
FIELD_BYTES_MAX = 1 << 20
OPTION_BYTES_MAX = 128 << 10


@dataclass(frozen=True)
class File:
    """What the form says about the file; for people only."""

    name: str | None
    content_type: str | None


class Form:
    """One form. `fields` holds the options read so far; the other fields are the sender's own."""

    def __init__(self, boundary: str, body: AsyncIterator[bytes]) -> None:
        self.fields: dict[str, str] = {}
        self._events = _events(boundary, body)

    async def file(self) -> File:
        """Read up to the file. Raises InvalidInput when there is none, UploadFailed, TooLarge."""
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                if event.name == "file":
                    return File(event.filename, event.content_type)
                await self._field(event)
        raise InvalidInput("The form holds no file.", issues=[issue("file", "required", "Add the file as `file`.")])

    async def rest(self) -> AsyncIterator[bytes]:
        """The file's bytes; exhausted when the whole form is read. Raises InvalidInput, UploadFailed, TooLarge."""
        empty = True
        async for event in self._events:
            if not isinstance(event, (bytes, bytearray)):
                break
            empty = False
            yield bytes(event)
        if empty:
            raise InvalidInput("The file is empty.", issues=[issue("file", "required", "The file is empty.")])
        async for event in self._events:
            if isinstance(event, MultipartSegment):
                if event.name == "file":
                    raise InvalidInput(
                        "The form holds several files.", issues=[issue("file", "too_big", "Send one file a request.")]
                    )
                await self._field(event)

    async def _field(self, segment: MultipartSegment) -> None:
        name = segment.name or ""
        if issues := misspelt([name]) + ([twice(name)] if name in self.fields else []):
            raise invalid_request(issues)
        value, length = bytearray(), 0
        async for event in self._events:
            if not isinstance(event, (bytes, bytearray)):
                break
            length += len(event)
            if length > FIELD_BYTES_MAX:
                raise TooLarge("A field of the form is larger than 1 MiB. The contacts belong in the field `file`.")
            if name in GIVEN and length <= OPTION_BYTES_MAX:
                value += event
        if segment.filename and length:
            message = "The contacts belong in the field `file`."
            raise InvalidInput(
                "The form holds a file in another field.", issues=[issue(shorten(name), "unknown", message)]
            )
        if name not in GIVEN:
            return
        if length > OPTION_BYTES_MAX:
            raise invalid_request([issue(name, "too_big", f"{name} is longer than {OPTION_BYTES_MAX:,} bytes.")])
        try:
            self.fields[name] = value.decode()
        except UnicodeDecodeError as error:
            raise invalid_request([issue(name, "invalid_utf8", f"{name} is not valid UTF-8.")]) from error


async def _events(boundary: str, body: AsyncIterator[bytes]) -> AsyncGenerator[Any, None]:
    """For each part its MultipartSegment, then its bytes in pieces, then None."""
    try:
        parser = PushMultipartParser(
            boundary,
            max_segment_count=PARTS_MAX,
            max_header_count=HEADERS_MAX,
            max_header_size=HEADER_BYTES_MAX,
        )
        async for chunk in body:
            for event in parser.parse(chunk):
                yield event
        parser.close()
    except ParserLimitReached as error:
        raise TooLarge("The form has too many fields, or too long headers.") from error
    except MultipartError as error:
        raise UploadFailed("The form is not whole; nothing was imported. Send it again.") from error
