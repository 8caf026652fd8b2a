"""The wire: one connection of a client, before and between its requests.

uvicorn's protocol on llhttp, which refuses what lets two readers of one stream disagree about where a request ends (h11
does not: it takes bare line feeds, folded headers, and a length beside chunks). Added here is what uvicorn leaves to a
proxy in front of it, which there need not be:

    a head has HEAD_BYTES_MAX, and HEAD_SECONDS until it is whole; so has a body that was answered before its end
    an answer that nobody takes is given up after TAKE_SECONDS
    when the files of the process run out, the one that has waited longest for a head is let go
    one Host; chunked alone, or a length; what follows the last chunk is no header; an offer to upgrade is passed over
    what is refused here gets the one error body

How fast a body has to come is the business of who reads it (`body`).
"""

from __future__ import annotations

import asyncio
import resource
from typing import cast
from uuid import uuid4

import httptools
import structlog
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from rollcall.errors import Busy, HeadersTooLarge, InvalidInput, RequestTimeout, RollcallError
from rollcall.telemetry import REQUESTS
from rollcall.web.responses import problem

HEAD_BYTES_MAX = 64 << 10
HEAD_SECONDS = 30.0
TAKE_SECONDS = 60.0
LINGER_SECONDS = 2.0
CONNECTIONS_MAX = FILES_MAX = 8192
FILES_OF_OURS, FILES_OF_A_CONNECTION = 100, 3
"""Each request may need its socket, a file of the store and one to be judged in."""


def connections_max() -> int:
    """How many connections this process has files for."""
    return max(10, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_OF_OURS) // FILES_OF_A_CONNECTION)


def raise_file_limit() -> None:
    """Many systems begin with 1,024 files a process and let it have more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = FILES_MAX if hard == resource.RLIM_INFINITY else min(hard, FILES_MAX)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


log = structlog.get_logger()


class Connection(HttpToolsProtocol):
    """One connection. Runs on the event loop; its methods are called by the transport and by the parser."""

    _in_head = _refused = False
    _head_bytes = 0
    _unread = 0
    """Bytes that the parser took since it last handed something over."""
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._look_at_the_clock()
        if len(self.connections) > min(CONNECTIONS_MAX, connections_max()):
            waiting = [each for each in self.connections if isinstance(each, Connection) and not each._unanswered()]
            min(waiting, key=lambda each: each._deadline.when() if each._deadline else 0.0)._refuse(Busy())

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_the_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        self._unset_keepalive_if_required()
        try:
            while data:
                data = self._feed(data)
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause if isinstance(cause, RollcallError) else InvalidInput("This is not valid HTTP/1.1."))
        except HeadersTooLarge as error:
            self._refuse(error)
        self._look_at_the_clock()

    def _feed(self, data: bytes) -> bytes:
        """Parse it; what is left to be parsed."""
        self._unread += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            return self._without_upgrade(data[offer.args[0] :])
        if self._unread > HEAD_BYTES_MAX:  # it hands a header over when it is whole, an extension of a chunk never
            raise HeadersTooLarge
        return b""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._head_bytes = True, 0

    def on_body(self, body: bytes) -> None:
        self._unread = 0
        super().on_body(body)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._in_head:
            self._unset_keepalive_if_required()
            self._look_at_the_clock()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + len(": \r\n"))
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        version, names = self.parser.get_http_version(), [name for name, _ in self.headers]
        codings = [value.lower() for name, value in self.headers if name == b"transfer-encoding"]
        if version not in ("1.0", "1.1") or self.parser.get_method() == b"CONNECT":
            raise InvalidInput("This service speaks HTTP/1.1, and is no proxy.")
        if names.count(b"host") != 1 and (version == "1.1" or b"host" in names):
            raise InvalidInput("A request has one header Host.")
        if codings and (version == "1.0" or codings != [b"chunked"]):
            raise InvalidInput("The only Transfer-Encoding is chunked.")
        self._in_head = False
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._forget_the_clock()
        self._deadline = self.loop.call_later(TAKE_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_the_clock()
        self._look_at_the_clock()

    def _should_upgrade(self) -> bool:
        # To the parser such a request ends with its head. Nothing is begun then: it is read again, without the offer.
        return True

    def _without_upgrade(self, rest: bytes) -> bytes:
        """The request again, without the offer: Java's client offers h2c with every first request, body and all."""
        version = self.parser.get_http_version().encode()
        head = [self.scope["method"].encode(), b" ", self.url, b" HTTP/", version, b"\r\n"]
        for name, value in self.headers:
            if name != b"upgrade":
                head += [name, b": ", value, b"\r\n"]
        self.parser = httptools.HttpRequestParser(self)
        self._unread = 0
        return b"".join([*head, b"\r\n", rest])

    def _count(self, count: int) -> None:
        self._unread = 0
        self._head_bytes += count
        if self._head_bytes > HEAD_BYTES_MAX:
            raise HeadersTooLarge

    def _look_at_the_clock(self) -> None:
        """It runs while no request is under way: bytes that come then, and silence, lead to one or to the end."""
        if self._refused or self.flow.write_paused or self.transport.is_closing():
            return
        if self._unanswered():
            self._forget_the_clock()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._expire)

    def _unanswered(self) -> RequestResponseCycle | None:
        """The request under way."""
        cycle = cast(RequestResponseCycle | None, self.cycle)
        return cycle if cycle is not None and not cycle.response_complete else None

    def _forget_the_clock(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        if self._in_head:
            self._refuse(RequestTimeout(f"The head of the request did not come within {HEAD_SECONDS:.0f} seconds."))
        else:
            self.transport.close()

    def _refuse(self, error: RollcallError) -> None:
        """Answer, unless that would be taken for the answer to another request; and close."""
        under_way = self._unanswered()
        if self._refused or self.transport.is_closing():
            return
        if under_way is not None and (under_way.response_started or not under_way.more_body):
            self.transport.close()
            return
        if under_way is not None:
            under_way.disconnected = True
            under_way.message_event.set()
        request_id = uuid4().hex
        answer = problem(error, request_id, {"X-Request-Id": request_id, "Connection": "close"})
        head = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        self.transport.write(STATUS_LINE[error.status] + head + b"\r\n" + bytes(answer.body))
        REQUESTS.labels("other", "none", str(error.status)).inc()
        log.info("request.refused", request_id=request_id, code=error.code, status=error.status)
        # Closed at once, the kernel would answer what still comes with a reset, and the client might never read this.
        self._refused = True
        self.transport.write_eof()
        self.flow.resume_reading()
        self._forget_the_clock()
        self._deadline = self.loop.call_later(LINGER_SECONDS, self.transport.abort)
