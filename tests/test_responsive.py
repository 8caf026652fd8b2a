"""What others notice of requests that cost as much as they can: nothing, neither probes nor small imports."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from service import api, until

MIB = 1 << 20
ALICE = b'{"name":"Alice","email":"alice@example.com"}'
JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def envelope(data: bytes) -> bytes:
    return b'{"source":"crm","data":[' + data + b"]}"


def fill(piece: bytes, size: int = 15 * MIB) -> bytes:
    """That piece, again and again, with commas between."""
    return b",".join([piece] * (size // (len(piece) + 1)))


def form(*fields: tuple[bytes, bytes]) -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
    return b"".join(head % field for field in fields) + b"--x--\r\n"


HOSTILE: dict[str, tuple[bytes, dict[str, str]]] = {
    "empty objects": (envelope(fill(b"{}")), JSON),
    "empty arrays in one record": (
        envelope(b'{"name":"A","email":"a@x.org","x":[' + fill(b"[]", 3 * MIB) + b"]}"),
        JSON,
    ),
    "brackets": (b"[" * (15 * MIB), JSON),
    "a deep record": (envelope(b'{"x":' * 500_000 + b"1" + b"}" * 500_000), JSON),
    "a long key": (envelope(b'{"' + b"a" * (15 * MIB) + b'":1}'), JSON),
    "keys of combining marks": (envelope(fill(b'{"e' + "\u0301\u0323".encode() * 20_000 + b'":1}')), JSON),
    "many keys": (envelope(b"{" + b",".join(b'"k%d":1' % number for number in range(300_000)) + b"}"), JSON),
    "good contacts": (envelope(fill(ALICE)), JSON),
    "escapes": (envelope(fill(b'{"name":"\\u0041\\n","email":"a@x.org","x":"\\ud83d\\ude00\\\\"}')), JSON),
    "long numbers": (envelope(fill(b'{"name":"A","email":"a@x.org","x":1%b}' % (b"0" * 4000))), JSON),
    "many members": (b'{"source":"crm",' + fill(b'"a":[]') + b"}", JSON),
    "a long source": (b'{"source":"' + "e\u0301".encode() * (3 * MIB) + b'","data":[' + ALICE + b"]}", JSON),
    "a string without its end": (envelope(b'"' + b"\\" * (15 * MIB)), JSON),
    "large fields": (form(*[(b"note", b"x" * (MIB - 1))] * 60, (b"source", b"crm")), FORM),
    "a large mapping": (form((b"mapping", b"[" * (MIB - 1)), (b"source", "\u0301".encode() * 400_000)), FORM),
}


async def slowest_while(client: httpx.AsyncClient, work: asyncio.Task[Any]) -> float:
    """The longest that `/health/live` took while this went on."""
    slowest = 0.0
    while not work.done():
        began = time.monotonic()
        assert (await client.get("/health/live")).status_code == 200
        slowest = max(slowest, time.monotonic() - began)
        await asyncio.sleep(0.01)
    return slowest


async def test_live_answers_whatever_is_posted(database_url: str, tmp_path: Path) -> None:
    async with api(database_url, tmp_path) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with (
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=100) as client,
            httpx.AsyncClient(base_url=url, trust_env=False, timeout=100) as watching,
        ):
            await watching.get("/health/live")
            for name, (body, headers) in HOSTILE.items():
                sending = asyncio.create_task(client.post("/import", content=body, headers=headers))
                slowest = await slowest_while(watching, sending)
                answer = await sending
                assert answer.status_code in (200, 400, 413), name
                assert len(answer.content) < 100_000, name
                assert slowest < 0.5, name


async def test_judging_is_shared_and_ends_with_its_client(database_url: str, tmp_path: Path) -> None:
    large = envelope(fill(b'{"name":"\\u0041","email":"a@x.org","x":{"y":["\\n"]}}'))
    small = envelope(ALICE)
    async with api(database_url, tmp_path) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=100) as client:
            for body in (envelope(fill(b"{}")), large):
                sending = [asyncio.create_task(client.post("/import", content=body, headers=JSON)) for _ in range(4)]
                await asyncio.sleep(0.5)
                took = []
                while not all(task.done() for task in sending):
                    began = time.monotonic()
                    assert (await client.post("/import", content=small, headers=JSON)).status_code == 200
                    took.append(time.monotonic() - began)
                for task in sending:
                    assert (await task).status_code in (200, 400)
                assert max(took, default=0) < 2
            gone = asyncio.create_task(client.post("/import", content=large, headers=JSON))
            await asyncio.sleep(0.5)
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone
            began = time.monotonic()
            await until(lambda: "UPLOAD_FAILED" in (tmp_path / "api.log").read_text() or refused(tmp_path) > 0)
            assert time.monotonic() - began < 2


def refused(folder: Path) -> int:
    lines = map(json.loads, (folder / "api.log").read_text(encoding="utf-8").splitlines())
    return sum(line.get("route") == "/import" and line.get("status") == 400 and line["seconds"] < 3 for line in lines)
