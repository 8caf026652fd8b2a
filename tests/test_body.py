"""Bodies that take too long, too much room or too many places; and what an honest one costs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from structlog.testing import capture_logs

from rollcall import segment_writer
from rollcall.storage import files
from rollcall.web import body
from service import api, listening, objects, rows, served, until

MIB = 1 << 20
CSV = b"name,email\nAlice,alice@example.com\n"
STREAM = {"Content-Type": "text/csv", "X-Source": "crm"}
HEAD = (
    "POST /import?source=crm HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nX-Use-Resumable: {}\r\n{}\r\n\r\n"
)


def left(database_url: str, folder: Path) -> bool:
    return bool(objects(folder) or rows(database_url, "select id from rollcall.uploads"))


def problem(answer: bytes, status: int, code: str) -> None:
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer
    assert f'"code":"{code}"'.encode() in answer
    assert (b"\r\nretry-after: " in answer) == (status in (503, 507))


def test_body_the_pace_of_a_body(monkeypatch: pytest.MonkeyPatch) -> None:
    second, window = body.BYTES_PER_SECOND, int(body.WINDOW_SECONDS)

    def lasts(*counts: int) -> int:
        """Seconds, of these counts of bytes, until it is too slow."""
        pace = body.Pace()
        return next((number for number, count in enumerate(counts, 1) if pace.slow(1.0, count)), len(counts) + 1)

    assert lasts(*[second] * 1000) == 1001
    assert lasts(*[second - 1] * 1000) == window
    assert lasts(*[0] * (window - 1), second * window, *[0] * 1000) == 2 * window
    assert lasts(10 * MIB, *[second - 1] * 1000) == window + 1
    assert lasts(*[0, 2 * second] * 500) == 1001


async def drip(port: int, seconds: float, *, resumable: str = "false") -> bytes:
    """Send a byte now and then; what came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(HEAD.format(resumable, "Transfer-Encoding: chunked").encode())
    answer = asyncio.create_task(reader.readuntil(b"}"))
    while not answer.done():
        writer.write(b"1\r\nx\r\n")
        await asyncio.wait([answer], timeout=seconds)
    writer.close()
    return await answer


async def test_body_a_slow_body_is_let_go(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "IDLE_SECONDS", 0.4)
    monkeypatch.setattr(body, "WINDOW_SECONDS", 1.0)
    async with listening(database_url, tmp_path) as port:
        answers = await asyncio.gather(
            drip(port, 5.0), drip(port, 0.02), drip(port, 0.02, resumable="true"), drip(port, 0.3)
        )
        for answer in answers:
            problem(answer, 408, "REQUEST_TIMEOUT")
        assert [b"No byte came" in answer for answer in answers] == [True, False, False, False]
        await until(lambda: not left(database_url, tmp_path))


async def test_body_what_the_store_takes_is_not_the_clients_time(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(body, "BYTES_PER_SECOND", MIB)
    monkeypatch.setattr(segment_writer, "RETRY_SECONDS", (1.0,) * 10)
    store, aside = tmp_path / "store", tmp_path / "aside"

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(65_536)
        store.rename(aside)
        store.write_text("in the way")
        yield bytes(65_536)
        yield bytes(65_536)

    async with served(database_url, tmp_path, upload_chunk_size=65_536) as client:
        headers = STREAM | {"X-Use-Resumable": "true"}
        with capture_logs() as logs:
            sending = asyncio.create_task(client.post("/import", content=pieces(), headers=headers))
            await until(lambda: any(line["event"] == "segment.retry" for line in logs))
            store.unlink()
            aside.rename(store)
            assert (await sending).status_code == 200


class Body:
    """A body that stands still until it is let go."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield CSV
        await self.end.wait()


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on a disk with room for 16 MiB: a real one where that may be mounted."""
    folder = tmp_path / "small"
    folder.mkdir()
    size = (files.RESERVE_BYTES >> 20) + 16
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(folder)]
    if os.geteuid() == 0 and subprocess.run(mounting, capture_output=True, check=False).returncode == 0:
        yield folder
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
    else:
        disk = os.statvfs(folder)
        monkeypatch.setattr(files, "RESERVE_BYTES", disk.f_bavail * disk.f_frsize - 16 * MIB)
        yield folder


async def test_body_for_which_there_is_no_room_is_refused(database_url: str, small: Path) -> None:
    async with (
        listening(database_url, small) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for resumable in ("false", "true"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(HEAD.format(resumable, f"Content-Length: {1 << 30}").encode())
            problem(await reader.readuntil(b"}"), 507, "NO_SPACE")  # and nothing of it was sent
            writer.close()
            assert not left(database_url, small)
            answer = await client.post("/import", content=endless(), headers=STREAM | {"X-Use-Resumable": resumable})
            assert (answer.status_code, answer.json()["code"]) == (507, "NO_SPACE")
            assert answer.headers["retry-after"]
            assert not left(database_url, small)
        assert (await client.post("/import", content=CSV, headers=STREAM)).status_code == 200


async def endless() -> AsyncIterator[bytes]:
    for _ in range(256):
        yield bytes(MIB)


def memory(pid: int, name: str) -> int:
    """MiB, as the kernel counts them."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status[name].split()[0]) >> 10


def reset(pid: int) -> int:
    """Forget the most that it ever had; what it has now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return memory(pid, "VmRSS")


@asynccontextmanager
async def crowd(port: int, *sent: bytes) -> AsyncGenerator[None, None]:
    """500 connections that send so much and then nothing."""
    writers = []
    for number in range(500):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent[number % len(sent)])
        writers.append(writer)
    yield
    for writer in writers:
        writer.close()


async def test_body_a_long_body_costs_little_memory_and_a_crowd_costs_it_little_time(
    database_url: str, tmp_path: Path
) -> None:
    size = 2048 if os.environ.get("ROLLCALL_LONG") else 256
    async with api(database_url, tmp_path, MAX_QUEUED_IMPORTS="1000") as (process, port):

        async def upload(mib: int, **headers: str) -> float:
            async def pieces() -> AsyncIterator[bytes]:
                for _ in range(mib):
                    yield bytes(MIB)

            began = time.monotonic()
            async with httpx.AsyncClient(trust_env=False, timeout=300) as client:
                url = f"http://127.0.0.1:{port}/import"
                answer = await client.post(url, content=pieces(), headers=STREAM | headers)
            assert answer.status_code == 200
            for path in objects(tmp_path):
                path.unlink()
            return time.monotonic() - began

        await upload(32)
        idle = reset(process.pid)
        await upload(size)
        await upload(size // 8, **{"X-Use-Resumable": "true"})
        assert memory(process.pid, "VmHWM") - idle <= 64

        begun = b"POST /import?source=crm HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        alone, crowded = [], []
        for _ in range(4):  # in turn, so that others on the machine slow both
            alone.append(await upload(64))
            async with crowd(port, b"", begun[:20], begun):
                await upload(8)  # by then all of them are there
                crowded.append(await upload(64))
        assert min(crowded) <= 2 * min(alone)


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data; boundary=x", "text/csv"])
@pytest.mark.parametrize("repeated", [False, True], ids=["", "under a key that was used"])
async def test_body_post_import_counts_a_body_before_its_first_byte(
    database_url: str, tmp_path: Path, content_type: str, repeated: bool
) -> None:
    """Whatever it is, and also one that is sent again: a sender cannot hold more than its share of what is arriving."""
    key = {"Idempotency-Key": "one"} if repeated else {}
    async with (
        listening(database_url, tmp_path, max_arriving_uploads=1) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        if repeated:
            assert (await client.post("/import", content=CSV, headers=STREAM | key)).status_code == 200
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        head = {"Host": "localhost", "Content-Type": content_type, "X-Source": "crm", "Content-Length": "100"} | key
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"POST /import HTTP/1.1\r\n{lines}\r\n".encode())
        await until(lambda: bool(rows(database_url, "select from rollcall.uploads where state = 'arriving'")))
        answer = await client.post("/import", content=CSV, headers=STREAM)
        assert (answer.status_code, answer.json()["code"]) == (429, "TOO_MANY_REQUESTS")
        writer.close()
        await until(lambda: not rows(database_url, "select from rollcall.uploads where state = 'arriving'"))
        assert (await client.post("/import", content=CSV, headers=STREAM)).status_code == 200
