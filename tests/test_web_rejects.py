"""Rejects as they are handed back: pages, exact NDJSON, and a CSV file that no spreadsheet takes for a program."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb

from rollcall.records import Mapping, Plan
from rollcall.records.rules import CODES
from service import listening, served

PLAN = Plan("csv", "none", ("=name", "email", "note"), Mapping("email", ("=name",)), ",")
RAWS = [
    b'=cmd|"a",x@,"say ""hi"", ok"',
    b"  +1,y@,-2",
    "＠x,z@,plain".encode(),
    b"\xff\xfe,bad,",
    b'"tab",\t9@,"line\nbreak"',
]


async def reject(client: httpx.AsyncClient, database_url: str, raws: list[bytes], plan: Plan | None = PLAN) -> str:
    """An import with these Rejects; its path."""
    headers = {"Content-Type": "text/csv", "X-Source": "crm"}
    location = str((await client.post("/import", content=b"name,email\nx,x\n", headers=headers)).headers["location"])
    job_id = location.rpartition("/")[2]
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "update rollcall.imports set plan = %s, state = 'succeeded', read = %s, rejected = read, total = %s,"
            " finished_at = now() where id = %s",
            (Jsonb(plan.to_json()) if plan else None, 0, 0, job_id),
        )
        connection.execute(
            "update rollcall.imports set read = %(n)s, rejected = %(n)s, total = %(n)s where id = %(id)s",
            {"n": len(raws), "id": job_id},
        )
        with connection.cursor().copy("copy rollcall.rejects from stdin") as copy:
            for record, raw in enumerate(raws, 1):
                copy.write_row((job_id, record + 1, "email", "email_invalid", "x@", raw))
    return location


async def test_the_csv_has_the_files_columns_and_no_formula(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, RAWS)
        answer = await client.get(f"{location}/rejects", params={"format": "csv"})
        shown = (await client.get(location)).json()
    assert shown["rejectsByCode"] == {"email_invalid": 5}
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment;")
    found = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert found[0] == ["'=name", "email", "note", "record", "code", "message"]
    message = CODES["email_invalid"]
    assert found[1:3] == [
        ['\'=cmd|"a"', "x@", 'say "hi", ok', "2", "email_invalid", message],
        ["'  +1", "y@", "'-2", "3", "email_invalid", message],
    ]
    assert [row[0] for row in found[3:4]] == ["'＠x"]
    assert found[5][1:3] == ["'\t9@", "line\nbreak"]
    assert len(found) == 6
    assert all(line.startswith('"') and line.endswith('"') for line in answer.text.split("\r\n")[:-1])


async def test_ndjson_is_exact_and_pages_follow_each_other(database_url: str, tmp_path: Path) -> None:
    raws = [b"A,%d@" % number for number in range(2500)]
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, raws)
        lines = (await client.get(f"{location}/rejects", params={"format": "ndjson"})).text.splitlines()
        found = [json.loads(line) for line in lines]
        paged: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            answer = (await client.get(f"{location}/rejects", params={"limit": 999, "after": after})).json()
            paged, after = paged + answer["rejects"], answer["next"]
        first = (await client.get(f"{location}/rejects")).json()
    assert len(first["rejects"]) == 100
    assert found == paged
    assert [reject["raw"].encode() for reject in found] == raws
    message = CODES["email_invalid"]
    assert found[0] == {
        "record": 2,
        "field": "email",
        "code": "email_invalid",
        "message": message,
        "value": "x@",
        "raw": "A,0@",
    }


async def test_bytes_that_are_no_text_are_shown(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, [b"\xff\x00,\xc3\xa9"], None)
        answer = (await client.get(f"{location}/rejects")).json()
        table = (await client.get(f"{location}/rejects", params={"format": "csv"})).text
    assert answer["rejects"][0]["raw"] == "\\xff\0,é"
    assert table.splitlines()[0] == '"record","code","message"'


async def test_an_import_without_rejects_has_a_header(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, [])
        assert (await client.get(f"{location}/rejects")).json() == {"rejects": [], "next": None}
        assert (await client.get(f"{location}/rejects", params={"format": "ndjson"})).content == b""
        table = (await client.get(f"{location}/rejects", params={"format": "csv"})).text
    assert table == '"\'=name","email","note","record","code","message"\r\n'


async def test_a_file_that_breaks_off_is_seen_to(database_url: str, tmp_path: Path) -> None:
    async with (
        listening(database_url, tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        location = await reject(client, database_url, [b"A,1@"] * 1500)
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("update rollcall.rejects set code = 'unheard of' where record = 1400")
        for form in ("csv", "ndjson"):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(f"{location}/rejects", params={"format": form})
        assert (await client.get("/health/live")).status_code == 200


@pytest.mark.parametrize("form", ["json", "csv", "ndjson"])
async def test_rejects_that_were_deleted_are_not_passed_over_in_silence(
    database_url: str, tmp_path: Path, form: str
) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, RAWS)
        with psycopg.connect(database_url) as connection:
            connection.execute("delete from rollcall.rejects")
        answer = await client.get(f"{location}/rejects", params={"format": form})
        shown = (await client.get(location)).json()
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "were deleted after their time" in answer.json()["error"]
    assert (shown["counts"]["rejected"], shown["rejectsByCode"]) == (5, {})
