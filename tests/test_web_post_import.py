"""POST /import beyond the contract: hostile bodies, bounds, and what is kept when something is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rollcall.web import post_import
from service import objects, rows, served

GOOD = {"name": "Alice", "email": "alice@example.com"}
CSV = b"name,email\nAlice,alice@example.com\n"


@pytest.fixture
async def client(database_url: str, tmp_path: Path) -> AsyncGenerator[httpx.AsyncClient, None]:
    limits = {"max_upload_size": 1 << 20, "upload_chunk_size": 65_536, "max_queued_imports": 1000}
    async with served(database_url, tmp_path, **limits) as client:
        yield client


@pytest.fixture
def kept(database_url: str, tmp_path: Path) -> Any:
    """How many uploads, imports and objects there are."""

    def count() -> tuple[int, int, int]:
        uploads, imports = rows(
            database_url, "select count(*) from rollcall.uploads union all select count(*) from rollcall.imports"
        )
        return uploads[0], imports[0], len(objects(tmp_path))

    return count


def form(
    *fields: tuple[str, bytes], file: bytes | None = CSV, name: str = "file", last: bool = False
) -> dict[str, Any]:
    """A form with boundary x; the file before the other fields, or after them."""
    texts = [f'form-data; name="{key}"\r\n\r\n'.encode() + value for key, value in fields]
    files = [] if file is None else [f'form-data; name="{name}"; filename="a.csv"\r\n\r\n'.encode() + file]
    parts = texts + files if last else files + texts
    body = b"".join(b"--x\r\nContent-Disposition: " + part + b"\r\n" for part in parts) + b"--x--\r\n"
    return {"content": body, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}


async def pieces(body: bytes, size: int) -> AsyncIterator[bytes]:
    for at in range(0, len(body), size):
        yield body[at : at + size]


def refused(answer: httpx.Response, path: list[str | int], code: str) -> None:
    assert answer.status_code == 400, answer.text
    issues = answer.json()["issues"]
    assert [(issue["path"], issue["code"]) for issue in issues] == [(path, code)], issues


async def test_the_first_hundred_bad_contacts_are_named(client: httpx.AsyncClient, kept: Any) -> None:
    data = [GOOD, *({"name": "B", "email": f"bad{number}@"} for number in range(150))]
    answer = await client.post("/import", json={"source": "crm", "data": data})
    assert answer.status_code == 400
    body = answer.json()
    assert (len(body["issues"]), body["issuesTotal"]) == (100, 150)
    assert [issue["path"] for issue in body["issues"][::99]] == [["data", 1, "email"], ["data", 100, "email"]]
    assert kept() == (0, 0, 0)


async def test_bad_contacts_may_be_rejected_one_by_one(client: httpx.AsyncClient, database_url: str) -> None:
    asked = {"source": "crm", "data": [GOOD, {"name": "B", "email": "bad"}], "onInvalid": "reject", "maxRejects": 5}
    assert (await client.post("/import", json=asked)).status_code == 200
    [(options,)] = rows(database_url, "select options from rollcall.imports")
    assert options == {"onInvalid": "reject", "onDuplicate": "update", "format": "json", "maxRejects": "5"}


async def test_contacts_under_other_keys_are_judged_as_files_are(client: httpx.AsyncClient) -> None:
    data = [{"E-Mail": "alice@example.com", "Vorname": "Alice", "Nachname": "A."}]
    assert (await client.post("/import", json={"source": "crm", "data": data})).status_code == 200
    mapping = {"email": "E-Mail", "name": "Nachname"}
    answer = await client.post("/import", json={"source": "crm", "data": data, "mapping": mapping})
    assert answer.status_code == 200
    answer = await client.post("/import", json={"source": "crm", "data": data, "mapping": mapping | {"email": "x"}})
    refused(answer, ["mapping"], "invalid_value")


WRONG_SHAPES: list[tuple[Any, list[str | int], str]] = [
    ({"data": [GOOD], "source": 5}, ["source"], "invalid_type"),
    ({"data": [GOOD], "source": "a\0b"}, ["source"], "control_character"),
    ({"data": [GOOD], "source": " "}, ["source"], "too_small"),
    ({"data": [GOOD], "source": "crm", "useResumable": "perhaps"}, ["useResumable"], "invalid_type"),
    ({"data": [GOOD], "source": "crm", "useResumable": None}, ["useResumable"], "invalid_type"),
    ({"data": [GOOD], "source": "crm", "format": "csv"}, ["format"], "invalid_value"),
    ({"data": [5], "source": "crm"}, ["data", 0], "invalid_type"),
    ({"data": [GOOD, {}], "source": "crm"}, ["data", 1, "email"], "required"),
    ([GOOD], ["body"], "invalid_type"),
]


async def test_a_wrong_shape_is_named(client: httpx.AsyncClient, kept: Any) -> None:
    for body, path, code in WRONG_SHAPES:
        refused(await client.post("/import", json=body), path, code)
    assert kept() == (0, 0, 0)


async def test_a_long_body_is_streamed_when_its_head_says_enough(
    client: httpx.AsyncClient, kept: Any, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_import, "JSON_BYTES_MAX", 1000)
    data = [{"name": "A", "email": f"a{number}@example.com"} for number in range(500)] + [{"name": "bad"}]
    answer = await client.post("/import", json={"data": data, "source": "crm"})
    refused(answer, ["source"], "required")
    assert kept() == (0, 0, 0)
    bodies = [json.dumps(body).encode() for body in ({"source": "crm", "data": data}, {"data": data})]
    for body, params in zip(bodies, ({}, {"source": "crm"}), strict=True):
        headers = {"Content-Type": "application/json"}
        answer = await client.post("/import", content=pieces(body, 300), headers=headers, params=params)
        assert answer.status_code == 200, answer.text
    found = rows(database_url, "select source, options->>'onInvalid', bytes_total from rollcall.imports order by seq")
    assert found == [("crm", "fail", len(body)) for body in bodies]
    assert {path.read_bytes() for path in objects(tmp_path)} == set(bodies)


async def test_a_long_body_without_data_is_refused(
    client: httpx.AsyncClient, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_import, "JSON_BYTES_MAX", 1000)
    for head in (b'{"source": "crm", "x": "', b"[" * 1200, b'{"source": "crm", ,', b"\0" * 1200):
        answer = await client.post("/import", content=head + b"x" * 2000, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT"), head
    assert kept() == (0, 0, 0)


async def test_any_json_is_answered(client: httpx.AsyncClient, corpora: Path) -> None:
    files = sorted((corpora / "jsontestsuite").rglob("*.json"))
    assert len(files) > 300
    headers = {"Content-Type": "application/json"}
    for path in files:
        for body in (
            path.read_bytes(),
            b'{"source":"s","data":[{"name":"A","email":"a@x.org","x":%b}]}' % path.read_bytes(),
        ):
            answer = await client.post("/import", content=body, headers=headers)
            assert answer.status_code in (200, 400), (path.name, answer.text)
            if path.name.startswith("n_"):
                assert answer.status_code == 400, path.name


@pytest.mark.parametrize(("size", "last"), [(1, True), (7, False), (100_000, True)])
async def test_a_form_may_come_in_any_pieces(client: httpx.AsyncClient, tmp_path: Path, size: int, last: bool) -> None:
    data = CSV + b"\r\n--y\r\n-\r\n--\r" * 50
    asked = form(
        ("source", "Kündigungen".encode()), ("useResumable", b"true"), ("button", b"Send"), file=data, last=last
    )
    answer = await client.post("/import", content=pieces(asked["content"], size), headers=asked["headers"])
    assert answer.status_code == 200, answer.text
    job = (await client.get(answer.headers["location"])).json()
    assert (job["source"], job["bytes"]["total"]) == ("Kündigungen", len(data))
    assert b"".join(path.read_bytes() for path in objects(tmp_path)) == data


WRONG_FORMS: list[tuple[dict[str, Any], list[str | int], str]] = [
    (form(("source", b"crm"), file=b""), ["file"], "required"),
    (form(("source", b"crm"), file=None), ["file"], "required"),
    (form(("source", b"crm"), name="upload", last=True), ["upload"], "unknown"),
    (form(("source", b"crm"), ("file", b"again")), ["file"], "too_big"),
    (form(("source", b"\xff")), ["source"], "invalid_utf8"),
    (form(("onInvalid", b"maybe"), ("source", b"crm"), last=True), ["onInvalid"], "invalid_value"),
    (form(("onInvalid", b"maybe"), ("source", b"crm")), ["onInvalid"], "invalid_value"),
    (form() | {"headers": {"Content-Type": "multipart/form-data"}}, ["boundary"], "required"),
]


async def test_a_wrong_form_is_named(client: httpx.AsyncClient, kept: Any) -> None:
    for asked, path, code in WRONG_FORMS:
        refused(await client.post("/import", **asked), path, code)
    assert kept() == (0, 0, 0)


async def test_a_form_has_bounds(client: httpx.AsyncClient, kept: Any) -> None:
    parts = form(*((f"field{number}", b"x") for number in range(101)))
    headers = form() | {"content": b"--x\r\n" + b"X-Header: 1\r\n" * 2000}
    header = form() | {"content": b"--x\r\nX-Header: " + b"1" * 100_000}
    for asked in (parts, headers, header):
        answer = await client.post("/import", **asked)
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert kept() == (0, 0, 0)


async def test_a_form_that_is_not_whole_leaves_nothing(client: httpx.AsyncClient, kept: Any) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (b"", b"no form", b"--x", b"--x\r\n\r\n", b"--y\r\n", form()["content"][:-5]):
        answer = await client.post("/import?source=crm", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "UPLOAD_FAILED"), content
    assert kept() == (0, 0, 0)


async def test_a_body_has_a_largest_size(client: httpx.AsyncClient, kept: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    for content in (b"x" * ((1 << 20) + 1), endless()):
        answer = await client.post("/import?source=crm", content=content, headers={"Content-Type": "text/csv"})
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert kept() == (0, 0, 0)


async def test_a_body_shorter_than_announced_leaves_nothing(client: httpx.AsyncClient, kept: Any) -> None:
    headers = {"Content-Type": "text/csv", "Content-Length": str(len(CSV) + 1)}
    answer = await client.post("/import?source=crm", content=CSV, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "UPLOAD_FAILED")
    assert kept() == (0, 0, 0)


async def test_a_stream_is_named_by_headers_or_query(client: httpx.AsyncClient, database_url: str) -> None:
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    utf8 = httpx.Headers([(b"Content-Type", b"text/csv"), (b"X-Source", "Kündigungen".encode())])
    latin = httpx.Headers([(b"Content-Type", b"TEXT/CSV"), (b"X-Source", "Kündigungen".encode("latin-1"))])
    for asked in (utf8, latin):
        assert (await client.post("/import", content=CSV, headers=asked)).status_code == 200
    answer = await client.post("/import", content=CSV, headers=headers, params={"source": "Kündigungen"})
    assert answer.status_code == 200
    assert rows(database_url, "select distinct source from rollcall.imports") == [("Kündigungen",)]


async def test_an_option_that_is_not_known_is_refused(client: httpx.AsyncClient, kept: Any) -> None:
    params = {"source": "crm", "onInvald": "fail"}
    answer = await client.post("/import", content=CSV, headers={"Content-Type": "text/csv"}, params=params)
    refused(answer, ["onInvald"], "unknown")
    assert kept() == (0, 0, 0)


async def test_what_a_sender_calls_a_file_harms_nobody(client: httpx.AsyncClient, database_url: str) -> None:
    asked = form(("source", b"crm"))
    asked["content"] = asked["content"].replace(b"a.csv", b"../" + "né\x01\u200f".encode() + b"x" * 300)
    assert (await client.post("/import", **asked)).status_code == 200
    [(name,)] = rows(database_url, "select name from rollcall.uploads")
    assert name.startswith("../néxxx")
    assert len(name) == 255


async def test_the_description_names_every_option(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]["/import"]["post"]
    assert {each["name"] for each in described["parameters"]} == {
        *post_import.GIVEN,
        "X-Source",
        "X-Use-Resumable",
        "Idempotency-Key",
    }
    assert {"application/json", "multipart/form-data", "text/csv"} < described["requestBody"]["content"].keys()
    assert json.dumps(described).count("422") == 0
