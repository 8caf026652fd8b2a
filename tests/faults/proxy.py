"""A TCP proxy before Postgres that can be told when to do harm, and which.

    async with proxy(url) as before:
        connect to before.url
        before.judge = function of (link, bytes from the client) → what to do with them

Sees what clients send in plain text (TLS is refused by the URL). One message of a client is one call of `judge` where
the client waits for its answer before it sends the next, as psycopg does outside of a COPY.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import parse_qs, unquote, urlsplit

CHUNK_BYTES = 1 << 16
NAMED = re.compile(rb"application_name(?:\0([^\0]+)|', \$1, false\).*?(rollcall:[\w:-]+))", re.DOTALL)

Harm = Literal["pass", "cut", "reset", "answerless", "swallow", "late", "hang"]
"""`pass` none. `cut`: the bytes are dropped, both sides closed. `reset`: as `cut`, but by RST.
`answerless`: the server gets the bytes, and answers; then both sides are closed before the answer.
`swallow`: the client is closed, the server's side stays open and hears nothing more (a half-open connection).
`late`: as `swallow`, but the bytes reach the server when `deliver` is set.
`hang`: the bytes are dropped, and both sides stay open and hear nothing more: no timeout of TCP ends that.
"""
Judgement = Harm | asyncio.Event
"""What to do with a piece. An event: it is held back until that is set, and passes; the connection goes on."""


class Link:
    """One connection. `name`: the client's application_name, as it said last."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self.client, self.server, self.name = client, server, ""
        self.muted, self.answered = False, asyncio.Event()

    def close(self) -> None:
        for side in (self.client, self.server):
            side.close()


class Proxy:
    """`judge` is asked for every piece that a client sends; `latency` (seconds) and `limit` (bytes a second) slow both
    ways down. `harmed` counts what was done."""

    def __init__(self, url: str) -> None:
        self.judge: Callable[[Link, bytes], Judgement] = lambda link, data: "pass"
        self.latency, self.limit = 0.0, float("inf")
        self.deliver = asyncio.Event()
        self.harmed: list[tuple[str, Harm]] = []
        self.links: set[Link] = set()
        self.url = ""
        self._behind = urlsplit(url)
        self._holding: set[asyncio.Event] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answers, server = await self._dial()
        except OSError:
            writer.close()
            return
        link = Link(writer, server)
        self.links.add(link)
        try:
            await asyncio.gather(self._upstream(link, reader), self._downstream(link, answers))
        except OSError:
            pass
        finally:
            link.close()
            self.links.discard(link)

    def let_go(self) -> None:
        """Whatever is held back may go on."""
        for event in (*self._holding, self.deliver):
            event.set()

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        host = unquote(self._behind.hostname or "") or parse_qs(self._behind.query)["host"][0]
        port = self._behind.port or 5432
        if host.startswith("/"):
            return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}")
        return await asyncio.open_connection(host, port)

    async def _upstream(self, link: Link, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(CHUNK_BYTES):
            await self._slow(data)
            if named := NAMED.search(data):
                link.name = (named[1] or named[2]).decode()
            harm = self.judge(link, data)
            if isinstance(harm, asyncio.Event):
                self._holding.add(harm)
                await harm.wait()
            if isinstance(harm, asyncio.Event) or harm == "pass":
                link.server.write(data)
                await link.server.drain()
                continue
            self.harmed.append((link.name, harm))
            await self._harm(link, data, harm)
            return
        link.server.close()

    async def _harm(self, link: Link, data: bytes, harm: Harm) -> None:
        match harm:
            case "reset":
                stream: socket.socket = link.client.get_extra_info("socket")
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                link.client.transport.abort()
            case "answerless":
                link.muted = True
                link.server.write(data)
                await link.answered.wait()
            case "hang":
                await self.deliver.wait()
            case "swallow" | "late":
                link.client.close()
                await self.deliver.wait()
                if harm == "late":
                    link.server.write(data)
                    await link.server.drain()
                return
        link.close()

    async def _downstream(self, link: Link, answers: asyncio.StreamReader) -> None:
        while data := await answers.read(CHUNK_BYTES):
            if link.muted:
                break
            await self._slow(data)
            if not link.client.is_closing():
                link.client.write(data)
                await link.client.drain()
        link.answered.set()
        link.client.close()

    async def _slow(self, data: bytes) -> None:
        if self.latency or self.limit < float("inf"):
            await asyncio.sleep(self.latency + len(data) / self.limit)


@asynccontextmanager
async def proxy(url: str) -> AsyncIterator[Proxy]:
    """A proxy before the server of this URL."""
    before = Proxy(url)
    server = await asyncio.start_server(before.accept, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    behind = urlsplit(url)
    user = behind.username or "postgres"
    login = user if behind.password is None else f"{user}:{behind.password}"
    before.url = f"postgresql://{login}@127.0.0.1:{port}{behind.path}?sslmode=disable&gssencmode=disable"
    try:
        yield before
    finally:
        server.close()
        before.let_go()
        for link in list(before.links):
            link.close()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(server.wait_closed(), 5)
