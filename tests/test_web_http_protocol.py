"""Requests that break off on the wire, against a real server: no import, no row, no object."""

from __future__ import annotations

import asyncio
import socket
import struct
from pathlib import Path

import httpx
import pytest

from rollcall.web import body
from service import listening, objects, rows, until

ROWS = "name,email\r\n" + "Alice,alice@example.com\r\n" * 10_000
HEAD = "POST /import?source=crm HTTP/1.1\r\nHost: localhost\r\nContent-Type: {}\r\n{}\r\n\r\n"
WHOLE = f"{len(ROWS):x}\r\n{ROWS}\r\n"
FORM = "multipart/form-data; boundary=x"
FILE = f'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n{ROWS}\r\n'
CUT = {
    "length not met": HEAD.format("text/csv", f"Content-Length: {len(ROWS) + 1}") + ROWS,
    "chunks without an end": HEAD.format("text/csv", "Transfer-Encoding: chunked") + WHOLE,
    "a chunk cut": HEAD.format("text/csv", "Transfer-Encoding: chunked") + WHOLE + "400\r\n" + "x" * 100,
    "a chunk of no size": HEAD.format("text/csv", "Transfer-Encoding: chunked") + WHOLE + "zz\r\n",
    "json not met": HEAD.format("application/json", "Content-Length: 100") + '{"source":"crm","data":[',
    "a form cut": HEAD.format(FORM, f"Content-Length: {len(FILE) + 5}") + FILE,
    "a form without its end": HEAD.format(FORM, f"Content-Length: {len(FILE)}") + FILE,
}


async def cut(port: int, sent: str, *, reset: bool) -> bytes:
    """Send that and no more; what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode())
    await writer.drain()
    if reset:
        connection = writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.close()
        return b""
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


@pytest.mark.parametrize("reset", [False, True])
async def test_http_protocol_a_body_that_is_cut_leaves_nothing(database_url: str, tmp_path: Path, reset: bool) -> None:
    async with listening(database_url, tmp_path) as port:
        for name, sent in CUT.items():
            for resumable in ("", "X-Use-Resumable: true\r\n"):
                answer = await cut(
                    port, sent.replace("Host: localhost\r\n", f"Host: localhost\r\n{resumable}"), reset=reset
                )
                assert not answer.startswith(b"HTTP/1.1 2"), name
        await until(lambda: not objects(tmp_path) and not rows(database_url, "select id from rollcall.uploads"))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            whole = await client.post("/import?source=crm", content=ROWS, headers={"Content-Type": "text/csv"})
            assert whole.status_code == 200
    assert len(rows(database_url, "select id from rollcall.imports")) == len(objects(tmp_path)) == 1


async def test_http_protocol_a_body_that_stands_still_is_given_up(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "IDLE_SECONDS", 0.2)
    async with listening(database_url, tmp_path) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CUT["length not met"].encode())
        answer = await reader.readuntil(b"}")
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"REQUEST_TIMEOUT" in answer
    assert not objects(tmp_path)
    assert not rows(database_url, "select id from rollcall.uploads")


async def test_http_protocol_too_large_is_said_while_the_body_comes(database_url: str, tmp_path: Path) -> None:
    async with listening(database_url, tmp_path, max_upload_size=1 << 20) as port:
        for length in ("Content-Length: 3000000000", "Transfer-Encoding: chunked"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD.format("text/csv", length).encode())
            for _ in range(8):
                writer.write(WHOLE.encode())
            assert b"413" in await reader.readline()
            writer.close()
    assert not objects(tmp_path)


async def test_http_protocol_a_server_that_stops_ends_what_is_under_way(database_url: str, tmp_path: Path) -> None:
    async with listening(database_url, tmp_path) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(CUT["length not met"].encode())
        await until(lambda: bool(objects(tmp_path)))
    writer.close()
    assert not objects(tmp_path)
    assert not rows(database_url, "select id from rollcall.uploads")
