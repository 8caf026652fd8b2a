"""`rollcall up` as it is run: what it starts, what it restarts, and that nothing of it stays behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
from typer.testing import CliRunner, Result

from rollcall import liveness, workers
from rollcall.cli import app
from rollcall.cli.children import FIRST_MISSES, LIVE_MISSES, ApiWatch, Child, WorkerWatch, run_until
from rollcall.cli.up import StartFailed
from test_cli import account, environment, until


def free_port() -> int:
    with socket.socket() as looking:
        looking.bind(("127.0.0.1", 0))
        return int(looking.getsockname()[1])


def children(parent: int) -> dict[str, int]:
    """The processes that this one started, by what they are."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            ppid = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except (OSError, IndexError):
            continue
        if ppid == parent and len(command) > 1:
            name = "postgres" if command[0].endswith(b"/postgres") else command[-2].decode()
            found[name] = int(entry.name)
    return found


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


class Up:
    """A running `rollcall up`."""

    def __init__(self, data_dir: Path) -> None:
        self.url = f"http://127.0.0.1:{(port := free_port())}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rollcall", "up", "--port", str(port), "--data-dir", str(data_dir)],
            env=environment(),
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said: list[str] = []
        for line in self.process.stderr:
            self.said.append(line)
            if line.startswith("  curl "):
                break
        assert self.said[-1:] == [line for line in self.said if line.startswith("  curl ")], self.said
        self.children = children(self.process.pid)

    def healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def another(self, name: str) -> bool:
        """Whether this child has been started again."""
        return children(self.process.pid).get(name, self.children[name]) != self.children[name]


@contextmanager
def started(data_dir: Path) -> Iterator[Up]:
    up = Up(data_dir)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.process.terminate()
        up.said += up.process.communicate(timeout=30)[1].splitlines()
        until(lambda: all(map(gone, up.children.values())), 30)


def test_up_serves_and_stops(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("list.csv").write_text("name,email\nAnn,ann@x.org\nBob,bob\n")
    with started(data_dir) as up:
        assert set(up.children) == {"postgres", "api", "worker"}

        def rollcall(*arguments: str) -> Result:
            return CliRunner().invoke(app, [*arguments, "--to", up.url])

        pasted = subprocess.run(up.said[-1], shell=True, capture_output=True, text=True, check=True)
        job = json.loads(pasted.stdout)["jobId"]
        until(lambda: "demo: succeeded" in rollcall("status", job).stdout)

        sent = rollcall("import", "list.csv", "--source", "crm")
        assert sent.exit_code == 0, sent.stderr
        assert sent.stdout.startswith("list.csv → crm: succeeded\n")
        assert account(sent.stdout) | {"read": 2, "created": 1, "rejected": 1} == account(sent.stdout)
        assert '"Bob","bob","2","email_invalid"' in Path("list.csv.rejects.csv").read_text()

        latest = rollcall("status").stdout.splitlines()
        assert [line.split()[1:3] for line in latest[1:]] == [["crm", "succeeded"], ["demo", "succeeded"]]
        job = latest[1].split()[0]
        assert account(rollcall("status", job).stdout)["rejected"] == 1
        assert json.loads(rollcall("rejects", job, "--format", "ndjson").stdout)["raw"] == "Bob,bob"
        assert rollcall("rejects", job, "--output", "bad.csv").exit_code == 0
        assert Path("bad.csv").read_bytes() == Path("list.csv.rejects.csv").read_bytes()
        again = rollcall("rejects", job, "--output", "bad.csv")
        assert (again.exit_code, again.stderr) == (1, "Error: bad.csv: File exists\n")
        unknown = rollcall("rejects", "no-job", "--output", "none.csv")
        assert (unknown.exit_code, unknown.stderr) == (1, "Error: Not found\n")
        assert not Path("none.csv").exists()

        taken = CliRunner().invoke(app, ["up", "--port", up.url.rpartition(":")[2], "--data-dir", "data"])
        assert taken.exit_code == 1
        assert "choose another port with --port" in taken.stderr
        assert not Path("data").exists()

        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(25) == 0


def test_up_restarts_what_dies_and_leaves_nothing_behind(data_dir: Path) -> None:
    with started(data_dir) as up:
        for name in ("worker", "api", "postgres"):
            os.kill(up.children[name], signal.SIGKILL)
            until(partial(up.another, name))
            until(up.healthy)
            up.children |= children(up.process.pid)
        up.process.kill()
        until(lambda: all(map(gone, up.children.values())), 30)
    events = [json.loads(line) for line in up.said if line.startswith("{")]
    restarts = [event for event in events if event["event"] == "up.restart"]
    assert [(event["child"], event.get("status")) for event in restarts] == [
        ("worker", -signal.SIGKILL),
        ("api", -signal.SIGKILL),
        ("postgres", None),
    ]
    assert "worker.ready" in {event["event"] for event in events}


def test_up_refuses_settings_that_need_more_connections_than_there_are(data_dir: Path) -> None:
    command = ["up", "--port", str(free_port()), "--data-dir", str(data_dir)]
    refused = CliRunner().invoke(app, command, env={"LOADERS": "16", "WORKER_CONCURRENCY": "100", "DATABASE_URL": ""})
    assert refused.exit_code == 1
    assert "  WORKER_CONCURRENCY: With LOADERS=16 up to 1,614 connections" in refused.stderr
    assert "Set it to 5 or less" in refused.stderr


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "600"])
    yield process
    process.kill()
    process.wait()


async def test_up_a_worker_is_frozen_when_it_is_silent_twice(
    database_url: str, sleeper: subprocess.Popen[bytes]
) -> None:
    worker, watch = Child("worker", {}, process=sleeper), WorkerWatch(database_url)

    async def look() -> bool:
        return await watch.frozen(worker)

    def beat(seconds_ago: float) -> None:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("delete from rollcall.workers")
            connection.execute(
                "insert into rollcall.workers (name, beat) values (%s, clock_timestamp() - make_interval(secs => %s))",
                (workers.name_of(sleeper.pid), seconds_ago),
            )

    try:
        assert not await look()  # it has not introduced itself yet
        beat(liveness.STALE_SECONDS / 2)
        assert not await look()
        beat(liveness.STALE_SECONDS * 2)
        assert not await look()
        beat(0)
        assert not await look()
        beat(liveness.STALE_SECONDS * 2)
        assert [await look(), await look()] == [False, True]
    finally:
        await watch.close()


async def test_up_api_is_frozen_when_it_does_not_answer_several_looks(sleeper: subprocess.Popen[bytes]) -> None:
    asked = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")  # whatever it says
        writer.close()

    api = Child("api", {}, process=sleeper)
    http = await asyncio.start_server(answer, "127.0.0.1", 0)
    watch = ApiWatch(f"http://127.0.0.1:{http.sockets[0].getsockname()[1]}")
    assert [await watch.frozen(api) for _ in range(3)] == [False] * 3
    assert asked == 3
    http.close()
    await http.wait_closed()
    assert [await watch.frozen(api) for _ in range(LIVE_MISSES)] == [False] * (LIVE_MISSES - 1) + [True]
    fresh = ApiWatch(watch.url)
    assert [await fresh.frozen(api) for _ in range(FIRST_MISSES)] == [False] * (FIRST_MISSES - 1) + [True]


async def test_up_api_that_takes_connections_and_never_answers_is_missed(
    sleeper: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # as a stopped process does: the kernel connects
        watch = ApiWatch(f"http://127.0.0.1:{silent.getsockname()[1]}")
        api = Child("api", {}, process=sleeper)
        looks = [await watch.frozen(api) for _ in range(FIRST_MISSES)]
    assert looks == [False] * (FIRST_MISSES - 1) + [True]


def test_up_restarts_an_api_that_is_frozen(data_dir: Path) -> None:
    with started(data_dir) as up:
        os.kill(up.children["api"], signal.SIGSTOP)
        until(partial(up.another, "api"), 90)
        until(up.healthy)
        assert not up.another("worker")
        up.children |= children(up.process.pid)


def test_up_goes_on_while_postgres_cannot_be_started(data_dir: Path) -> None:
    with started(data_dir) as up:
        home = data_dir / "postgres"
        control, aside = home / "data" / "global" / "pg_control", home / "aside"

        def tried_in_vain(times: int) -> bool:
            return (home / "postgres.log").read_text().count('global/pg_control"') >= times

        control.rename(aside)
        os.kill(up.children["postgres"], signal.SIGKILL)
        until(partial(tried_in_vain, 2), 60)
        answer = httpx.get(f"{up.url}/contacts", trust_env=False, timeout=20)
        assert (answer.status_code, answer.json()["code"]) == (503, "DATABASE_UNAVAILABLE")
        aside.rename(control)
        until(up.healthy, 60)

        up.children |= children(up.process.pid)
        control.rename(aside)
        os.kill(up.children["postgres"], signal.SIGKILL)
        until(partial(tried_in_vain, 4), 60)
        up.process.send_signal(signal.SIGINT)
        assert up.process.wait(20) == 0
        aside.rename(control)


async def test_up_run_until_stops_what_would_go_on() -> None:
    stopping, ended = asyncio.Event(), []

    async def forever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    asyncio.get_running_loop().call_later(0.05, stopping.set)
    await asyncio.wait_for(run_until(stopping, forever(), forever()), 5)
    assert ended == [True, True]


async def test_up_run_until_raises_what_fails() -> None:
    async def fail() -> None:
        raise StartFailed

    with pytest.raises(StartFailed):
        await asyncio.wait_for(run_until(asyncio.Event(), fail(), asyncio.sleep(60)), 5)
