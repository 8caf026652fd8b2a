"""Requests that mean harm: forms that cost, names that lead elsewhere, texts that forge lines of the log, hosts."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from fastapi import FastAPI, Request

from rollcall import keys
from rollcall.pool import Pool
from service import api, listening, objects, rows, until, wired

MIB = 1 << 20
CSV = b"name,email\nAlice,alice@example.com\n"
FILE = b'form-data; name="file"; filename="a.csv"'
KEY = re.compile(r"[0-9a-f]{40}")


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    limits = {"max_queued_imports": 1000}
    async with (
        listening(database_url, tmp_path, **limits) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        yield client


def part(disposition: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = (b"Content-Disposition: " + disposition, *headers)
    return b"--x\r\n" + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body + b"\r\n"


def form(*parts: bytes, boundary: str = "x") -> dict[str, Any]:
    headers = httpx.Headers({"Content-Type": f"multipart/form-data; boundary={boundary}"}, encoding="utf-8")
    return {"content": b"".join(parts) + b"--x--\r\n", "headers": headers, "params": {"source": "crm"}}


GOOD = part(FILE, CSV)
FORMS: dict[str, tuple[dict[str, Any], int]] = {
    "100,000 headers": (form(part(FILE, CSV, *[b"X-A: b"] * 100_000)), 413),
    "a header of 1 MB": (form(part(FILE, CSV, b"X-A: " + b"b" * MIB)), 413),
    "a header that never ends": (form(b"--x\r\nX-A: " + b"b" * MIB), 413),
    "10,000 parts": (form(*[part(b'form-data; name="a"', b"b")] * 10_000, GOOD), 413),
    "10,000 parts after the file": (form(GOOD, *[part(b'form-data; name="a"', b"b")] * 10_000), 413),
    "a field of 2 MB": (form(part(b'form-data; name="source"', b"b" * 2 * MIB), GOOD), 413),
    "a boundary with a tail": (form(b"--x" + b" " * MIB, GOOD), 400),
    "something before the boundary": (form(b"b" * 4 * MIB, GOOD), 400),
    "something after the end": (form(GOOD, b"--x--\r\n" + b"b" * 4 * MIB), 200),
    "returns": (form(part(FILE, b"\r" * 4 * MIB)), 200),
    "beginnings of boundaries": (form(part(FILE, b"\r\n--" * MIB)), 200),
    "no disposition": (form(b"--x\r\n\r\nb\r\n", GOOD), 400),
    "no name": (form(part(b"form-data", b"b"), GOOD), 200),
    "another disposition": (form(part(b'attachment; name="file"', CSV)), 400),
    "a length that lies": (form(part(FILE, CSV, b"Content-Length: 3")), 400),
    "a folded header": (form(part(FILE, CSV, b"X-A: b", b" c")), 200),
    "line feeds alone": (form(GOOD.replace(b"\r\n", b"\n")), 400),
    "bytes in a header": (form(part(b'form-data; name="file"; filename="\xff.csv"', CSV)), 400),
    "a name in another way": (form(part(b"form-data; name=\"file\"; filename*=UTF-8''..%2fa", CSV)), 200),
    "a form in the form": (
        form(part(FILE, b"--y\r\n\r\n\r\n--y--", b"Content-Type: multipart/mixed; boundary=y")),
        200,
    ),
    "no boundary": (form(GOOD, boundary=""), 400),
    "a boundary that is no ASCII": (form(GOOD, boundary="\xe9"), 400),
    "a long boundary": (form(GOOD, boundary="b" * 60_000), 400),
    "100 large fields": (form(*[part(b'form-data; name="a"', b"b" * MIB)] * 90, GOOD), 200),
}


async def test_hostile_input_a_form_costs_little_whatever_is_in_it(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    for name, (asked, status) in FORMS.items():
        began = time.monotonic()
        answer = await client.post("/import", **asked)
        assert answer.status_code == status, (name, answer.text)
        assert time.monotonic() - began < 5, name
    good = sum(status == 200 for _, status in FORMS.values())
    assert rows(database_url, "select count(*) from rollcall.imports") == [(good,)]
    await until(lambda: len(objects(tmp_path)) == len(rows(database_url, "select from rollcall.uploads")) == good)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def hostile(corpora: Path, where: str) -> list[str]:
    lines = (corpora / "hostile" / "strings.jsonl").read_text(encoding="utf-8").splitlines()
    return [each["value"] for line in lines if (each := json.loads(line))["where"].startswith(where)]


async def test_hostile_input_a_file_name_is_a_text_and_leads_nowhere(
    client: httpx.AsyncClient, database_url: str, tmp_path: Path, corpora: Path
) -> None:
    names = hostile(corpora, "filename")
    assert len(names) == 24
    for name in names:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"').encode()
        answer = await client.post("/import", **form(part(b'form-data; name="file"; filename="' + quoted + b'"', CSV)))
        assert answer.status_code in (200, 400), name
        if answer.status_code == 200:
            shown = await client.get(answer.headers["location"])
            assert not re.search(r"[\x00-\x1f]", shown.text)
        assert answer.status_code == 200 or re.search(r"[\x00-\x1f]", name), name
    stored = [name or "" for (name,) in rows(database_url, "select name from rollcall.uploads")]
    assert all(name.isprintable() and len(name) <= 255 for name in stored)
    everything = files(tmp_path / "store")
    assert len(everything) == len(stored)
    assert all(KEY.fullmatch(path.name) and path.parent == tmp_path / "store" / path.name[:2] for path in everything)


async def test_hostile_input_a_source_is_a_text_and_nothing_else(
    client: httpx.AsyncClient, database_url: str, corpora: Path
) -> None:
    sources = hostile(corpora, "source")
    assert len(sources) == 14
    taken = []
    for source in sources:
        ways: list[dict[str, Any]] = [
            {"json": {"source": source, "data": [{"name": "Alice", "email": "alice@example.com"}]}},
            {"content": CSV, "headers": {"Content-Type": "text/csv"}, "params": {"source": source}},
            form(part(b'form-data; name="source"', source.encode()), GOOD) | {"params": {}},
        ]
        answers = [await client.post("/import", **way) for way in ways]
        assert len({answer.status_code for answer in answers}) == 1, source
        if 1 <= len(source.strip()) <= 100 and not re.search(r"[\x00-\x1f]", source):
            taken.append(source)
            listed = await client.get("/imports", params={"source": source})
            assert [job["source"] for job in listed.json()["imports"]] == [source] * 3
        else:
            assert answers[0].json()["issues"][0]["path"] == ["source"]
    assert sorted(taken) == sorted({source for (source,) in rows(database_url, "select source from rollcall.imports")})


FORGED = 'a\r\n{"level":"error","event":"forged"}\r\n\x1b[31mred\x1b]0;title\x07'


async def test_hostile_input_nobody_writes_lines_into_the_log(database_url: str, tmp_path: Path) -> None:
    async with api(database_url, tmp_path) as (_, port), httpx.AsyncClient(trust_env=False) as client:
        client.base_url = httpx.URL(f"http://127.0.0.1:{port}")
        csv = {"Content-Type": "text/csv"}
        await client.post("/import", json={"source": FORGED, "data": [{"name": FORGED, "email": FORGED}]})
        await client.post("/import", content=CSV, headers=csv, params={"source": FORGED, FORGED: FORGED})
        await client.post("/import", **form(part(b'form-data; name="source"', FORGED.encode()), GOOD))
        for path in (FORGED, "imports/" + FORGED):
            await client.get("/" + quote(path), params={"email": FORGED})
        header = FORGED.replace("\r\n", "\t").replace("\x1b", "").replace("\x07", "")
        await client.post("/import", content=CSV, headers=csv | {"X-Source": header, "Idempotency-Key": header})
        await until(lambda: (tmp_path / "api.log").read_text(encoding="utf-8").count('"event": "request"') == 6)
    said = (tmp_path / "api.log").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in said.splitlines()]
    assert sum(line["event"] == "request" for line in lines) == 6
    assert not re.search(r"forged|red|title|[\x00-\x09\x0b-\x1f]", said.replace("redirect", ""))


LIES = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "10.0.0.1",
    "Forwarded": "host=evil.example;proto=https",
    "X-Forwarded-Prefix": "/evil",
    "X-HTTP-Method-Override": "DELETE",
    "X-Original-URL": "/evil",
    "X-Rewrite-URL": "/evil",
}


async def test_hostile_input_a_client_is_where_its_connection_comes_from() -> None:
    app = FastAPI()

    @app.get("/")
    def who(request: Request) -> list[Any]:
        return [request.client and request.client.host, request.url.scheme, request.scope["root_path"]]

    async with wired(app) as port, httpx.AsyncClient(trust_env=False, headers=LIES) as client:
        assert (await client.get(f"http://127.0.0.1:{port}/")).json() == ["127.0.0.1", "http", ""]


FOREIGN_REQUESTS = [
    {"Host": "evil.example"},
    {"Host": "evil.example:3000"},
    {"Host": "127.0.0.1.evil.example"},
    {"Host": "localhost.evil.example"},
    {"Host": "192.168.0.1"},
    {"Host": "0.0.0.0"},
    {"Host": "[::2]"},
    {"Host": ""},
    {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost.evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "null"},
    {"Origin": ""},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
]
PAGE = FOREIGN_REQUESTS[8]
OWN = [
    {},
    {"Host": "localhost"},
    {"Host": "LOCALHOST:8080", "Origin": "http://localhost:8080", "Sec-Fetch-Site": "same-origin"},
    {"Host": "127.9.8.7", "Origin": "https://127.9.8.7"},
    {"Host": "[::1]:3000", "Origin": "http://[::1]:3000"},
    {"Host": "localhost:80", "Origin": "http://localhost"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
]
ASKED = [
    ("POST", "/import?source=crm"), ("GET", "/contacts"), ("GET", "/imports"), ("GET", "/health"), ("GET", "/metrics"),
    ("GET", "/health/live"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/nope"), ("OPTIONS", "/import"),
    ("POST", "/imports/00000000-0000-7000-8000-000000000000/cancel"), ("HEAD", "/contacts"), ("GET", "//evil.example"),
]  # fmt: skip


async def test_hostile_input_gate_answers_no_web_page_while_there_is_no_key(database_url: str, tmp_path: Path) -> None:
    async with (
        listening(database_url, tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client,
    ):
        for method, path in ASKED:
            body: dict[str, Any] = (
                {"content": CSV, "headers": {"Content-Type": "text/plain"}} if path.startswith("/import?") else {}
            )
            for headers in FOREIGN_REQUESTS:
                given = [(name, value.encode("latin-1")) for name, value in headers.items()]
                request = client.build_request(method, path, **body)
                request.headers.update(dict(given))  # type: ignore[arg-type]
                answer = await client.send(request)
                assert answer.status_code == 403, (method, path, headers, answer.text)
                if method != "HEAD":
                    assert answer.json()["code"] == "FORBIDDEN"
                    assert "make a key" in answer.json()["error"]
            for headers in OWN:
                assert (await client.request(method, path, headers=headers)).status_code != 403, (path, headers)
        two = [(b"Host", b"localhost"), (b"Origin", b"http://localhost"), (b"Origin", b"https://evil.example")]
        assert (await client.get("/contacts", headers=two)).status_code == 403
    assert rows(database_url, "select id from rollcall.uploads") == []


async def test_hostile_input_gate_decides_nothing_by_host_once_there_is_a_key(
    database_url: str, tmp_path: Path
) -> None:
    async with Pool(database_url) as database, database.session() as tx:
        authorization = {"Authorization": f"Bearer {await keys.create(tx, 'all')}"}
    async with (
        listening(database_url, tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, headers=LIES) as client,
    ):
        assert (await client.get("/health/live", headers=PAGE)).status_code == 200
        assert (await client.get("/contacts", headers=PAGE)).status_code == 401
        client.headers.update(authorization | PAGE)
        sent = await client.post("/import", content=CSV, headers={"Content-Type": "text/csv", "X-Source": "crm"})
        assert sent.headers["location"] == f"/imports/{sent.json()['jobId']}"
        for path in ("/import/", "/imports/", "/contacts/", "//evil.example/..", "/health/", sent.headers["location"]):
            answer = await client.get(path)
            assert "location" not in answer.headers, path
            assert "evil" not in f"{answer.headers} {answer.text}", path
        assert (await client.get("/imports")).json()["imports"][0]["state"] == "queued"
        for method in ("TRACE", "OPTIONS", "PROPFIND", "DELETE"):
            assert (await client.request(method, "/imports")).status_code in (400, 405), method
        assert "evil" not in (await client.get("/openapi.json")).text
