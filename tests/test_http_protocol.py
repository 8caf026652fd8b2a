"""The wire, with raw sockets: requests that two readers would end at different places, slow heads, crowds."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from rollcall.web import http_protocol
from service import listening, rows, until

CSV = "name,email\nAlice,alice@example.com\n"
START = "POST /import?source=crm HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
LENGTH = f"Content-Length: {len(CSV)}\r\n"
CHUNKED = "Transfer-Encoding: chunked\r\n"
CHUNKS = f"{len(CSV):x}\r\n{CSV}\r\n0\r\n\r\n"
SMUGGLED = "GET /contacts HTTP/1.1\r\nHost: localhost\r\n\r\n"
LIVE = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n"

AMBIGUOUS = {
    "length and chunks": f"{START}{LENGTH}{CHUNKED}\r\n{CHUNKS}{SMUGGLED}",
    "chunks and length": f"{START}{CHUNKED}{LENGTH}\r\n{CHUNKS}{SMUGGLED}",
    "two lengths": f"{START}{LENGTH}Content-Length: 1\r\n\r\n{CSV}",
    "the same length twice": f"{START}{LENGTH}{LENGTH}\r\n{CSV}",
    "a list of lengths": f"{START}Content-Length: {len(CSV)}, {len(CSV)}\r\n\r\n{CSV}",
    "a signed length": f"{START}Content-Length: +{len(CSV)}\r\n\r\n{CSV}",
    "a negative length": f"{START}Content-Length: -{len(CSV)}\r\n\r\n{CSV}",
    "a hexadecimal length": f"{START}Content-Length: 0x10\r\n\r\n{CSV}",
    "a length of two words": f"{START}Content-Length: 3 4\r\n\r\n{CSV}",
    "a length that overflows": f"{START}Content-Length: 18446744073709551651\r\n\r\n{CSV}",
    "no length": f"{START}Content-Length:\r\n\r\n{SMUGGLED}",
    "another coding": f"{START}Transfer-Encoding: xchunked\r\n\r\n{CHUNKS}",
    "identity": f"{START}Transfer-Encoding: identity\r\n\r\n{SMUGGLED}",
    "chunked, then another": f"{START}Transfer-Encoding: chunked, identity\r\n\r\n{CHUNKS}",
    "another, then chunked": f"{START}Transfer-Encoding: gzip, chunked\r\n\r\n{CHUNKS}",
    "chunked twice": f"{START}{CHUNKED}{CHUNKED}\r\n{CHUNKS}",
    "chunked in quotes": f'{START}Transfer-Encoding: "chunked"\r\n\r\n{CHUNKS}',
    "chunked after a tab": f"{START}Transfer-Encoding: \x0bchunked\r\n\r\n{CHUNKS}",
    "chunks in HTTP/1.0": f"{START}{CHUNKED}\r\n{CHUNKS}".replace("/1.1", "/1.0"),
    "a chunk that overflows": f"{START}{CHUNKED}\r\n10000000000000023\r\n{CSV}\r\n0\r\n\r\n",
    "a chunk of all sizes": f"{START}{CHUNKED}\r\nffffffffffffffffff\r\n{CSV}\r\n0\r\n\r\n",
    "a negative chunk": f"{START}{CHUNKED}\r\n-23\r\n{CSV}\r\n0\r\n\r\n",
    "a chunk with 0x": f"{START}{CHUNKED}\r\n0x23\r\n{CSV}\r\n0\r\n\r\n",
    "a chunk and a blank": f"{START}{CHUNKED}\r\n23 \r\n{CSV}\r\n0\r\n\r\n",
    "a blank and a chunk": f"{START}{CHUNKED}\r\n 23\r\n{CSV}\r\n0\r\n\r\n",
    "a chunk without a size": f"{START}{CHUNKED}\r\n\r\n{CSV}\r\n0\r\n\r\n",
    "a chunk too short": f"{START}{CHUNKED}\r\n22\r\n{CSV}\r\n0\r\n\r\n",
    "chunks by line feeds": f"{START}{CHUNKED}\r\n{CHUNKS}".replace("\r\n", "\n").replace("\n", "\r\n", 5),
    "an extension with a line feed": f"{START}{CHUNKED}\r\n23;a\n{CSV}\r\n0\r\n\r\n",
    "an extension with a return": f"{START}{CHUNKED}\r\n23;a\rb\r\n{CSV}\r\n0\r\n\r\n",
    "line feeds alone": f"{START}{LENGTH}\r\n".replace("\r\n", "\n") + CSV,
    "one line feed": f"{START}{LENGTH}".replace("Host: localhost\r\n", "Host: localhost\n") + f"\r\n{CSV}",
    "an end by a line feed": f"{START}{LENGTH}\n{CSV}",
    "a return alone": f"{START}X-A: b\r{LENGTH}\r\n{CSV}",
    "a folded header": f"{START}X-A: b\r\n c\r\n{LENGTH}\r\n{CSV}",
    "a folded coding": f"{START}Transfer-Encoding:\r\n\tchunked\r\n\r\n{CHUNKS}",
    "a blank before the first header": START.replace("Host", " Host") + f"{LENGTH}\r\n{CSV}",
    "a blank before the colon": f"{START}Content-Length : {len(CSV)}\r\n\r\n{CSV}",
    "a tab before the colon": f"{START}Transfer-Encoding\t: chunked\r\n\r\n{CHUNKS}",
    "no colon": f"{START}X-A\r\n{LENGTH}\r\n{CSV}",
    "no name": f"{START}: a\r\n{LENGTH}\r\n{CSV}",
    "a NUL in a value": f"{START}X-Source: a\0b\r\n{LENGTH}\r\n{CSV}",
    "a NUL in a name": f"{START}X-\0: a\r\n{LENGTH}\r\n{CSV}",
    "no host": LIVE.replace("Host: localhost\r\n", "") + "\r\n",
    "two hosts": f"{LIVE}Host: localhost\r\n\r\n",
    "HTTP/0.9": "GET /health/live\r\n\r\n",
    "HTTP/1.2": f"{LIVE}\r\n".replace("1.1", "1.2"),
    "HTTP/2": f"{LIVE}\r\n".replace("1.1", "2.0"),
    "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "a tunnel": "CONNECT example.com:443 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a tunnel that upgrades": "CONNECT / HTTP/1.1\r\nHost: localhost\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
    "a path that is no ASCII": LIVE.replace("live", "\xe9") + "\r\n",
    "a path with a blank": LIVE.replace("live", "li ve") + "\r\n",
    "TLS": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n",
}


@pytest.fixture
async def port(database_url: str, tmp_path: Path) -> AsyncGenerator[int, None]:
    async with listening(database_url, tmp_path) as port:
        yield port


async def said(port: int, sent: str) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode("latin-1"))
    answer = await reader.read()
    writer.close()
    return answer


def problem(answer: bytes, status: int, code: str) -> None:
    """One answer and no more: the one error body, and the end of the connection."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status), answer
    assert b"connection: close" in head.lower()
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert f"x-request-id: {problem['requestId']}".encode() in head


async def test_http_protocol_a_request_that_could_be_read_in_two_ways_is_refused(port: int, database_url: str) -> None:
    for name, sent in AMBIGUOUS.items():
        answer = await said(port, sent)
        assert answer.startswith(b"HTTP/1.1 400 "), name
        problem(answer, 400, "INVALID_INPUT")
    await until(lambda: not rows(database_url, "select id from rollcall.uploads"))
    assert not rows(database_url, "select id from rollcall.imports")


async def test_http_protocol_those_requests_are_good_but_for_what_is_refused(port: int) -> None:
    for sent in (f"{START}{LENGTH}\r\n{CSV}", f"{START}{CHUNKED}\r\n{CHUNKS}", f"{LIVE}\r\n", f"\r\n{LIVE}\r\n"):
        answer = await said(port, sent.replace("Host: localhost", "Host: localhost\r\nConnection: close", 1))
        assert answer.startswith(b"HTTP/1.1 200 "), sent
    assert (await said(port, "GET /health/live HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 ")


async def test_http_protocol_an_offer_to_upgrade_is_passed_over(port: int, database_url: str) -> None:
    offer = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"
    for sent in (f"{START}{offer}{LENGTH}\r\n{CSV}", f"{START}{offer}{CHUNKED}\r\n{CHUNKS}", f"{LIVE}{offer}\r\n"):
        answer = await said(port, sent + LIVE + "Connection: close\r\n\r\n")
        assert answer.count(b"HTTP/1.1 200 ") == 2, sent
    assert rows(database_url, "select bytes_total from rollcall.imports") == [(len(CSV),)] * 2


async def test_http_protocol_connection_takes_any_number_of_offers_to_upgrade(port: int) -> None:
    offer = f"{LIVE}Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
    answer = await said(port, offer * 1000 + LIVE + "Connection: close\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200 ") == 1001


def test_http_protocol_connections_follow_the_files_of_the_process() -> None:
    command = [
        sys.executable,
        "-c",
        "from rollcall.web.http_protocol import *; raise_file_limit(); print(connections_max())",
    ]
    for limit, connections in ((256, 52), (1024, 308), (4096, 1332), (10_000, 3300)):
        limited = ["prlimit", f"--nofile={limit}:{limit}", *command]
        assert int(subprocess.run(limited, check=True, capture_output=True).stdout) == connections


async def test_http_protocol_what_follows_the_last_chunk_is_no_header(port: int, database_url: str) -> None:
    sent = START.replace("?source=crm", "") + "Connection: close\r\n" + CHUNKED
    answer = await said(port, f"{sent}X-Source: crm\r\n\r\n{CHUNKS[:-2]}X-Source: other\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert rows(database_url, "select source from rollcall.imports") == [("crm",)]
    assert b" 400 " in await said(port, f"{sent}\r\n{CHUNKS[:-2]}X-Source: other\r\n\r\n")
    for endless in (f"{CHUNKS[:-2]}X: {'x' * 400_000}", CHUNKS[:-2] + "X: x\r\n" * 12_000, f"23;{'x' * 400_000}"):
        problem(await said(port, f"{sent}X-Source: crm\r\n\r\n{endless}"), 431, "HEADERS_TOO_LARGE")


async def test_http_protocol_a_head_has_64_kib(port: int) -> None:
    fits = f"{LIVE}Connection: close\r\nX-A: {'x' * 65_000}\r\n\r\n"
    assert (await said(port, fits)).startswith(b"HTTP/1.1 200 ")
    for sent in (
        f"{LIVE}X-A: {'x' * 65_600}\r\n\r\n",
        LIVE + "X-A: x\r\n" * 8_200 + "\r\n",
        f"{LIVE}X-A: {'x' * 400_000}",
        f"GET /{'x' * 65_600} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        f"GET /{'x' * 400_000}",
    ):
        problem(await said(port, sent), 431, "HEADERS_TOO_LARGE")


async def test_http_protocol_a_refusal_is_never_taken_for_another_answer(port: int) -> None:
    waiting = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert await said(port, waiting + "garbage\r\n\r\n") == b""
    answer = await said(port, f"{START}Connection: close\r\nContent-Length: 9999999999999\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_http_protocol_a_head_that_does_not_come_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    problem(await said(port, LIVE), 408, "REQUEST_TIMEOUT")
    assert await said(port, "") == await said(port, "\r\n") == b""
    answered = await said(port, f"{LIVE}\r\n{LIVE}")
    assert answered.startswith(b"HTTP/1.1 200 ")
    assert answered.count(b"HTTP/1.1 408 ") == 1


async def trickle(port: int, begun: str, drop: str) -> float:
    """Send that, then a little again and again; seconds until it is let go."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    began = time.monotonic()
    writer.write(begun.encode())
    end = asyncio.create_task(reader.read())
    while not end.done():
        writer.write(drop.encode())
        await asyncio.wait([end], timeout=0.02)
    with suppress(ConnectionError):  # of what was sent too late
        await end
    writer.close()
    return time.monotonic() - began


async def test_http_protocol_a_little_now_and_then_keeps_nothing_open(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.3)
    refused = f"POST /nope HTTP/1.1\r\nHost: localhost\r\n{LENGTH.strip()}000\r\n\r\n"
    for begun, drop in ((LIVE, "X-A: b\r\n"), ("", "\r\n"), (f"{LIVE}\r\n", "\r\n"), (refused, "x")):
        assert 0.2 < await trickle(port, begun, drop) < 5


def established(port: int, client: socket.socket) -> bool:
    """Whether the server still holds its end."""
    ends = f":{port:04X} ", f":{client.getsockname()[1]:04X} 01"
    lines = Path("/proc/net/tcp").read_text().splitlines()
    return any(ends[0] in line[:24] and ends[1] in line for line in lines)


async def test_http_protocol_an_answer_that_nobody_takes_is_given_up(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "TAKE_SECONDS", 0.3)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 400)
        assert established(port, client)
        await until(lambda: not established(port, client))


async def test_http_protocol_a_crowd_that_asks_nothing_keeps_nobody_out(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTIONS_MAX", 20)
    crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
    for _, writer in crowd[10:]:
        writer.write(LIVE.encode())
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/health/live")).status_code == 200
    problem(await crowd[0][0].read(), 503, "SERVER_BUSY")
    crowd[-1][1].write(b"\r\n")
    assert (await crowd[-1][0].readline()).startswith(b"HTTP/1.1 200 ")
    for _, writer in crowd:
        writer.close()
