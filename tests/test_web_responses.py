"""What all answers share: one error body whatever went wrong, ids, health, metrics; and nothing tells too much."""

from __future__ import annotations

import asyncio
import json
import re
import time
from pathlib import Path

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs

from faults.proxy import proxy
from rollcall import liveness, workers
from rollcall import pool as pools
from rollcall.errors import InvalidInput
from rollcall.pool import Pool
from rollcall.web import checks, responses
from service import listening, rows, served, until

DEAD = "postgresql://secretuser:secretpassword@127.0.0.1:9/secretdatabase"
NOBODY = "/imports/00000000-0000-7000-8000-000000000000"


def problem(answer: httpx.Response, status: int, code: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert body["error"]
    assert body["requestId"] == answer.headers["x-request-id"]
    assert set(body) - {"issues", "issuesTotal"} == {"error", "code", "status", "requestId"}


async def test_responses_there_is_one_error_body(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        problem(await client.get("/nope"), 404, "NOT_FOUND")
        problem(await client.get("/imports/nope"), 404, "NOT_FOUND")
        problem(await client.get(NOBODY), 404, "NOT_FOUND")
        problem(await client.get(NOBODY, params={"wait": "x"}), 400, "INVALID_INPUT")
        problem(await client.get("/imports", params={"state": "lost"}), 400, "INVALID_INPUT")
        problem(await client.get("/imports", params={"after": str(1 << 63)}), 400, "INVALID_INPUT")
        wrong = await client.delete("/contacts")
        problem(wrong, 405, "METHOD_NOT_ALLOWED")
        assert wrong.headers["allow"] == "GET"
        one, other = await client.get("/health/live"), await client.get("/health/live")
        assert one.headers["x-request-id"] != other.headers["x-request-id"]


async def test_responses_what_nobody_foresaw_tells_nothing(database_url: str, tmp_path: Path) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("alter table public.contacts rename column name to secret")
    async with served(database_url, tmp_path) as client:
        with capture_logs() as logs:
            answer = await client.get("/contacts", params={"email": "alice@example.com"})
    problem(answer, 500, "INTERNAL")
    for text in (answer.text, repr(logs)):
        assert not re.search(r"alice|secret|select|Traceback", text)
    [failed] = [line for line in logs if line["event"] == "request.failed"]
    assert failed["error"] == "UndefinedColumn"
    assert failed["where"].startswith("contact_pages.py:")
    assert failed["request_id"] == answer.json()["requestId"]


async def test_responses_a_database_that_is_away_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools, "POOL_WAIT_SECONDS", 0.5)
    async with served(DEAD, tmp_path) as client:
        answer = await client.get("/contacts")
        problem(answer, 503, "DATABASE_UNAVAILABLE")
        assert answer.headers["retry-after"]
        assert "secret" not in answer.text
        health = await client.get("/health")
        assert (health.status_code, set(health.json())) == (503, {"status", "error", "timestamp"})
        assert health.json()["status"] == "unhealthy"
        assert (await client.get("/health/live")).status_code == 200
        problem(await client.get("/metrics"), 503, "DATABASE_UNAVAILABLE")  # whose key it is cannot be told


async def test_responses_a_database_that_takes_questions_and_answers_none(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No timeout of TCP ends that: a pooler before it may do so."""
    monkeypatch.setattr(liveness, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(pools, "POOL_WAIT_SECONDS", 0.5)
    async with proxy(database_url) as before, served(before.url, tmp_path) as client:
        assert (await client.get("/contacts")).status_code == 200
        before.judge = lambda link, data: "hang"
        problem(await client.get("/contacts"), 503, "DATABASE_UNAVAILABLE")
        before.judge = lambda link, data: "pass"
        assert (await client.get("/contacts")).status_code == 200


async def test_responses_a_statement_that_takes_too_long_is_given_up(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "STATEMENT_SECONDS", 1)
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("alter table public.contacts rename to others")
        connection.execute(
            "create view public.contacts as select o.* from pg_sleep(30) left join public.others o on true"
        )
    async with served(database_url, tmp_path) as client:
        answer = await client.get("/contacts")
        problem(answer, 503, "UNAVAILABLE")
        assert "took too long" in answer.json()["error"]


async def test_responses_database_locked_is_not_a_database_that_is_away(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        with psycopg.connect(database_url) as other:
            other.execute("lock table rollcall.imports, public.contacts in access exclusive mode")
            problem(await client.get("/contacts"), 503, "DATABASE_LOCKED")
            problem(await client.get("/imports"), 503, "DATABASE_LOCKED")
        assert (await client.get("/imports")).status_code == 200


async def test_responses_health_needs_contacts_a_store_and_a_worker(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:

        async def fault() -> str | None:
            answer = await client.get("/health")
            assert (answer.status_code == 200) == (set(answer.json()) == {"status", "timestamp"})
            error = answer.json().get("error")
            return str(error) if error else None

        assert await fault() == "No worker is running."
        async with Pool(database_url) as pool, pool.session() as tx:
            await workers.register(tx, "w")
            assert await fault() is None
            await tx.execute("update rollcall.workers set beat = beat - interval '21 s'")
            assert await fault() == "No worker is running."
            await tx.execute("update rollcall.workers set beat = clock_timestamp()")
            (tmp_path / "store").rename(tmp_path / "aside")
            (tmp_path / "store").write_text("in the way")
            assert "store" in str(await fault())
            (tmp_path / "store").unlink()
            assert await fault() is None
            await tx.execute("alter table public.contacts rename to others")
            assert await fault() == "The contacts cannot be read."


async def test_responses_health_answers_when_the_database_does_not(database_url: str, tmp_path: Path) -> None:
    """And one check at most holds a session meanwhile."""
    async with proxy(database_url) as before, served(before.url, tmp_path) as client:
        assert (await client.get("/health")).json()["error"] == "No worker is running."
        before.judge = lambda link, data: "hang"
        for _ in range(2):
            began = time.monotonic()
            answers = await asyncio.gather(*(client.get("/health") for _ in range(20)))
            assert time.monotonic() - began < 3
            assert {answer.status_code for answer in answers} == {503}
            assert {answer.json()["error"] for answer in answers} == {"The database does not answer."}


async def test_responses_health_that_is_asked_very_often_repeats_itself(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client, Pool(database_url) as pool, pool.session() as tx:
        for _ in range(checks.CHECKS_A_SECOND):
            assert (await client.get("/health")).status_code == 503
        await workers.register(tx, "w")
        await until(lambda: healthy(client))
        assert not list((tmp_path / "store").rglob("*"))


async def healthy(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health")).status_code == 200


async def test_responses_a_request_that_a_stopping_server_cancels_is_told_to_come_again(
    database_url: str, tmp_path: Path
) -> None:
    """It sends less than it said, for longer than the server gives it."""
    head = (
        b"POST /import?source=crm HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\nContent-Length: 99\r\n\r\n"
    )
    with capture_logs() as logs:
        async with listening(database_url, tmp_path) as port:
            waiting = asyncio.create_task(raw(port, head + b"name,email\n"))
            await until(lambda: bool(rows(database_url, "select id from rollcall.uploads")))
        answer = await waiting
    told, _, body = answer.partition(b"\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 503")
    assert b"retry-after: 5" in told.lower()
    assert b'"code":"UNAVAILABLE"' in body
    [counted] = [line for line in logs if line["event"] == "request"]
    assert (counted["route"], counted["status"]) == ("/import", 503)


async def raw(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await reader.read()
    writer.close()
    return answer


async def test_requests_that_wait_end_when_the_server_stops(database_url: str, tmp_path: Path) -> None:
    async with listening(database_url, tmp_path) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            headers = {"Content-Type": "text/csv", "X-Source": "crm"}
            sent = await client.post("/import", content=b"name,email\n", headers=headers)
        location = sent.headers["location"].encode()
        request = b"GET " + location + b"?wait=60 HTTP/1.1\r\nHost: localhost\r\n\r\n"
        waiting = asyncio.create_task(raw(port, request))
        await asyncio.wait([waiting], timeout=0.5)
    assert (await waiting).startswith(b"HTTP/1.1 200")


def test_responses_a_problem_is_short_whatever_a_sender_wrote() -> None:
    issues = [{"path": ["x" * 10_000, 1], "code": "unknown", "message": "é" * 10_000} for _ in range(1000)]
    answer = responses.problem(InvalidInput("y" * 1_000_000, issues=issues), "id")
    body = json.loads(bytes(answer.body))
    assert len(answer.body) < 500_000
    assert (len(body["issues"]), body["issuesTotal"]) == (100, 1000)
    assert body["issues"][0]["path"][1] == 1
    few = json.loads(bytes(responses.problem(InvalidInput("y", issues=issues[:1]), "id").body))
    assert "issuesTotal" not in few


async def test_responses_metrics_have_templates_for_labels(database_url: str, tmp_path: Path) -> None:
    headers = {"Content-Type": "text/csv", "X-Source": "crm"}
    async with served(database_url, tmp_path) as client:
        await client.get(NOBODY)
        await client.request("BREW", "/nope/alice@example.com")
        await client.post("/import", content=b"name,email\n", headers=headers)
        text = (await client.get("/metrics")).text
    assert 'rollcall_http_requests_total{method="GET",route="/imports/{jobId}",status="404"}' in text
    assert 'rollcall_http_requests_total{method="other",route="none",status="404"}' in text
    assert 'rollcall_imports{state="queued"} 1.0' in text
    assert "alice" not in text
    async with served(database_url, tmp_path, enable_metrics=False) as client:
        problem(await client.get("/metrics"), 404, "NOT_FOUND")
