"""Imports as they are shown: listed, followed, cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, LiteralString, cast

import httpx
import psycopg
import pytest
from fastapi import FastAPI

from rollcall import app
from rollcall.settings import Settings
from rollcall.web import watch
from service import rows, served, until

KEYS = [
    *(
        "jobId",
        "source",
        "fileName",
        "state",
        "format",
        "counts",
        "total",
        "unprocessed",
        "bytes",
        "sha256",
        "sameFileAs",
    ),
    *(
        "rate",
        "eta",
        "ahead",
        "rejectsByCode",
        "error",
        "options",
        "plan",
        "attempt",
        "createdBy",
        "createdAt",
        "startedAt",
        "finishedAt",
    ),
]
CSV = b"name,email\nAlice,alice@example.com\n"


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    async with served(database_url, tmp_path) as client:
        yield client


async def send(client: httpx.AsyncClient, source: str = "crm") -> str:
    answer = await client.post("/import", content=CSV, headers={"Content-Type": "text/csv", "X-Source": source})
    assert answer.status_code == 200, answer.text
    return str(answer.headers["location"])


def execute(database_url: str, statement: str) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(statement.encode())


RUN = "update rollcall.imports set state = 'running', attempt = 1, started_at = created_at - interval '10 s'"
LOAD = """insert into rollcall.import_parts (import_id, loader, first, last, attempt, position, read, created, rejected,
                                             by_code)
          select id, 0, 1, 3, 1, bytes_total / 2, 3, 2, 1, '{"email_invalid": 1}' from rollcall.imports"""


async def test_get_imports_a_queued_import_is_shown_whole(client: httpx.AsyncClient) -> None:
    await send(client)
    location = await send(client)
    job = (await client.get(location)).json()
    assert list(job) == KEYS
    assert location == f"/imports/{job['jobId']}"
    assert (job["state"], job["ahead"], job["bytes"]) == ("queued", 1, {"read": 0, "total": len(CSV)})
    assert job["options"] == {"onInvalid": "reject", "onDuplicate": "update"}
    assert [job[key] for key in ("format", "total", "unprocessed", "rate", "eta", "error", "plan")] == [None] * 7


async def test_get_imports_progress_is_what_the_ledger_has(client: httpx.AsyncClient, database_url: str) -> None:
    location = await send(client)
    execute(database_url, f"{RUN}; {LOAD}")
    job = (await client.get(location)).json()
    assert job["counts"] | {"read": 3, "created": 2, "rejected": 1} == job["counts"]
    assert job["rejectsByCode"] == {"email_invalid": 1}
    assert job["bytes"] == {"read": len(CSV) // 2, "total": len(CSV)}
    assert 0 < job["rate"] <= 0.3
    assert job["eta"] >= 10
    execute(
        database_url,
        "update rollcall.imports set state = 'failed', error_code = 'X', error_message = 'It failed.', total = 5,"
        " read = 3, created = 3, finished_at = started_at + interval '2 s'",
    )
    job = (await client.get(location)).json()
    assert (job["unprocessed"], job["rate"], job["eta"]) == (2, 1.5, None)
    assert job["error"] == {"code": "X", "message": "It failed."}


async def test_get_imports_bytes_read_stay_when_an_import_is_cancelled_and_retried(
    client: httpx.AsyncClient, database_url: str
) -> None:
    location = await send(client)
    execute(database_url, f"{RUN}; {LOAD}")
    half = {"read": len(CSV) // 2, "total": len(CSV)}
    assert (await client.get(location)).json()["bytes"] == half
    for verb in ("cancel", "retry"):
        job = (await client.post(f"{location}/{verb}")).json()
        assert (job["bytes"], job["unprocessed"]) == (half, None), verb


async def test_get_imports_an_import_shows_the_name_of_its_file(client: httpx.AsyncClient) -> None:
    assert (await client.get(await send(client))).json()["fileName"] is None
    name = "Kundenliste Übersicht.csv"
    sent = await client.post("/import", data={"source": "crm"}, files={"file": (name, CSV)})
    assert (await client.get(sent.headers["location"])).json()["fileName"] == name


async def test_get_imports_an_import_that_is_known_is_not_sent_again(
    client: httpx.AsyncClient, database_url: str
) -> None:
    location = await send(client)
    tag = (await client.get(location)).headers["etag"]
    for known in (tag, tag.removeprefix("W/"), f'"other", {tag}', "*"):
        answer = await client.get(location, headers={"If-None-Match": known})
        assert (answer.status_code, answer.headers["etag"], answer.content) == (304, tag, b"")
    execute(database_url, RUN)
    answer = await client.get(location, headers={"If-None-Match": tag})
    assert answer.status_code == 200
    assert answer.headers["etag"] != tag


async def test_get_imports_waiting_ends_with_a_change(client: httpx.AsyncClient, database_url: str) -> None:
    location = await send(client)
    tag = ""
    for change in (f"{RUN}; {LOAD}", "update rollcall.import_parts set position = 1"):
        headers = {"If-None-Match": tag} if tag else {}
        waiting = asyncio.create_task(client.get(location, params={"wait": 60}, headers=headers))
        done, _ = await asyncio.wait([waiting], timeout=0.6)
        assert not done
        execute(database_url, change)
        answer = await waiting
        assert (answer.status_code, answer.json()["state"]) == (200, "running")
        tag = answer.headers["etag"]
    answer = await client.get(location, params={"wait": 0.3}, headers={"If-None-Match": tag})
    assert answer.status_code == 304
    execute(database_url, "update rollcall.imports set state = 'cancelled', finished_at = started_at")
    final = await client.get(location, params={"wait": 60})
    assert final.json()["state"] == "cancelled"
    answer = await client.get(location, params={"wait": 60}, headers={"If-None-Match": final.headers["etag"]})
    assert answer.status_code == 304


async def test_get_imports_cancelling_is_final(client: httpx.AsyncClient) -> None:
    location = await send(client)
    for _ in range(2):
        answer = await client.post(f"{location}/cancel")
        assert (answer.status_code, answer.json()["state"]) == (200, "cancelled")
        assert answer.json()["finishedAt"]
    nobody = "/imports/00000000-0000-7000-8000-000000000000"
    assert (await client.post(f"{nobody}/cancel")).json()["code"] == "NOT_FOUND"
    assert (await client.get(f"{nobody}/rejects")).json()["code"] == "NOT_FOUND"


async def test_get_imports_retrying(client: httpx.AsyncClient, database_url: str) -> None:
    location = await send(client)
    waiting = (await client.post(f"{location}/retry")).json()
    assert (waiting["state"], waiting["attempt"]) == ("queued", 0)
    await client.post(f"{location}/cancel")
    for _ in range(2):
        answer = await client.post(f"{location}/retry")
        assert (answer.status_code, answer.json()["state"], answer.json()["finishedAt"]) == (200, "queued", None)
    await client.post(f"{location}/cancel")
    execute(database_url, "delete from rollcall.segments")
    answer = await client.post(f"{location}/retry")
    assert (answer.status_code, answer.json()["code"]) == (409, "OBJECT_MISSING")
    assert "Send the file again" in answer.json()["error"]
    assert (await client.get(location)).json()["state"] == "cancelled"
    nobody = "/imports/00000000-0000-7000-8000-000000000000"
    assert (await client.post(f"{nobody}/retry")).json()["code"] == "NOT_FOUND"


async def test_get_imports_a_file_that_came_before_is_named(client: httpx.AsyncClient) -> None:
    """However it arrives, and only for the same source."""
    resumable = {"X-Use-Resumable": "true", "Content-Type": "text/csv", "X-Source": "crm"}
    sent = [await send(client), await send(client, "shop"), await send(client)]
    sent.append((await client.post("/import", content=CSV, headers=resumable)).headers["location"])
    sent.append((await client.post("/import", content=CSV + b"\n", headers=resumable)).headers["location"])
    jobs = [(await client.get(location)).json() for location in sent]
    sums = [hashlib.sha256(data).hexdigest() for data in (CSV, CSV + b"\n")]
    assert [job["sha256"] for job in jobs] == [sums[0]] * 4 + [sums[1]]
    assert [job["sameFileAs"] for job in jobs] == [None, None, jobs[0]["jobId"], jobs[2]["jobId"], None]


async def test_imports_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    sent = [await send(client, source) for source in ("a", "b", "a", "a")]
    await client.post(f"{sent[0]}/cancel")

    async def listed(**params: str | int) -> tuple[list[int], int | None]:
        answer = (await client.get("/imports", params=params)).json()
        assert all(list(job) == KEYS for job in answer["imports"])
        return [sent.index(f"/imports/{job['jobId']}") for job in answer["imports"]], answer["next"]

    assert await listed() == ([3, 2, 1, 0], None)
    assert await listed(source="a", state="queued") == ([3, 2], None)
    assert await listed(state="cancelled") == ([0], None)
    assert await listed(source="b", state="cancelled") == ([], None)
    assert await listed(source="nobody's") == ([], None)
    seen, after = await listed(limit=3)
    assert seen == [3, 2, 1]
    assert after is not None
    assert await listed(limit=3, after=after) == ([0], None)
    assert await listed(source="a", state="queued", after=after) == ([], None)
    seen, after = await listed(source="a", limit=2)
    assert seen == [3, 2]
    assert after is not None
    assert await listed(source="a", limit=2, after=after) == ([0], None)
    for wrong in ({"state": "done"}, {"limit": 101}, {"limit": 0}, {"after": "x"}):
        assert (await client.get("/imports", params=wrong)).json()["code"] == "INVALID_INPUT"


async def test_get_imports_a_thousand_waiting_requests_leave_the_pool_free(database_url: str, tmp_path: Path) -> None:
    service = app.create(Settings(data_dir=tmp_path), database_url=database_url)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://localhost") as client,
    ):
        waits, pool = service.state.service.watch._waiting, service.state.service.database._pool
        locations = [await send(client, f"source {number}") for number in range(20)]
        waiting: list[asyncio.Task[httpx.Response]] = []

        def all_wait() -> bool:
            return sum(len(waiters) for waiters in waits.values()) == len(waiting)

        for location in locations:
            waiting += [asyncio.create_task(client.get(location, params={"wait": 60})) for _ in range(50)]
            await until(all_wait)
        began = time.monotonic()
        for _ in range(5):
            assert (await client.get("/contacts", params={"limit": 1})).status_code == 200
            assert pool.get_stats()["pool_available"] >= 1
        assert time.monotonic() - began < 5
        execute(database_url, RUN)
        assert {answer.json()["state"] for answer in await asyncio.gather(*waiting)} == {"running"}
        assert not waits
    shown = "select count(*) <= 11 from pg_stat_activity where application_name = 'rollcall:api'"
    assert rows(database_url, shown)[0][0]


async def test_get_imports_requests_that_begin_at_once_are_found_together(database_url: str, tmp_path: Path) -> None:
    """Each still takes a session to learn whether a key is needed, but no second one."""
    service = app.create(Settings(data_dir=tmp_path), database_url=database_url)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://localhost") as client,
    ):
        locations = [await send(client, f"source {number}") for number in range(10)]
        pool = service.state.service.database._pool
        before = pool.get_stats()["requests_num"]
        answers = await asyncio.gather(*(client.get(location) for location in locations * 10))
        assert [f"/imports/{answer.json()['jobId']}" for answer in answers] == locations * 10
        assert pool.get_stats()["requests_num"] - before < 150


async def test_get_imports_waiting_ends_at_once_when_the_database_notifies(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also on a listening connection that was lost and dialled again."""
    monkeypatch.setattr(watch, "POLL_SECONDS", 60.0)
    monkeypatch.setattr(watch, "REDIAL_SECONDS", 0.05)
    await until(lambda: listens(client))
    for lost in (False, True):
        location = await send(client)
        waiting = asyncio.create_task(client.get(location, params={"wait": 60}))
        done, _ = await asyncio.wait([waiting], timeout=0.3)
        assert not done
        if lost:
            await ask(client, "select pg_terminate_backend(pid) from pg_stat_activity where query like 'listen%'")
            await until(lambda: listens(client))
        await client.post(f"{location}/cancel")
        assert (await waiting).json()["state"] == "cancelled"


async def test_get_imports_waiting_ends_without_notifications(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pooler between may swallow them."""

    async def never(_: watch.Watch) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(watch.Watch, "_listen", never)
    location = await send(client)
    waiting = asyncio.create_task(client.get(location, params={"wait": 60}))
    await asyncio.wait([waiting], timeout=0.3)
    await client.post(f"{location}/cancel")
    assert (await waiting).json()["state"] == "cancelled"


async def ask(client: httpx.AsyncClient, statement: LiteralString) -> list[Any]:
    assert isinstance(client._transport, httpx.ASGITransport)
    service = cast(FastAPI, client._transport.app).state.service
    async with service.database.session() as tx:
        return list(await (await tx.execute(statement)).fetchall())


async def listens(client: httpx.AsyncClient) -> bool:
    found = "select from pg_stat_activity where application_name = 'rollcall:api:listen' and query like 'listen%'"
    return bool(await ask(client, f"{found} and state = 'idle'"))


async def test_get_imports_lists_of_imports_leave_out_what_is_long(
    client: httpx.AsyncClient, database_url: str
) -> None:
    for _ in range(20):
        location = await send(client)
    execute(
        database_url,
        """update rollcall.imports set
             options = jsonb_build_object('onInvalid', 'fail', 'mapping', repeat('x', 3 << 20)),
             plan = jsonb_build_object('format', 'csv', 'header', jsonb_build_array(repeat('y', 100000)),
                                       'mapping', jsonb_build_object('name', repeat('z', 3 << 20)))""",
    )
    answer = await client.get("/imports", params={"limit": 100})
    assert len(answer.content) < 100_000
    for job in answer.json()["imports"]:
        assert (job["format"], job["options"]) == ("csv", {"mapping": None, "onInvalid": "fail"})
        assert job["plan"] == {"format": "csv", "header": None, "mapping": None}
    job = (await client.get(location)).json()
    assert job["options"] == {"mapping": None, "onInvalid": "fail"}
    assert job["plan"] == {"format": "csv", "header": ["y" * 100_000], "mapping": None}
