"""Idempotency-Key: one request, one import, however often it is sent and whoever dies on the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from rollcall import keys, liveness, turns
from rollcall.database import SENDER_LOCK_CLASS, connect
from rollcall.pool import Pool
from service import Process, api, objects, rows, served, until

CSV = b"name,email\nAlice,alice@example.com\n"
JSON = {"source": "crm", "data": [{"name": "Alice", "email": "alice@example.com"}]}
NO_KEY = {"Content-Type": "text/csv", "X-Source": "crm"}
STREAM = NO_KEY | {"Idempotency-Key": "one"}


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with served(database_url, tmp_path, upload_chunk_size=65_536) as client:
        yield client


def form(boundary: str, *, source_first: bool = True, source: bytes = b"crm") -> dict[str, Any]:
    named = b'form-data; name="source"\r\n\r\n' + source
    file = b'form-data; name="file"; filename="a.csv"\r\n\r\n' + CSV
    start = f"--{boundary}\r\nContent-Disposition: ".encode()
    parts = (named, file) if source_first else (file, named)
    content = b"".join(start + part + b"\r\n" for part in parts) + f"--{boundary}--\r\n".encode()
    content_type = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return {"content": content, "headers": content_type | {"Idempotency-Key": "one"}}


def problem(answer: httpx.Response, status: int, code: str) -> None:
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert ("retry-after" in answer.headers) == (status == 409)


def one_import(database_url: str, folder: Path) -> None:
    """One import, one upload, one object, and nothing beside."""
    counts = "select (select count(*) from rollcall.imports), (select count(*) from rollcall.uploads)"
    assert rows(database_url, counts) == [(1, 1)]
    [(key, state)] = rows(database_url, "select key, state from rollcall.segments")
    assert ([path.name for path in objects(folder)], state) == ([key], "durable")


async def test_idempotency_key_fifty_at_once_are_one_import(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async def post() -> str:
        while True:
            answer = await client.post("/import", content=CSV, headers=STREAM)
            if answer.status_code == 200:
                assert answer.headers["location"] == f"/imports/{answer.json()['jobId']}"
                return answer.text
            problem(answer, 409, "STILL_ARRIVING")
            await asyncio.sleep(0.02)

    assert len(set(await asyncio.gather(*(post() for _ in range(50))))) == 1
    one_import(database_url, tmp_path)


async def test_idempotency_key_turns_of_one_sender_hold_no_connection(
    client: httpx.AsyncClient, database_url: str
) -> None:
    """Another process counts what the sender has under way: all of its requests here wait, and nobody else does."""
    async with await connect(database_url, "test") as another:
        await another.execute("select pg_advisory_lock(%s, hashtext(''))", (SENDER_LOCK_CLASS,))
        posts = [asyncio.create_task(client.post("/import", content=CSV, headers=NO_KEY)) for _ in range(60)]

        async def one_waits() -> bool:
            waiting = "select from pg_locks where not granted and classid = %s"
            return bool(await (await another.execute(waiting, (SENDER_LOCK_CLASS,))).fetchall())

        await until(one_waits)
        async with asyncio.timeout(2):
            assert (await client.get("/contacts", params={"limit": 1})).status_code == 200
    assert {answer.status_code for answer in await asyncio.gather(*posts)} == {200}


async def test_idempotency_key_turns_end_for_those_who_wait_too_long(
    client: httpx.AsyncClient, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "TURN_SECONDS", 0.1)
    async with await connect(database_url, "test") as another:
        await another.execute("select pg_advisory_lock(%s, hashtext(''))", (SENDER_LOCK_CLASS,))
        first = asyncio.create_task(client.post("/import", content=CSV, headers=NO_KEY))
        await until(lambda: len(turns._turns) > 0)
        second = await client.post("/import", content=CSV, headers=NO_KEY)
        assert (second.status_code, second.json()["code"]) == (503, "SERVER_BUSY")
    assert (await first).status_code == 200
    assert not turns._turns


async def test_idempotency_key_the_same_request_is_one_import_in_every_form(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    async def chunked() -> AsyncIterator[bytes]:
        yield CSV[:7]
        yield CSV[7:]

    first = (await client.post("/import", content=CSV, headers=STREAM)).json()
    for asked in (
        {"content": CSV, "headers": STREAM},
        {"content": chunked(), "headers": STREAM},
        {"content": CSV, "headers": STREAM | {"X-Use-Resumable": "true"}},
        form("x"),
        form("another-boundary", source_first=False),
    ):
        answer = await client.post("/import", **asked)
        assert (answer.status_code, answer.json()) == (200, first)
    one_import(database_url, tmp_path)
    key = {"Idempotency-Key": "two"}
    listed = [await client.post("/import", json=JSON, headers=key) for _ in range(2)]
    assert listed[0].json() == listed[1].json() != first


async def test_idempotency_key_another_request_under_the_key_is_refused(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    await client.post("/import", content=CSV, headers=STREAM)
    for asked in (
        {"content": CSV + b"Bob,bob@example.com\n", "headers": STREAM},
        {"content": CSV[:-1] + b" ", "headers": STREAM},
        {"content": b"", "headers": STREAM},
        {"content": CSV, "headers": STREAM | {"X-Source": "erp"}},
        {"content": CSV, "headers": STREAM, "params": {"onDuplicate": "skip"}},
        {"json": JSON, "headers": {"Idempotency-Key": "one"}},
        form("x", source=b"erp"),
    ):
        problem(await client.post("/import", **asked), 422, "IDEMPOTENCY_MISMATCH")
    one_import(database_url, tmp_path)


async def test_idempotency_key_a_refused_request_leaves_its_key_free(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    bad = {"source": "crm", "data": [{"name": "Alice", "email": "nobody"}]}
    assert (await client.post("/import", json=bad, headers={"Idempotency-Key": "one"})).status_code == 400
    assert (await client.post("/import", content=b"", headers=STREAM)).status_code == 400
    assert (await client.post("/import", content=CSV, headers=STREAM)).status_code == 200
    one_import(database_url, tmp_path)


async def test_idempotency_key_a_key_is_a_text_of_255_characters(client: httpx.AsyncClient, database_url: str) -> None:
    for given in ("", "x" * 256):
        answer = await client.post("/import", content=CSV, headers=STREAM | {"Idempotency-Key": given})
        problem(answer, 400, "INVALID_INPUT")
        assert answer.json()["issues"][0]["path"] == ["Idempotency-Key"]
    twice = httpx.Headers([*STREAM.items(), ("Idempotency-Key", "two")])
    problem(await client.post("/import", content=CSV, headers=twice), 400, "INVALID_INPUT")
    longest = httpx.Headers({**STREAM, "Idempotency-Key": "é" * 255}, encoding="utf-8")
    assert (await client.post("/import", content=CSV, headers=longest)).status_code == 200
    assert rows(database_url, "select length(idempotency_key) from rollcall.uploads") == [(255,)]


async def test_idempotency_key_a_key_is_kept_for_a_day(client: httpx.AsyncClient, database_url: str) -> None:
    jobs = []
    for hours in (0, 23, 2):
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "update rollcall.uploads set created_at = created_at - make_interval(hours => %s)", (hours,)
            )
        jobs.append((await client.post("/import", content=CSV, headers=STREAM)).json()["jobId"])
    assert jobs[0] == jobs[1] != jobs[2]


async def test_idempotency_key_a_key_belongs_to_its_sender(client: httpx.AsyncClient, database_url: str) -> None:
    await client.post("/import", content=CSV, headers=STREAM)
    async with Pool(database_url) as database, database.session() as tx:
        shown = [await keys.create(tx, name) for name in ("a", "b")]
    jobs = []
    for key in (*shown, shown[0]):
        answer = await client.post("/import", content=CSV, headers=STREAM | {"Authorization": f"Bearer {key}"})
        jobs.append(answer.json()["jobId"])
    assert jobs[0] == jobs[2] != jobs[1]


class Body:
    """A body that stands still until it is let go."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield CSV[:7]
        await self.end.wait()
        yield CSV[7:]


def age(database_url: str) -> None:
    """As if what arrives had not been seen for a while."""
    with psycopg.connect(database_url) as connection:
        connection.execute("update rollcall.uploads set seen_at = seen_at - interval '21 s' where state = 'arriving'")


FULL_FOR_A_MOMENT = """
create sequence tried;
create function refuse() returns trigger language plpgsql as $$ begin
    if nextval('tried') <= 2 then raise exception using errcode = '53100'; end if;
    return new;
end $$;
create trigger refuse before update on rollcall.uploads for each row when (new.state = 'arriving')
    execute function refuse();
"""


@pytest.mark.parametrize("first", ["", FULL_FOR_A_MOMENT], ids=["", "the disk is full for a moment"])
async def test_idempotency_key_a_twin_that_is_seen_is_waited_for(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path, first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.1)
    body = Body()
    sending = asyncio.create_task(client.post("/import", content=body, headers=STREAM))
    await until(lambda: bool(objects(tmp_path)))
    age(database_url)
    with psycopg.connect(database_url) as connection:
        connection.execute(first.encode())
    late = "select from rollcall.uploads where seen_at < clock_timestamp() - interval '20 s'"
    await until(lambda: not rows(database_url, late))
    problem(await client.post("/import", content=CSV, headers=STREAM), 409, "STILL_ARRIVING")
    body.end.set()
    job = (await sending).json()
    assert (await client.post("/import", content=CSV, headers=STREAM)).json() == job
    one_import(database_url, tmp_path)


@pytest.mark.parametrize("resumable", ["true", "false"])
async def test_idempotency_key_a_twin_that_thaws_too_late_imports_nothing(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path, resumable: str
) -> None:
    body = Body()
    frozen = STREAM | {"X-Use-Resumable": resumable}
    sending = asyncio.create_task(client.post("/import", content=body, headers=frozen))
    await until(lambda: bool(rows(database_url, "select from rollcall.uploads")))
    if resumable == "false":
        await until(lambda: bool(objects(tmp_path)))
    age(database_url)
    job = (await client.post("/import", content=CSV, headers=STREAM)).json()
    body.end.set()
    assert (await sending).json()["code"] == ("UPLOAD_FAILED" if resumable == "true" else "STORE_UNAVAILABLE")
    one_import(database_url, tmp_path)
    assert (await client.post("/import", content=CSV, headers=STREAM)).json() == job


def lock(database_url: str, table: str) -> psycopg.Connection[Any]:
    connection = psycopg.connect(database_url)
    connection.execute(f"lock table rollcall.{table} in share mode".encode())
    return connection


def waiting(connection: psycopg.Connection[Any]) -> bool:
    found = connection.execute(
        "select from pg_locks w join pg_locks h using (database, relation) where not w.granted and h.granted"
        " and h.pid = pg_backend_pid()"
    )
    return found.fetchone() is not None


async def begin(port: int, body: bytes = b"") -> asyncio.StreamWriter:
    """Send the head of the request, and so much of its body."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    head = "".join(f"{name}: {value}\r\n" for name, value in STREAM.items())
    writer.write(
        f"POST /import HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {len(CSV)}\r\n\r\n".encode() + body
    )
    return writer


async def killed_before_the_object(process: Process, port: int, url: str, folder: Path) -> None:
    with lock(url, "segments") as holding:
        sending = await begin(port)
        await until(lambda: waiting(holding))
        process.kill()
    sending.close()
    assert not objects(folder)


async def killed_in_the_object(process: Process, port: int, url: str, folder: Path) -> None:
    sending = await begin(port, CSV[:7])
    await until(lambda: bool(objects(folder)))
    process.kill()
    sending.close()


async def killed_after_the_object(process: Process, port: int, url: str, folder: Path) -> None:
    sending = await begin(port)
    await until(lambda: bool(objects(folder)))
    with lock(url, "segments") as holding:
        sending.write(CSV)
        await until(lambda: waiting(holding))
        process.kill()
    sending.close()
    assert [path.suffix for path in objects(folder)] == [""]


async def killed_before_the_commit(process: Process, port: int, url: str, folder: Path) -> None:
    with lock(url, "imports") as holding:
        sending = await begin(port, CSV)
        await until(lambda: waiting(holding))
        process.kill()
    sending.close()
    assert rows(url, "select state from rollcall.segments") == [("durable",)]


async def killed_after_the_commit(process: Process, port: int, url: str, folder: Path) -> None:
    sending = await begin(port, CSV)
    await until(lambda: bool(rows(url, "select from rollcall.imports")))
    process.kill()
    sending.close()


KILLS = (
    killed_before_the_object,
    killed_in_the_object,
    killed_after_the_object,
    killed_before_the_commit,
    killed_after_the_commit,
)


async def test_idempotency_key_an_api_that_is_killed_leaves_one_import_to_the_same_request(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    """Stopped at each step by a lock that its next statement needs; `client` is another API beside it."""
    async with AsyncExitStack() as stack:
        running = await asyncio.gather(*(stack.enter_async_context(api(database_url, tmp_path)) for _ in KILLS))
        for kill, (process, port) in zip(KILLS, running, strict=True):
            await kill(process, port, database_url, tmp_path)
            process.wait()
            done = kill is killed_after_the_commit
            if not done:
                problem(await client.post("/import", content=CSV, headers=STREAM), 409, "STILL_ARRIVING")
                age(database_url)
            answers = [await client.post("/import", content=CSV, headers=STREAM) for _ in range(2)]
            assert len({answer.text for answer in answers}) == 1, kill.__name__
            assert answers[0].status_code == 200
            one_import(database_url, tmp_path)
            clear(database_url, tmp_path)


def clear(database_url: str, folder: Path) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute("truncate rollcall.uploads cascade")
    for path in objects(folder):
        path.unlink()
