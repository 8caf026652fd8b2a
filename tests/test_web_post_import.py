"""POST /import beyond the contract: hostile bodies, bounds, and what is kept when something is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rollcall.options import GIVEN
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


async def test_post_import_the_first_hundred_bad_contacts_are_named(client: httpx.AsyncClient, kept: Any) -> None:
    data = [GOOD, *({"name": "B", "email": f"bad{number}@"} for number in range(150))]
    answer = await client.post("/import", json={"source": "crm", "data": data})
    assert answer.status_code == 400
    body = answer.json()
    assert (len(body["issues"]), body["issuesTotal"]) == (100, 150)
    assert [issue["path"] for issue in body["issues"][::99]] == [["data", 1, "email"], ["data", 100, "email"]]
    assert kept() == (0, 0, 0)


async def test_post_import_bad_contacts_may_be_rejected_one_by_one(
    client: httpx.AsyncClient, database_url: str
) -> None:
    asked = {"source": "crm", "data": [GOOD, {"name": "B", "email": "bad"}], "onInvalid": "reject", "maxRejects": 5}
    assert (await client.post("/import", json=asked)).status_code == 200
    [(options,)] = rows(database_url, "select options from rollcall.imports")
    assert options == {"onInvalid": "reject", "onDuplicate": "update", "format": "json", "maxRejects": "5"}


async def test_post_import_contacts_under_other_keys_are_judged_as_files_are(client: httpx.AsyncClient) -> None:
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
    ([GOOD], ["source"], "required"),
    ("contacts", ["body"], "invalid_type"),
]


async def test_post_import_a_wrong_shape_is_named(client: httpx.AsyncClient, kept: Any) -> None:
    for body, path, code in WRONG_SHAPES:
        refused(await client.post("/import", json=body), path, code)
    assert kept() == (0, 0, 0)


async def test_post_import_a_long_body_is_streamed_when_its_head_says_enough(
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


async def test_post_import_a_long_body_without_data_is_refused(
    client: httpx.AsyncClient, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_import, "JSON_BYTES_MAX", 1000)
    for head in (b'{"source": "crm", "x": "', b"[" * 1200, b'{"source": "crm", ,', b"\0" * 1200):
        answer = await client.post("/import", content=head + b"x" * 2000, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT"), head
    assert kept() == (0, 0, 0)


async def test_post_import_any_json_is_answered(client: httpx.AsyncClient, corpora: Path) -> None:
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
async def test_post_import_a_form_may_come_in_any_pieces(
    client: httpx.AsyncClient, tmp_path: Path, size: int, last: bool
) -> None:
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


async def test_post_import_a_wrong_form_is_named(client: httpx.AsyncClient, kept: Any) -> None:
    for asked, path, code in WRONG_FORMS:
        refused(await client.post("/import", **asked), path, code)
    assert kept() == (0, 0, 0)


async def test_post_import_a_form_has_bounds(client: httpx.AsyncClient, kept: Any) -> None:
    parts = form(*((f"field{number}", b"x") for number in range(101)))
    headers = form() | {"content": b"--x\r\n" + b"X-Header: 1\r\n" * 2000}
    header = form() | {"content": b"--x\r\nX-Header: " + b"1" * 100_000}
    for asked in (parts, headers, header):
        answer = await client.post("/import", **asked)
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert kept() == (0, 0, 0)


async def test_post_import_a_form_that_is_not_whole_leaves_nothing(client: httpx.AsyncClient, kept: Any) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    for content in (b"", b"no form", b"--x", b"--x\r\n\r\n", b"--y\r\n", form()["content"][:-5]):
        answer = await client.post("/import?source=crm", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (400, "UPLOAD_FAILED"), content
    assert kept() == (0, 0, 0)


async def test_post_import_a_body_has_a_largest_size(client: httpx.AsyncClient, kept: Any) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 100_000

    for content in (b"x" * ((1 << 20) + 1), endless()):
        answer = await client.post("/import?source=crm", content=content, headers={"Content-Type": "text/csv"})
        assert (answer.status_code, answer.json()["code"]) == (413, "PAYLOAD_TOO_LARGE")
    assert kept() == (0, 0, 0)


async def test_post_import_a_body_shorter_than_announced_leaves_nothing(client: httpx.AsyncClient, kept: Any) -> None:
    headers = {"Content-Type": "text/csv", "Content-Length": str(len(CSV) + 1)}
    answer = await client.post("/import?source=crm", content=CSV, headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (400, "UPLOAD_FAILED")
    assert kept() == (0, 0, 0)


async def test_post_import_a_stream_is_named_by_headers_or_query(client: httpx.AsyncClient, database_url: str) -> None:
    headers = {"Content-Type": "text/csv; charset=utf-8"}
    utf8 = httpx.Headers([(b"Content-Type", b"text/csv"), (b"X-Source", "Kündigungen".encode())])
    assert (await client.post("/import", content=CSV, headers=utf8)).status_code == 200
    answer = await client.post("/import", content=CSV, headers=headers, params={"source": "Kündigungen"})
    assert answer.status_code == 200
    assert rows(database_url, "select distinct source from rollcall.imports") == [("Kündigungen",)]


async def test_post_import_an_option_that_is_not_known_is_refused(client: httpx.AsyncClient, kept: Any) -> None:
    params = {"source": "crm", "onInvald": "fail"}
    answer = await client.post("/import", content=CSV, headers={"Content-Type": "text/csv"}, params=params)
    refused(answer, ["onInvald"], "unknown")
    assert kept() == (0, 0, 0)


async def test_post_takes_any_type_as_a_file_beside_a_source(client: httpx.AsyncClient, database_url: str) -> None:
    types = ["application/csv", "text/x-csv", "text/comma-separated-values", "application/x-www-form-urlencoded",
             "video/mp4", "image/png; x=y", "nonsense", "", None]  # fmt: skip
    for content_type in types:
        headers = {} if content_type is None else {"Content-Type": content_type}
        answer = await client.post("/import?source=crm", content=CSV, headers=headers)
        assert answer.status_code == 200, (content_type, answer.text)
        refused(await client.post("/import", content=CSV, headers=headers), ["source"], "required")
        refused(await client.post("/import?source=crm", content=b"", headers=headers), ["body"], "required")
    refused(await client.post("/import"), ["source"], "required")
    for content_type in ("multipart/mixed; boundary=x", "multipart/related", "message/rfc822"):
        answer = await client.post("/import?source=crm", content=CSV, headers={"Content-Type": content_type})
        assert (answer.status_code, answer.json()["code"]) == (415, "UNSUPPORTED_MEDIA_TYPE")


async def test_post_takes_a_bare_array_and_a_byte_order_mark(client: httpx.AsyncClient, database_url: str) -> None:
    headers = {"Content-Type": "application/json"}
    for body in (json.dumps([GOOD]), json.dumps({"data": [GOOD], "x": 1}), " \n" + json.dumps([GOOD])):
        for mark in (b"", b"\xef\xbb\xbf"):
            answer = await client.post("/import?source=crm", content=mark + body.encode(), headers=headers)
            assert answer.status_code == 200, answer.text
    for body in ("[]", "[5]", json.dumps([{}]), "[", '[{"name":"A"', "[1,]"):
        assert (await client.post("/import?source=crm", content=body, headers=headers)).status_code == 400, body


SLIPS = ["onDuplicates", "on_duplicate", "onInvald", "dryrun", "dryRun", "max_rejects", "Format", "useResumble"]


async def test_post_import_a_slip_in_an_options_name_is_refused_wherever_it_stands(
    client: httpx.AsyncClient, kept: Any
) -> None:
    text = {"Content-Type": "text/csv", "X-Source": "crm"}
    contacts = {"source": "crm", "data": [GOOD]}
    for name in SLIPS:
        ways: list[dict[str, Any]] = [
            {"content": CSV, "headers": text, "params": {name: "skip"}},
            {"content": CSV, "headers": text | {f"X-{name}": "skip"}},
            {"json": {name: "skip"} | contacts},
            {"json": contacts | {name: {"a": 1}}},
            form(("source", b"crm"), (name, b"skip")),
            form(("source", b"crm"), (name, b"skip"), last=True),
        ]
        for way in ways:
            answer = await client.post("/import", **way)
            assert answer.status_code == 400, (name, way)
            [found] = answer.json()["issues"]
            assert found["code"] == "unknown"
            assert name == "useResumble" or "fail" not in found["message"]
    for header in ("X-OnDuplicate", "X-On-Duplicate", "X-Sourc", "X-Source-", "X-UseResumable", "Idempotency_Key",
                   "X-Idempotency-Key", "Idempotencykey"):  # fmt: skip
        answer = await client.post("/import", content=CSV, headers=text | {header: "skip"})
        assert answer.status_code == 400, header
    assert kept() == (0, 0, 0)


async def test_post_import_names_that_mean_nothing_to_us_are_passed_over(client: httpx.AsyncClient) -> None:
    names = ("button", "note", "csrf_token", "id", "form", "sourceId", "x" * 1000)
    assert (await client.post("/import", json={"source": "crm", "data": [GOOD]} | dict.fromkeys(names))).is_success
    assert (await client.post("/import", **form(("source", b"crm"), *((name, b"x") for name in names)))).is_success
    headers = {"X-Source": "crm", "X-Request-Id": "1", "X-Forwarded-For": "1.2.3.4", "X-Requested-With": "x"}
    assert (await client.post("/import", content=CSV, headers=headers)).is_success


async def test_post_import_what_is_given_twice_is_refused(client: httpx.AsyncClient, kept: Any) -> None:
    text = {"Content-Type": "text/csv"}
    body = '{"source":"a","source":"b","data":[{"name":"A","email":"a@x.org"}]}'
    ways: list[dict[str, Any]] = [
        {"content": CSV, "headers": text, "params": [("source", "a"), ("source", "b")]},
        {"content": CSV, "headers": [("X-Source", "a"), ("X-Source", "b"), ("Content-Type", "text/csv")]},
        {"content": body, "headers": {"Content-Type": "application/json"}},
        form(("source", b"a"), ("source", b"b")),
    ]
    for way in ways:
        answer = await client.post("/import", **way)
        assert (answer.status_code, answer.json()["issues"][0]["code"]) == (400, "duplicate"), way
    assert kept() == (0, 0, 0)


async def test_post_import_an_error_is_bounded_whatever_is_wrong(client: httpx.AsyncClient) -> None:
    text = {"Content-Type": "text/csv", "X-Source": "crm"}
    many = "&".join(f"a{number}" for number in range(9000))
    long = {"x" * 40_000: "y"}
    for asked in (
        client.post(f"/import?{many}", content=CSV, headers=text),
        client.post("/import", content=CSV, headers=text, params=long),
        client.post("/import", json={"source": "crm", "data": [GOOD], "onDuplicate": "x" * 100_000}),
        client.post("/import", json={"source": "crm", "data": [{}] * 20_000}),
        client.post("/import", json={str(number): 0 for number in range(5000)}),
        client.post("/import", **form(("x" * 5000, b"")) | {"params": long}),
    ):
        answer = await asked
        assert answer.status_code in (400, 413)
        assert len(answer.content) < 40_000, answer.text[:200]


async def test_post_import_texts_that_are_no_utf8_are_refused(client: httpx.AsyncClient, kept: Any) -> None:
    text = {"Content-Type": "text/csv"}
    refused(await client.post("/import?source=caf%E9", content=CSV, headers=text), ["query"], "invalid_utf8")
    refused(await client.post("/import?source=crm&caf%E9=1", content=CSV, headers=text), ["query"], "invalid_utf8")
    for name in ("X-Source", "Idempotency-Key"):
        headers = [(b"Content-Type", b"text/csv"), (name.encode(), b"caf\xe9")]
        refused(await client.post("/import", content=CSV, headers=headers), [name], "invalid_utf8")
    assert kept() == (0, 0, 0)


async def test_post_import_a_source_is_trimmed_and_composed(client: httpx.AsyncClient, database_url: str) -> None:
    for source in ("caf\u00e9", "cafe\u0301", "  caf\u00e9 ", "\u00a0cafe\u0301"):
        ways: list[dict[str, Any]] = [
            {"json": {"source": source, "data": [GOOD]}},
            {"content": CSV, "params": {"source": source}},
            {"content": CSV, "headers": {b"X-Source": source.encode()}},
            form(("source", source.encode())),
        ]
        for way in ways:
            assert (await client.post("/import", **way)).status_code == 200, way
    assert rows(database_url, "select distinct source from rollcall.imports") == [("caf\u00e9",)]


async def test_post_import_options_of_any_shape_are_refused_before_the_body_is_stored(
    client: httpx.AsyncClient, kept: Any
) -> None:
    deep = b"[" * 300 + b"]" * 300
    for name in ("mapping", "format", "onInvalid", "onDuplicate", "maxRejects", "source", "useResumable"):
        source = b"" if name == "source" else b'"source":"crm",'
        body = b'{%b"%b":%b,"data":[{"name":"A","email":"a@x.org"}]}' % (source, name.encode(), deep)
        answer = await client.post("/import", content=body, headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["issues"][0]["path"]) == (400, [name])
        answer = await client.post("/import", **form(("source", b"crm"), (name, deep), last=True))
        assert answer.status_code == 400
    for mapping in (
        {"email": "a\0", "name": "n"},
        {"email": "e", "name": ["n"] * 1000},
        {"email": "e", "name": ["n" * 200_000]},
    ):
        asked = {"source": "crm", "data": [GOOD], "mapping": mapping}
        refused(
            await client.post("/import", json=asked),
            ["mapping"],
            "too_big" if len(str(mapping)) > 200_000 else "invalid_value",
        )
    assert kept() == (0, 0, 0)


async def test_post_import_a_long_body_with_options_after_data_is_refused(
    client: httpx.AsyncClient, kept: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_import, "JSON_BYTES_MAX", 1000)
    headers = {"Content-Type": "application/json"}
    data = [{"name": "A", "email": f"a{number}@example.com"} for number in range(500)]
    for late in ({"onDuplicate": "skip"}, {"onDuplicate": "nonsense"}, {"source": "b"}, {"on_duplicate": "skip"},
                 {"pad": "x" * 5000, "onInvalid": "reject"}, {"onInvalid": "reject", "pad": "x" * 5000}):  # fmt: skip
        for first in (data, data[:1]):
            body = json.dumps({"source": "crm", "data": first} | late | {"more": data}).encode()
            body = body.replace(b'{"source": "b"', b'{"source": "crm"')
            if "source" in late:
                body = body.replace(b', "more"', b', "source": "b", "more"')
            answer = await client.post("/import", content=pieces(body, 300), headers=headers)
            assert answer.status_code == 400, (late, answer.text)
            assert "before data" in answer.text or "meant" in answer.text
    assert kept() == (0, 0, 0)
    body = json.dumps({"source": "crm", "onDuplicate": "skip", "data": data, "note": "x"}).encode()
    assert (await client.post("/import", content=pieces(body, 300), headers=headers)).status_code == 200
    bare = json.dumps(data).encode()
    assert (await client.post("/import?source=crm", content=pieces(bare, 300), headers=headers)).status_code == 200


async def test_post_import_head_answers_what_get_would_without_a_body(client: httpx.AsyncClient) -> None:
    sent = await client.post("/import", content=CSV, headers={"X-Source": "crm"})
    job = sent.headers["location"]
    for path in ("/health/live", "/imports", job, f"{job}/rejects?format=csv", "/contacts", "/docs", "/openapi.json"):
        asked, told = await client.get(path), await client.head(path)
        assert (told.status_code, told.content) == (asked.status_code, b""), path
        assert told.headers["content-type"] == asked.headers["content-type"]
        assert told.headers.get("content-length") == asked.headers.get("content-length")
    assert (await client.head("/import")).status_code == 405
    assert (await client.head("/nope")).status_code == 404
    assert (await client.get("/nope")).json()["error"] == "Not found"


async def test_post_import_what_a_sender_calls_a_file_harms_nobody(
    client: httpx.AsyncClient, database_url: str
) -> None:
    asked = form(("source", b"crm"))
    asked["content"] = asked["content"].replace(b"a.csv", b"../" + "né\x01\u200f".encode() + b"x" * 300)
    assert (await client.post("/import", **asked)).status_code == 200
    [(name,)] = rows(database_url, "select name from rollcall.uploads")
    assert name.startswith("../néxxx")
    assert len(name) == 255


async def test_post_import_the_description_names_every_option(client: httpx.AsyncClient) -> None:
    described = (await client.get("/openapi.json")).json()["paths"]["/import"]["post"]
    assert {each["name"] for each in described["parameters"]} == {
        *GIVEN,
        "X-Source",
        "X-Use-Resumable",
        "Idempotency-Key",
    }
    assert {"application/json", "multipart/form-data", "text/csv"} < described["requestBody"]["content"].keys()
    assert "HTTPValidationError" not in json.dumps(described)
