"""Rejects as they are handed back: pages, exact NDJSON, and a CSV file that no spreadsheet takes for a program."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import json
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.types.json import Jsonb
from typer.testing import CliRunner

from faults.harness import Site, part_records, site
from rollcall.cli import app
from rollcall.imports import FINAL
from rollcall.records import Mapping, Plan
from rollcall.records.rules import CODES
from rollcall.web import READINGS
from rollcall.web import rejects as web_rejects
from service import listening, objects, served, until

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
        values = {
            "id": job_id,
            "plan": Jsonb(plan.to_json()) if plan else None,
            "count": len(raws),
            "by_code": Jsonb({"email_invalid": len(raws)} if raws else {}),
        }
        connection.execute(
            """update rollcall.imports set plan = %(plan)s, state = 'succeeded', read = %(count)s, rejected = %(count)s,
                      by_code = %(by_code)s, total = %(count)s, finished_at = now() where id = %(id)s""",
            values,
        )
        connection.execute(
            """insert into rollcall.import_parts
                 (import_id, loader, first, last, attempt, position, read, rejected, by_code)
               values (%(id)s, 0, 1, %(count)s + 1, 1, 1, %(count)s, %(count)s, %(by_code)s)""",
            values,
        )
        with connection.cursor().copy("copy rollcall.rejects from stdin") as copy:
            for record, raw in enumerate(raws, 1):
                copy.write_row((job_id, record + 1, "email", "email_invalid", "x@", raw))
    return location


async def test_get_rejects_the_csv_has_the_files_columns_and_no_formula(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, RAWS)
        answer = await client.get(f"{location}/rejects", params={"format": "csv"})
        shown = (await client.get(location)).json()
    assert shown["rejectsByCode"] == {"email_invalid": 5}
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith("attachment;")
    found = list(csv.reader(io.StringIO(answer.text, newline="")))
    assert found[0] == ["'=name", "email", "note", "rollcall_record", "rollcall_code", "rollcall_message"]
    message = CODES["email_invalid"]
    assert found[1:3] == [
        ['\'=cmd|"a"', "x@", 'say "hi", ok', "2", "email_invalid", message],
        ["'  +1", "y@", "'-2", "3", "email_invalid", message],
    ]
    assert [row[0] for row in found[3:4]] == ["'＠x"]
    assert found[5][1:3] == ["'\t9@", "line\nbreak"]
    assert len(found) == 6
    assert all(line.startswith('"') and line.endswith('"') for line in answer.text.split("\r\n")[:-1])


async def test_get_rejects_ndjson_is_exact_and_pages_follow_each_other(database_url: str, tmp_path: Path) -> None:
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


async def test_get_rejects_bytes_that_are_no_text_are_shown(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, [b"\xff\x00,\xc3\xa9"], None)
        answer = (await client.get(f"{location}/rejects")).json()
        table = (await client.get(f"{location}/rejects", params={"format": "csv"})).text
    assert answer["rejects"][0]["raw"] == "\\xff\0,é"
    assert table.splitlines()[0] == '"rollcall_record","rollcall_code","rollcall_message"'


async def test_get_rejects_an_import_without_rejects_has_a_header(database_url: str, tmp_path: Path) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, [])
        nothing: dict[str, Any] = {"rejects": [], "next": None, "total": 0, "stored": 0}
        assert (await client.get(f"{location}/rejects")).json() == nothing
        assert (await client.get(f"{location}/rejects", params={"format": "ndjson"})).content == b""
        table = (await client.get(f"{location}/rejects", params={"format": "csv"})).text
    assert table == '"\'=name","email","note","rollcall_record","rollcall_code","rollcall_message"\r\n'


async def test_get_rejects_a_file_that_breaks_off_is_seen_to(database_url: str, tmp_path: Path) -> None:
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
async def test_get_rejects_rejects_that_were_deleted_are_not_passed_over_in_silence(
    database_url: str, tmp_path: Path, form: str
) -> None:
    async with served(database_url, tmp_path) as client:
        location = await reject(client, database_url, RAWS)
        with psycopg.connect(database_url) as connection:
            connection.execute("delete from rollcall.rejects; delete from rollcall.segments")
        answer = await client.get(f"{location}/rejects", params={"format": form})
        shown = (await client.get(location)).json()
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")
    assert "were deleted after their time" in answer.json()["error"]
    assert (shown["counts"]["rejected"], shown["rejectsByCode"]) == (5, {"email_invalid": 5})


# Beyond what is stored


BROKEN = [b"=Ann,nowhere,1", b",bob@x.org,2", b'"Dee"d,dee@x.org,3', b"Eve\xff,eve@x.org,4", b"Gus,gus@x.org,5,6,7"]
COUNT, STORED = 900, 70


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    with part_records(100):
        async with site(database_url, tmp_path) as here:
            yield here


def half_bad(count: int = COUNT) -> bytes:
    lines = [BROKEN[at // 2 % 5] if at % 2 else b"Ann,u%d@x.org,%d" % (at, at) for at in range(count)]
    return gzip.compress(b"\n".join([b"name,email,note", *lines]))


async def load(place: Site, source: str, rejects_max: int, data: bytes, **options: str) -> str:
    """Import it with room for so many Rejects; its path."""
    await place.post(source, data, **options)
    job = await place.carry(await place.claim(), rejects_max=rejects_max)
    assert job.state in FINAL
    return f"/imports/{job.id}/rejects"


async def file(client: httpx.AsyncClient, path: str, form: str) -> bytes:
    answer = await client.get(path, params={"format": form})
    assert answer.status_code == 200, answer.text
    return answer.content


@pytest.mark.parametrize("on_invalid", ["reject", "fail"])
@pytest.mark.parametrize("form", ["csv", "ndjson"])
async def test_get_rejects_the_file_holds_what_was_not_stored_too(
    place: Site, database_url: str, tmp_path: Path, form: str, on_invalid: str
) -> None:
    capped = await load(place, "a", STORED, half_bad(), onInvalid=on_invalid)
    whole = await load(place, "b", COUNT, half_bad(), onInvalid=on_invalid)
    async with served(database_url, tmp_path) as client:
        found = await file(client, capped, form)
        assert found == await file(client, whole, form)
    assert len(found.splitlines()) == COUNT // 2 + (form == "csv")


async def test_get_rejects_pages_say_how_many_are_stored(place: Site, database_url: str, tmp_path: Path) -> None:
    capped = await load(place, "a", STORED, half_bad())
    whole = await load(place, "b", COUNT, half_bad())
    async with served(database_url, tmp_path) as client:
        first = (await client.get(capped, params={"limit": STORED - 1})).json()
        rest = (await client.get(capped, params={"after": first["next"]})).json()
        complete = (await client.get(whole, params={"limit": 1})).json()
    assert (first["total"], first["stored"], len(first["rejects"])) == (COUNT // 2, STORED, STORED - 1)
    assert (rest["total"], rest["stored"], len(rest["rejects"]), rest["next"]) == (COUNT // 2, STORED, 1, None)
    assert (complete["total"], complete["stored"]) == (COUNT // 2, COUNT // 2)


async def test_get_rejects_an_import_that_runs_has_those_of_its_ledger(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    """The file ends with what is committed, wherever the reader's Parts end."""
    draining = asyncio.Event()
    draining.set()
    await place.post("a", half_bad())
    job = await place.carry(await place.claim(), rejects_max=30, draining=draining)
    assert job.state == "running"
    async with served(database_url, tmp_path) as client:
        lines = (await file(client, f"/imports/{job.id}/rejects", "ndjson")).splitlines()
        shown = (await client.get(f"/imports/{job.id}/rejects")).json()
    assert [json.loads(line)["record"] for line in lines] == list(range(2, 101, 2))
    assert (shown["total"], shown["stored"]) == (job.rejected, 30) == (50, 30)


async def test_get_rejects_a_batch_that_commits_between_two_looks(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    """What the ledger did not have at the first look is in neither number, and not in the file."""
    path = await load(place, "a", COUNT, half_bad())
    await place.query("update rollcall.rejects set record = record + 1000 where record > 800")
    await place.query(
        """update rollcall.import_parts set read = read - rejected, rejected = 0, by_code = '{}'
            where loader = 0 and first > 800"""
    )
    async with served(database_url, tmp_path) as client:
        shown = (await client.get(path)).json()
        lines = (await file(client, path, "ndjson")).splitlines()
    assert (shown["total"], shown["stored"], len(lines)) == (400, 400, 400)


async def test_get_rejects_without_the_stored_file_there_is_no_short_one(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    path = await load(place, "a", STORED, half_bad())
    await place.query("delete from rollcall.segments")
    async with served(database_url, tmp_path) as client:
        for form in ("csv", "ndjson"):
            answer = await client.get(path, params={"format": form})
            assert (answer.status_code, answer.json()["code"]) == (409, "OBJECT_MISSING")
            assert answer.json()["error"].startswith(f"Of the {COUNT // 2} rejected records {STORED} are stored")
        page = (await client.get(path)).json()
    assert (page["total"], page["stored"], len(page["rejects"])) == (COUNT // 2, STORED, STORED)


async def test_get_rejects_deleted_rejects_are_found_again_while_the_file_is_there(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    """All of them, or, in the middle of a sweep, some."""
    path = await load(place, "a", COUNT, half_bad())
    async with served(database_url, tmp_path) as client:
        whole = await file(client, path, "ndjson")
        for gone in ("record % 3 = 0", "true"):
            await place.query(f"delete from rollcall.rejects where {gone}".replace("%", "%%"))
            assert await file(client, path, "ndjson") == whole


@pytest.mark.parametrize(
    ("harm", "code"),
    [("gone", "OBJECT_MISSING"), ("shorter", "OBJECT_CORRUPT"), ("reader", "READER_CHANGED")],
)
async def test_get_rejects_a_stored_file_that_cannot_be_read_is_refused(
    place: Site, database_url: str, tmp_path: Path, harm: str, code: str
) -> None:
    path = await load(place, "a", STORED, half_bad())
    stored = objects(tmp_path)[0]
    if harm == "gone":
        stored.unlink()
    elif harm == "shorter":
        stored.write_bytes(stored.read_bytes()[:-1])
    else:
        await place.query("update rollcall.imports set plan = jsonb_set(plan, '{reader}', '0')")
    async with served(database_url, tmp_path) as client:
        answer = await client.get(path, params={"format": "csv"})
    assert answer.json()["code"] == code


async def test_get_rejects_a_file_that_would_be_short_breaks_off(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    """Whatever went wrong: here more were counted than the stored file holds, or rows go while they are sent."""
    path = await load(place, "a", STORED, half_bad())
    await place.query(
        """update rollcall.import_parts set read = read + 1, rejected = rejected + 1,
                  by_code = by_code || jsonb_build_object('required', 1) where loader = 0 and first = 1"""
    )
    async with (
        listening(database_url, tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for form in ("csv", "ndjson"):
            with pytest.raises(httpx.RemoteProtocolError):
                await client.get(path, params={"format": form})


async def test_get_rejects_who_leaves_in_the_middle_leaves_nothing_open(
    place: Site, database_url: str, tmp_path: Path
) -> None:
    lines = b"".join(b"Ann,nowhere%d,%b\n" % (number, b"n" * 4000) for number in range(4000))
    path = await load(place, "a", STORED, b"name,email,note\n" + lines)
    stored = objects(tmp_path)[0]
    async with (
        listening(database_url, tmp_path) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
    ):
        for _ in range(3):
            async with client.stream("GET", path, params={"format": "ndjson"}) as answer:
                async for _ in answer.aiter_bytes():
                    assert opened(stored) == 1
                    break
            await asyncio.wait_for(until(lambda: not opened(stored)), 20)
        assert (await client.get("/health/live")).status_code == 200


async def test_get_rejects_commands_say_what_is_gone(
    place: Site, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = await load(place, "a", STORED, half_bad())
    job_id = path.split("/")[2]
    await place.query("delete from rollcall.segments")
    async with listening(database_url, tmp_path) as port:

        async def command(*words: str) -> tuple[int, str]:
            url = f"http://127.0.0.1:{port}"
            done = await asyncio.to_thread(CliRunner().invoke, app, [*words, job_id, "--to", url])
            return done.exit_code, done.output

        status, said = await command("rejects", "--output", "rejects.csv")
        assert (status, f"Of the {COUNT // 2} rejected records {STORED} are stored" in said) == (1, True)
        assert "rejects.csv" not in os.listdir(tmp_path)  # noqa: PTH208
        assert "Rejected, the first 5 of 450:" in (await command("status"))[1]

        await place.query("delete from rollcall.rejects")
        status, said = await command("status")
    assert (status, "The rejected records were deleted after their time" in said) == (0, True)


def opened(path: Path) -> int:
    """How often this process has the file open."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.exists()]
    return sum(link.resolve() == path.resolve() for link in links)


# Mended and sent again


async def contacts(place: Site, source: str) -> dict[str, tuple[str, Any]]:
    found = await place.query("select email, name, attributes from contacts where source = %s", source)
    return {email: (name, attributes) for email, name, attributes in found}


async def test_get_rejects_csv_mended_and_posted_gives_the_contacts_that_were_meant(
    place: Site, database_url: str, tmp_path: Path, corpora: Path
) -> None:
    path = await load(place, "a", 10, (corpora / "people" / "91-reject-roundtrip.csv").read_bytes())
    async with served(database_url, tmp_path) as client:
        rejected = (await file(client, path, "csv")).decode()
    assert '"\'+41791234567"' in rejected
    mended = rejected.replace("ann.example.com", "ann@example.com").replace('"","bob@', '"Bob","bob@')
    await load(place, "a", 10, mended.encode())
    assert await contacts(place, "a") == {
        "ann@example.com": ("Ann", {"phone": "+41791234567", "balance": "-12.50"}),
        "bob@example.com": ("Bob", {"phone": "+41791234568", "balance": "-7.00"}),
    }


@pytest.mark.parametrize("name", ["92-reject-latin1.csv", "93-reject-stray-quote.csv"])
async def test_get_rejects_csv_unmended_is_rejected_again(
    place: Site, database_url: str, tmp_path: Path, corpora: Path, name: str
) -> None:
    path = await load(place, "a", 10, (corpora / "people" / name).read_bytes())
    async with served(database_url, tmp_path) as client:
        rejected = await file(client, path, "csv")
        again = await load(place, "b", 10, rejected)
        count = (await client.get(path)).json()["total"]
        if count:  # else it is a header alone
            assert (await client.get(again)).json()["total"] == count
    assert await contacts(place, "b") == {}


async def test_get_rejects_json_comes_back_with_its_types(place: Site, database_url: str, tmp_path: Path) -> None:
    late = b'{"name":"Ann","email":"nobody","zip":"00123","n":1.50,"late":[true,-1]}'
    data = b"[" + b"".join(b'{"name":"A%d","email":"a%d@x.org"},' % (at, at) for at in range(1_200)) + late + b"]"
    path = await load(place, "a", 10, data)
    for form, source in (("csv", "b"), ("records", "c")):
        async with served(database_url, tmp_path) as client:
            rejected = await file(client, path, form)
        await load(place, source, 10, rejected.replace(b"nobody", b"ann@x.org"))
        assert await place.query("select attributes::text from contacts where source = %s", source) == [
            ('{"n": 1.50, "zip": "00123", "late": [true, -1]}',)
        ]


# Bounded by bytes


async def test_get_rejects_pages_end_with_one_mebibyte(place: Site, database_url: str, tmp_path: Path) -> None:
    lines = [b"Ann,nowhere%d,%b" % (number, b"\xff" * 60_000) for number in range(200)]
    path = await load(place, "a", 1_000, b"\n".join([b"name,email,note", *lines]))
    async with served(database_url, tmp_path) as client:
        records, after, pages = list[int](), 0, 0
        while after is not None:
            answer = await client.get(path, params={"limit": 1000, "after": after})
            assert len(answer.content) < 2 << 20
            page = answer.json()
            records, after, pages = records + [each["record"] for each in page["rejects"]], page["next"], pages + 1
    assert records == list(range(1, 201))
    assert pages > 5


async def test_get_rejects_files_read_again_are_few_at_a_time(
    place: Site, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of clients that take nothing, the first ones hold a stored file open; they are let go."""
    monkeypatch.setattr(web_rejects, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(web_rejects, "TAKEN_SECONDS", 3.0)
    lines = b"".join(b"Ann,nowhere%d,%b\n" % (number, b"n" * 4000) for number in range(8000))
    path = await load(place, "a", STORED, b"name,email,note\n" + lines)
    stored = objects(tmp_path)[0]
    async with listening(database_url, tmp_path) as port, AsyncExitStack() as stack:
        for _ in range(READINGS):
            client = await stack.enter_async_context(httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}"))
            await stack.enter_async_context(client.stream("GET", path, params={"format": "ndjson"}))
        assert opened(stored) == READINGS
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as other:
            refused = await other.get(path, params={"format": "ndjson"})
            assert (refused.status_code, refused.json()["code"]) == (503, "SERVER_BUSY")
            await asyncio.wait_for(until(lambda: not opened(stored)), 60)
            answer = await other.get(path, params={"format": "ndjson"})
    assert len(answer.content.splitlines()) == 8000
