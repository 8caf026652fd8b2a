"""Who is let in, to what: every route with a key and without, keys bound to Sources, and how much one key may send."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from rollcall import keys, liveness, pool
from rollcall.cli import app
from rollcall.cli.up import CannotListen, refuse_public
from rollcall.client import Client
from rollcall.pool import Pool
from rollcall.settings import Settings
from service import listening, objects, rows, served, until

CSV = b"name,email\nAlice,alice@example.com\nBob,bob@\n"
UNKNOWN = "00000000-0000-7000-8000-000000000000"
HEALTH = {"/health", "/health/live"}
OPEN = HEALTH | {"/openapi.json", "/docs"}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


async def create(database_url: str, name: str, *sources: str) -> str:
    async with Pool(database_url) as database, database.session() as tx:
        return await keys.create(tx, name, list(sources) or None)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def send(client: httpx.AsyncClient, source: str, **headers: str) -> httpx.Response:
    return await client.post("/import", content=CSV, headers={"Content-Type": "text/csv", "X-Source": source} | headers)


def problem(answer: httpx.Response, status: int, code: str) -> None:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code), answer.text
    assert set(body) - {"issues"} == {"error", "code", "status", "requestId"}
    assert answer.headers.get("www-authenticate") == ("Bearer" if status == 401 else None)
    assert ("retry-after" in answer.headers) == (status in (429, 503))


async def routes(client: httpx.AsyncClient, **headers: str) -> list[tuple[str, str]]:
    """Every method and path that the service describes, and those that describe it."""
    paths = (await client.get("/openapi.json", headers=headers)).json()["paths"]
    described = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    return [*described, ("GET", "/openapi.json"), ("GET", "/docs")]


async def test_auth_without_a_key_ever_made_none_is_needed(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        assert (await send(client, "crm")).status_code == 200
        assert (await client.get("/imports", headers=bearer("rk_any"))).json()["imports"][0]["createdBy"] is None
        key = await create(database_url, "first")
        problem(await client.get("/imports"), 401, "UNAUTHORIZED")
        assert (await client.get("/imports", headers=bearer(key))).status_code == 200
        async with Pool(database_url) as database, database.session() as tx:
            await keys.revoke(tx, "first")
        for headers in ({}, bearer(key)):
            problem(await client.get("/imports", headers=headers), 401, "UNAUTHORIZED")
    async with served(database_url, tmp_path) as client:
        problem(await client.get("/imports"), 401, "UNAUTHORIZED")


async def test_auth_every_route_but_health_and_documentation_needs_a_key(database_url: str, tmp_path: Path) -> None:
    key = await create(database_url, "all")
    async with served(database_url, tmp_path) as client:
        known = await routes(client, **bearer(key))
        assert {path for _, path in known} > HEALTH | {"/metrics", "/import", "/contacts"}
        odd = ["/", "/nope", "/health/", "//health", "/Health", "/health/../imports", "/health%2f..%2fimports"]
        for method, path in [*known, *(("GET", path) for path in odd), ("TRACE", "/imports"), ("OPTIONS", "/import")]:
            answer = await client.request(method, path.replace("{jobId}", UNKNOWN))
            if path in OPEN:
                assert answer.status_code in (200, 503)
                assert path not in HEALTH or answer.json()["status"] in ("healthy", "unhealthy")
            else:
                problem(answer, 401, "UNAUTHORIZED")
            assert (await client.request(method, path, headers=bearer(key))).status_code != 401
        assert rows(database_url, "select id from rollcall.uploads") == []


async def test_auth_a_key_comes_in_one_header_and_whole(database_url: str, tmp_path: Path) -> None:
    key = await create(database_url, "all")
    async with served(database_url, tmp_path) as client:
        for good in (f"Bearer {key}", f"bearer {key}", f"BEARER   {key}"):
            assert (await client.get("/imports", headers={"Authorization": good})).status_code == 200, good
        wrong: list[Any] = [
            {"Authorization": each}
            for each in (
                "", "Bearer", "Bearer ", key, f"Basic {key}", f"Bearer{key}", f"Bearer {key},", f"Bearer {key} {key}",
                f"Bearer \0{key}", f"Bearer {key}\0", f"Bearer {key[:-1]}", f"Bearer {key}x", f"Bearer {key.lower()}",
                "Bearer " + "k" * 10_240, f"Bearer {key}{'=' * 10_240}", f"Bearer rk_{'0' * 16}_{'A' * 43}",
            )
        ]  # fmt: skip
        wrong += [
            [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
            [("Authorization", f"Bearer {key}"), ("authorization", "Bearer x")],
            {"X-Api-Key": key},
            {"Cookie": f"Authorization=Bearer {key}"},
            {"Authorization": "Bearer ключ".encode()},
        ]
        with capture_logs() as logs:
            answers = [await client.get("/imports", headers=headers) for headers in wrong]
            answers += [await client.get("/imports", params={name: key}) for name in ("api_key", "key", "access_token")]
        for answer in answers:
            problem(answer, 401, "UNAUTHORIZED")
        assert len(logs) == len(answers)
        assert {log["status"] for log in logs} == {401}
        for text in (repr(logs), *(answer.text for answer in answers)):
            assert key.split("_", 2)[2][:20] not in text


async def test_auth_a_database_that_is_away_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "POOL_WAIT_SECONDS", 0.3)
    async with served("postgresql://secretuser:secretpassword@127.0.0.1:9/secretdatabase", tmp_path) as client:
        for path in ("/imports", "/docs/nope", "/nope"):
            answer = await client.get(path, headers=bearer("rk_" + "0" * 16 + "_" + "A" * 43))
            problem(answer, 503, "DATABASE_UNAVAILABLE")
            assert "secret" not in answer.text
        assert (await client.get("/health/live")).status_code == 200


async def test_auth_where_others_listen_a_key_is_always_needed(database_url: str, tmp_path: Path) -> None:
    public = Settings(data_dir=tmp_path, host="0.0.0.0")
    with pytest.raises(CannotListen, match="rollcall keys create"):
        await refuse_public(public, database_url)
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        await refuse_public(Settings(host=host), database_url)
    async with served(database_url, tmp_path, host="0.0.0.0") as client:
        problem(await client.get("/imports"), 401, "UNAUTHORIZED")
        key = await create(database_url, "first")
        assert (await client.get("/imports", headers=bearer(key))).status_code == 200
    await refuse_public(public, database_url)


@asynccontextmanager
async def two_sources(database_url: str, folder: Path, **settings: Any) -> AsyncGenerator[tuple[Any, str, str], None]:
    """A client with a key for the Source b alone, and the imports of a and of b; both have a contact and a Reject."""
    everything, bound = await create(database_url, "all"), await create(database_url, "bees", "b", "c")
    async with served(database_url, folder, **settings) as client:
        ids = [(await send(client, source, **bearer(everything))).json()["jobId"] for source in "ab"]
        with psycopg.connect(database_url, autocommit=True) as connection:
            for job_id, source in zip(ids, "ab", strict=True):
                connection.execute(
                    """insert into rollcall.import_parts
                         (import_id, loader, first, last, attempt, position, read, rejected, by_code)
                       values (%s, 0, 1, 2, 1, 1, 1, 1, '{"email_invalid": 1}')""",
                    (job_id,),
                )
                connection.execute(
                    "insert into rollcall.rejects (import_id, record, code, raw) values (%s, 2, 'email_invalid', %s)",
                    (job_id, f"secret of {source}".encode()),
                )
                connection.execute(
                    "insert into public.contacts values (%s, %s, 'x@x.org', %s, '{}', now(), %s, 1)",
                    (job_id, f"secret of {source}", source, job_id),
                )
        client.headers.update(bearer(bound))
        yield client, *ids


async def test_auth_another_sources_import_is_like_none(database_url: str, tmp_path: Path) -> None:
    everything = "select i::text from rollcall.imports i union all select u::text from rollcall.uploads u order by 1"
    async with two_sources(database_url, tmp_path) as (client, foreign, own):
        before = rows(database_url, everything)
        asked = [(method, path) for method, path in await routes(client) if "{" in path]
        assert len(asked) >= 4
        for method, path in asked:
            for override in ({}, {"X-HTTP-Method-Override": "DELETE"}, {"X-HTTP-Method-Override": "POST"}):
                for query in ("", "?format=csv", "?format=ndjson", "?wait=0.1"):
                    answers = [
                        await client.request(method, path.replace("{jobId}", job_id) + query, headers=override)
                        for job_id in (foreign, UNKNOWN)
                    ]
                    problem(answers[0], 404, "NOT_FOUND")
                    bodies = [answer.json() | {"requestId": ""} for answer in answers]
                    assert bodies[0] == bodies[1]
                    headers = [{**answer.headers, "x-request-id": ""} for answer in answers]
                    assert headers[0] == headers[1]
        assert rows(database_url, everything) == before
        for path in ("", "/rejects?format=ndjson", "/rejects?format=csv", "/rejects"):
            assert (await client.get(f"/imports/{own}{path}")).status_code == 200
        assert "secret of b" in (await client.get(f"/imports/{own}/rejects?format=ndjson")).text
        assert (await client.post(f"/imports/{own}/cancel")).json()["state"] == "cancelled"
        assert (await client.post(f"/imports/{own}/retry")).json()["state"] == "queued"


async def test_auth_lists_hold_what_is_ones_own(database_url: str, tmp_path: Path) -> None:
    async with two_sources(database_url, tmp_path) as (client, foreign, own):
        lists = [path for method, path in await routes(client) if method == "GET" and "{" not in path]
        told = OPEN
        assert set(lists) - told == {"/imports", "/contacts", "/metrics"}
        problem(await client.get("/metrics"), 403, "FORBIDDEN")
        for query in ("", "?limit=1", "?source=b", "?source=b&limit=1"):
            assert [job["jobId"] for job in (await client.get(f"/imports{query}")).json()["imports"]] == [own]
            assert [each["id"] for each in (await client.get(f"/contacts{query}")).json()["contacts"]] == [own]
        for query in ("?source=a", f"?source=a&state=queued&after={1 << 40}", "?source=nobodys"):
            assert (await client.get(f"/imports{query}")).json() == {"imports": [], "next": None}
        for query in ("?source=a", "?source=a&email=x@x.org", "?source=a&offset=0", "?email=nobody@x.org"):
            assert (await client.get(f"/contacts{query}")).json() == {"contacts": [], "next": None}
        for path in told:
            answer = await client.get(path)
            assert foreign not in answer.text
            assert "secret" not in answer.text


async def test_auth_a_key_imports_into_its_sources_only(database_url: str, tmp_path: Path) -> None:
    contacts = {"data": [{"name": "A", "email": "a@x.org"}]}
    file = '--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\nname,email\nA,a@x.org\n\r\n'
    field = '--x\r\nContent-Disposition: form-data; name="source"\r\n\r\n{}\r\n'
    large = json.dumps({"source": "{}", "pad": "x" * (17 << 20), **contacts})

    def asked(source: str) -> list[dict[str, Any]]:
        text = {"Content-Type": "text/csv"}
        return [
            {"json": {"source": source, **contacts}},
            {"json": contacts, "params": {"source": source}},
            {"json": {"source": "b", **contacts}, "params": {"source": source}},
            {"content": large.replace("{}", source), "headers": {"Content-Type": "application/json"}},
            {"content": CSV, "headers": text | {"X-Source": source}},
            {"content": CSV, "headers": text | {"X-Source": "b"}, "params": {"source": source}},
            {"content": (field.format(source) + file + "--x--\r\n").encode(), "headers": FORM},
            {"content": (file + field.format(source) + "--x--\r\n").encode(), "headers": FORM},
            {"content": (file + "--x--\r\n").encode(), "headers": FORM, "params": {"source": source}},
        ]

    async with two_sources(database_url, tmp_path, max_queued_imports=100) as (client, *_):
        before = len(objects(tmp_path))
        for request in asked("a"):
            answer = await client.post("/import", **request)
            problem(answer, 403, "FORBIDDEN")
            assert [(each["path"], each["code"]) for each in answer.json()["issues"]] == [(["source"], "forbidden")]
        assert rows(database_url, "select count(*) from rollcall.uploads") == [(2,)]
        assert len(objects(tmp_path)) == before
        for request in asked("c"):
            answer = await client.post("/import", **request)
            assert answer.status_code == 200, answer.text
            assert (await client.get(answer.headers["location"])).json()["createdBy"] == "bees"


async def test_auth_a_foreign_source_is_refused_before_the_body_comes(database_url: str, tmp_path: Path) -> None:
    async def endless(beginning: bytes) -> AsyncIterator[bytes]:
        yield beginning
        raise AssertionError("the body was read")

    form = b'--x\r\nContent-Disposition: form-data; name="source"\r\n\r\na\r\n'
    file = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.csv"\r\n\r\n'
    heads: list[tuple[bytes, dict[str, str], dict[str, str]]] = [
        (b"", {"Content-Type": "text/csv", "X-Source": "a"}, {}),
        (b"", {"Content-Type": "application/json"}, {"source": "a"}),
        (form + file, FORM, {}),
        (b'{"source":"a","data":[' + b" " * (17 << 20), {"Content-Type": "application/json"}, {}),
    ]
    async with two_sources(database_url, tmp_path) as (client, *_):
        for beginning, headers, params in heads:
            answer = await client.post("/import", content=endless(beginning), headers=headers, params=params)
            problem(answer, 403, "FORBIDDEN")


class Body:
    """A body that arrives until it is let go."""

    def __init__(self) -> None:
        self.end = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield CSV
        await self.end.wait()


async def test_auth_a_key_may_queue_so_many_imports(database_url: str, tmp_path: Path) -> None:
    one, other = await create(database_url, "one"), await create(database_url, "other")
    async with served(database_url, tmp_path) as client:
        assert {(await send(client, "crm", **bearer(one))).status_code for _ in range(20)} == {200}
        before = len(objects(tmp_path))
        answer = await send(client, "crm", **bearer(one))
        problem(answer, 429, "TOO_MANY_REQUESTS")
        assert "MAX_QUEUED_IMPORTS" in answer.json()["error"]
        assert rows(database_url, "select count(*) from rollcall.uploads") == [(20,)]
        assert len(objects(tmp_path)) == before
        sent = (await send(client, "crm", **bearer(other))).headers["location"]
        assert (await client.get(sent, headers=bearer(one))).json()["createdBy"] == "other"
        jobs = (await client.get("/imports", headers=bearer(one), params={"limit": 100})).json()["imports"]
        mine = f"/imports/{jobs[-1]['jobId']}"
        await client.post(f"{mine}/cancel", headers=bearer(one))
        assert (await send(client, "crm", **bearer(one))).status_code == 200
        problem(await client.post(f"{mine}/retry", headers=bearer(one)), 429, "TOO_MANY_REQUESTS")
        assert (await client.get(mine, headers=bearer(one))).json()["state"] == "cancelled"


async def test_auth_so_many_uploads_of_a_key_arrive_at_a_time(database_url: str, tmp_path: Path) -> None:
    counting = "select count(*) from rollcall.uploads where state = 'arriving'"
    one, other = await create(database_url, "one"), await create(database_url, "other")
    async with served(database_url, tmp_path, max_arriving_uploads=3) as client:
        bodies = [Body() for _ in range(8)]
        headers = {"Content-Type": "text/csv", "X-Source": "crm"} | bearer(one)
        sending = [asyncio.create_task(client.post("/import", content=body, headers=headers)) for body in bodies]
        await until(lambda: sum(task.done() for task in sending) == 5)
        for task in sending:
            if task.done():
                problem(task.result(), 429, "TOO_MANY_REQUESTS")
                assert "MAX_ARRIVING_UPLOADS" in task.result().json()["error"]
        assert rows(database_url, counting) == [(3,)]
        assert (await send(client, "crm", **bearer(other))).status_code == 200
        for body in bodies:
            body.end.set()
        assert sorted([(await task).status_code for task in sending]) == [200] * 3 + [429] * 5
        assert (await send(client, "crm", **bearer(one))).status_code == 200


async def test_auth_what_arrives_has_its_place_in_the_queue(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path, max_queued_imports=2) as client:
        body = Body()
        headers = {"Content-Type": "text/csv", "X-Source": "crm"}
        sending = asyncio.create_task(client.post("/import", content=body, headers=headers))
        await until(lambda: bool(rows(database_url, "select id from rollcall.uploads")))
        assert [(await send(client, "crm")).status_code for _ in range(2)] == [200, 429]
        body.end.set()
        assert (await sending).status_code == 200


async def test_auth_uploads_of_a_process_that_is_gone_do_not_count(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with served(database_url, tmp_path, max_arriving_uploads=1) as client:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute(
                "insert into rollcall.uploads (id, state, created_at) values (gen_random_uuid(), 'arriving', now())"
            )
            problem(await send(client, "crm"), 429, "TOO_MANY_REQUESTS")
            connection.execute("update rollcall.uploads set seen_at = seen_at - interval '21 s'")
        assert (await send(client, "crm")).status_code == 200

        monkeypatch.setattr(liveness, "BEAT_SECONDS", 0.02)
        seen = "select seen_at from rollcall.uploads order by created_at desc limit 1"
        body = Body()
        sending = asyncio.create_task(
            client.post("/import", content=body, headers={"Content-Type": "text/csv", "X-Source": "crm"})
        )
        await until(lambda: rows(database_url, "select count(*) from rollcall.uploads") == [(3,)])
        began = rows(database_url, "select created_at from rollcall.uploads order by created_at desc limit 1")
        await until(lambda: rows(database_url, seen) > began)
        body.end.set()
        await sending


async def test_auth_the_surface_is_small(database_url: str, tmp_path: Path) -> None:
    key = await create(database_url, "all")
    async with served(database_url, tmp_path) as client:
        client.headers.update(bearer(key))
        problem(await client.request("TRACE", "/imports"), 405, "METHOD_NOT_ALLOWED")
        problem(await client.request("OPTIONS", "/imports"), 405, "METHOD_NOT_ALLOWED")
        for path in ("/imports/", "/static", "/../etc/passwd", "/.env"):
            answer = await client.get(path, headers={"Host": "evil.test", "X-Forwarded-Host": "evil.test"})
            problem(answer, 404, "NOT_FOUND")
            assert "location" not in answer.headers
        sent = await send(client, "crm", Host="evil.test")
        assert sent.headers["location"].startswith("/imports/")


async def test_auth_clients_show_their_key(database_url: str, tmp_path: Path) -> None:
    key = await create(database_url, "all")
    (tmp_path / "list.csv").write_bytes(CSV)

    async with listening(database_url, tmp_path) as port:
        url = f"http://127.0.0.1:{port}"

        async def command(*words: str, **environment: str) -> tuple[int, str]:
            done = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--to", url], env=environment)
            assert key not in done.output
            return done.exit_code, done.output

        async with Client(url, key) as service:
            job_id = await service.send(tmp_path / "list.csv", source="crm")
            assert [job["jobId"] for job in await service.latest()] == [job_id]
        assert (await command("status", job_id, "--key", key))[0] == 0
        assert (await command("status", ROLLCALL_API_KEY=key))[0] == 0
        assert (await command("rejects", job_id, ROLLCALL_API_KEY=key))[0] == 0
        status, said = await command("status", "--key", with_end_changed(key))
        assert (status, "API key" in said) == (1, True)
        status, said = await command("import", str(tmp_path / "list.csv"), "--source", "crm")
        assert (status, "API key" in said) == (1, True)
        assert (await command("status", "--key", "ключ"))[0] == 2


def with_end_changed(key: str) -> str:
    return key[:-1] + ("A" if key[-1] != "A" else "B")


async def test_auth_admission_counts_bodies_before_their_first_byte(database_url: str, tmp_path: Path) -> None:
    one, other = await create(database_url, "one"), await create(database_url, "other")

    async def slow(beginning: bytes) -> AsyncIterator[bytes]:
        begun.append(beginning)
        yield beginning
        await end.wait()

    field = b'--x\r\nContent-Disposition: form-data; name="source"\r\n\r\n'
    ways: list[tuple[dict[str, str], bytes]] = [
        ({"Content-Type": "application/json"}, b'{"source":'),
        (FORM, field),
        ({"Content-Type": "text/csv", "X-Source": "crm", "Idempotency-Key": "k"}, CSV),
    ]
    async with served(database_url, tmp_path, max_arriving_uploads=3) as client:
        headers = ways[2][0] | bearer(one)
        assert (await client.post("/import", content=CSV, headers=headers)).status_code == 200
        for given, beginning in ways:
            begun, end = list[bytes](), asyncio.Event()
            sending = [
                asyncio.create_task(client.post("/import", content=slow(beginning), headers=given | bearer(one)))
                for _ in range(6)
            ]
            await until(lambda sending=sending, begun=begun: sum(map(asyncio.Task.done, sending)) == len(begun) == 3)  # type: ignore[misc]
            for task in sending:
                if task.done():
                    problem(task.result(), 429, "TOO_MANY_REQUESTS")
            assert (await send(client, "crm", **bearer(other))).status_code == 200
            end.set()
            assert [(await task).status_code for task in sending].count(429) == 3
