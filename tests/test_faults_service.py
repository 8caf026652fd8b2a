"""The service as processes: restarted again and again under imports, and a worker that may not grow."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import cycle
from pathlib import Path
from uuid import UUID

import httpx
import pytest

from faults import oracle
from faults.harness import Site, Worker, site, until
from faults.oracle import File
from rollcall.options import Options
from rollcall.receive import receive

LONG = "ROLLCALL_LONG" in os.environ
SECONDS, RESTART_SECONDS = (120.0, 5.0) if LONG else (5.0, 0.5)
IMPORTS, SOURCES = (20, 10) if LONG else (4, 2)
RECORDS = 3000 if LONG else 1500
PIECES, PIECE_SECONDS = 20, 0.05
MEMORY_BYTES = 300 << 20
FILE_BYTES = (2 << 30) if LONG else (64 << 20)
REJECTS, API_MORE_BYTES = (1_000_000 if LONG else 200_000), 64 << 20
CGROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path) as here:
        yield here


class Api:
    """An API process that listens on the same port again after every restart."""

    def __init__(self, place: Site) -> None:
        with socket.socket() as looking:
            looking.bind(("127.0.0.1", 0))
            self.port = int(looking.getsockname()[1])
        self._environment = os.environ | {
            "DATABASE_URL": place.url,
            "DATA_DIR": str(place.folder),
            "PORT": str(self.port),
        }
        self._log = (place.folder / f"api-{self.port}.log").open("wb")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "rollcall", "api"]
        self._process = subprocess.Popen(command, env=self._environment, stdout=self._log, stderr=self._log)

    @property
    def pid(self) -> int:
        return self._process.pid

    async def listens(self) -> bool:
        """Whether somebody is there."""
        assert self._process.poll() is None
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._log.close()

    async def restart(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(self._process.wait, 20) in (0, -signal.SIGTERM)
        self.start()
        await until(self.listens, 20, "the API listens again")


class Client:
    """Posts and asks until it is answered, by one API or the other. `answers`: how often which status came."""

    def __init__(self, http: httpx.AsyncClient, apis: list[Api]) -> None:
        self._http, self._ports = http, [api.port for api in apis]
        self.answers: Counter[int | str] = Counter()

    async def ask(self, method: str, path: str, *, body: bytes = b"", **headers: str) -> httpx.Response:
        """The first answer but 409 and 503; by whoever is there."""
        for port in cycle(random.sample(self._ports, 2)):
            try:
                answer = await self._http.request(
                    method, f"http://127.0.0.1:{port}{path}", content=slowly(body) if body else None, headers=headers
                )
            except httpx.TransportError as error:
                self.answers[type(error).__name__] += 1
            else:
                self.answers[answer.status_code] += 1
                if answer.status_code not in (409, 503):
                    return answer
            await asyncio.sleep(0.1)
        raise AssertionError

    async def load(self, file: File) -> UUID:
        """Post a file and wait for the end of its import."""
        key = f"{file.source} {file.edition}"
        sent = {"X-Source": file.source, "Content-Type": "text/csv", "Idempotency-Key": key}
        answer = await self.ask("POST", "/import", body=file.csv(), **sent)
        assert answer.status_code == 200, answer.text
        job_id = answer.json()["jobId"]
        while (await self.ask("GET", f"/imports/{job_id}?wait=1")).json()["state"] in ("queued", "running"):
            pass  # the wait is the service's
        return UUID(job_id)


async def slowly(body: bytes) -> AsyncIterator[bytes]:
    """A body that takes a second, so that restarts meet it."""
    size = len(body) // PIECES + 1
    for begin in range(0, len(body), size):
        yield body[begin : begin + size]
        await asyncio.sleep(PIECE_SECONDS)


async def restarting(apis: list[Api], workers: list[Worker], start: Callable[[], Worker], done: asyncio.Event) -> None:
    """Every few seconds one API and one worker, each when the ones before are ready; for ever."""
    for api in cycle(apis):
        await asyncio.sleep(RESTART_SECONDS)
        oldest = workers.pop(0)
        oldest.send(signal.SIGTERM)
        workers.append(start())
        await api.restart()
        assert await oldest.exited(25) == 0
        await workers[-1].number()
        done.set()


async def test_service_rolling_restart(place: Site) -> None:
    """Two APIs, two workers, and clients that try again: every import ends well, and no answer is a fault."""
    await oracle.instrument(place.url, slow=0.08)
    files = [File(f"source {number % SOURCES}", number // SOURCES, RECORDS) for number in range(IMPORTS)]
    once = asyncio.Event()
    with ExitStack() as stack:

        def start() -> Worker:
            return stack.enter_context(place.worker(records=300))

        apis, workers = [stack.enter_context(Api(place)) for _ in range(2)], [start(), start()]
        for worker in workers:
            await worker.number()
        async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
            client = Client(http, apis)
            trouble = asyncio.create_task(restarting(apis, workers, start, once))
            try:
                posted = await asyncio.wait_for(all_of(files, client, once), 6 * SECONDS + 60)
                assert not trouble.done(), trouble.exception()
            except TimeoutError:
                raise AssertionError(f"not all are loaded; answers were {client.answers}") from None
            finally:
                trouble.cancel()
                await asyncio.wait([trouble])
        attempts = await place.query("select max(attempt) from rollcall.imports")

    sys.stdout.write(f"{len(posted)} imports, answers {dict(client.answers)}, highest attempt {attempts[0][0]}\n")
    assert await oracle.violations(place.url, posted) == []
    assert {(await place.show(job_id)).state for job_id in posted} == {"succeeded"}
    assert {status for status in client.answers if isinstance(status, int)} <= {200, 409, 503}, client.answers
    assert attempts[0][0] > 1 or not LONG, "no worker was told to stop while it had work: this test tests nothing"


async def all_of(files: list[File], client: Client, once: asyncio.Event) -> dict[UUID, File]:
    """Load them: those of one Source one after the other, and all of them spread over the time; the first ones before
    anything has been restarted, and the others after it."""
    began = time.monotonic()

    async def of_one_source(number: int) -> dict[UUID, File]:
        posted: dict[UUID, File] = {}
        for index in range(number, IMPORTS, SOURCES):
            await asyncio.sleep(max(0, began + SECONDS * index / IMPORTS - time.monotonic()))
            if posted:
                await once.wait()
            posted[await client.load(files[index])] = files[index]
        return posted

    found = await asyncio.gather(*(of_one_source(number) for number in range(SOURCES)))
    return {job_id: file for posted in found for job_id, file in posted.items()}


# Memory


@contextmanager
def confined() -> Iterator[list[str]]:
    """What to put before a command so that the kernel kills it when it takes more: as root, with cgroups of version 1.

    Elsewhere nothing: there it is only measured.
    """
    group = CGROUPS / f"rollcall-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(MEMORY_BYTES))
    except OSError:
        yield []
        return
    try:
        yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "confined"]
    finally:
        group.rmdir()


def most_memory(process: int) -> int:
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


async def wide_records() -> AsyncIterator[bytes]:
    """A CSV file of FILE_BYTES, four kilobytes a Record: the bytes bound a Part, not the Records."""
    yield b"name,email,note\n"
    note = b"x" * 4032
    for block in range(FILE_BYTES >> 20):
        yield b"".join(b"Ann %07d,u%07d@example.org,%s\n" % (n, n, note) for n in range(block << 8, (block + 1) << 8))


async def test_service_a_worker_stays_small(place: Site) -> None:
    with (
        confined() as within,
        Worker([*within, sys.executable, "-m", "rollcall", "worker"], place.folder, place.url) as worker,
    ):
        await worker.number()
        job_id = await receive(
            wide_records(),
            database=place.database,
            store=place.store,
            wish=lambda: ("crm", Options.parse({})),
            segment_bytes=None,
        )
        job = await place.final(job_id, max(60, FILE_BYTES >> 20))
        most = most_memory(worker.pid)

    sys.stdout.write(f"{FILE_BYTES >> 20} MiB: a worker of at most {most >> 20} MiB\n")
    assert (job.state, job.attempt, job.created) == ("succeeded", 1, FILE_BYTES >> 12)
    assert most < MEMORY_BYTES


async def test_service_rejects_need_little_room(place: Site) -> None:
    """Of a file of nothing but Rejects few are stored; all of them are counted, and found again for whoever asks."""
    lines = b"".join(b"Ann Lee,nowhere.%d,+49 30 %d\n" % (number, number) for number in range(REJECTS))
    job_id = await place.post("crm", b"name,email,phone\n" + lines)
    with Worker([sys.executable, "-m", "rollcall", "worker"], place.folder, place.url) as worker:
        job = await place.final(job_id, 60)
        most = most_memory(worker.pid)
    count = 0
    with Api(place) as api:
        await until(api.listens, 20, "the API listens")
        idle = most_memory(api.pid)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{api.port}", trust_env=False, timeout=60) as client,
            client.stream("GET", f"/imports/{job_id}/rejects", params={"format": "ndjson"}) as answer,
        ):
            async for block in answer.aiter_bytes():
                count += block.count(b"\n")
        more = most_memory(api.pid) - idle

    sys.stdout.write(f"{REJECTS:,} Rejects: a worker of {most >> 20} MiB, an API of {more >> 20} MiB more\n")
    assert (job.state, job.by_code, count) == ("succeeded", {"email_invalid": REJECTS}, REJECTS)
    assert await place.query("select count(*), max(record) from rollcall.rejects") == [(100_000, 100_000)]
    assert most < MEMORY_BYTES
    assert more < API_MORE_BYTES
