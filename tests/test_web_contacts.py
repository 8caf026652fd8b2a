"""Contacts as they are listed."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from pathlib import Path

import httpx
import psycopg
import pytest
from starlette.types import Message

from faults.harness import site
from rollcall import app
from rollcall.errors import Busy
from rollcall.imports import new_id
from rollcall.settings import Settings
from rollcall.web import outgoing
from service import api, served, until

DEEP = "[" * 99 + "]" * 99
TELLING = {
    "deep": DEEP,
    "long": "9" * 4_500,
    "large": "1e4300",
    "tiny": "1e-5000",
    "zeros": "1.10",
    "digits": "0.123456789012345678901234567890",
    "beyond": "1" + "0" * 320 + ".5",
}
"""Values of attributes that Python's JSON or a double would change or refuse, as a file may have them."""


def fill(database_url: str, count: int, attributes: str) -> None:
    """Contacts of one Source; `attributes` is an expression of SQL."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            f"""insert into public.contacts select gen_random_uuid(), 'N', 'n' || n || '@x.org', 'crm', {attributes},
                       now(), null, n from generate_series(1, {count}) n""".encode()
        )


async def test_contacts_are_listed_newest_first(database_url: str, tmp_path: Path) -> None:
    ids = sorted(new_id() for _ in range(5))
    with psycopg.connect(database_url) as connection:
        for number, each in enumerate(ids):
            connection.execute(
                'insert into public.contacts values (%s, %s, %s, %s, \'{"phone": "1"}\', now(), %s, %s)',
                (each, f"N{number}", f"n{number % 3}@x.org", "ab"[number // 3], each, number),
            )
    async with served(database_url, tmp_path) as client:

        async def listed(**params: str) -> tuple[list[int], str | None]:
            answer = (await client.get("/contacts", params=params)).json()
            return [ids.index(type(ids[0])(contact["id"])) for contact in answer["contacts"]], answer["next"]

        assert await listed() == ([4, 3, 2, 1, 0], None)
        assert await listed(source="b") == ([4, 3], None)
        assert await listed(email="N1@X.org") == ([4, 1], None)
        assert await listed(email="n1@x.org", source="a") == ([1], None)
        assert await listed(offset="3") == ([1, 0], None)
        seen, after = await listed(limit="2")
        assert (seen, after) == ([4, 3], str(ids[3]))
        assert await listed(limit="2", after=after or "") == ([2, 1], str(ids[1]))
        assert await listed(limit="2", after=str(ids[1])) == ([0], None)
        [contact] = (await client.get("/contacts", params={"limit": 1})).json()["contacts"]
        expected = {"id": str(ids[4]), "name": "N4", "email": "n1@x.org", "source": "b", "attributes": {"phone": "1"}}
        assert contact == expected | {"importedAt": contact["importedAt"], "importId": str(ids[4]), "record": 4}

        for name, value in [
            *(("limit", "0"), ("limit", "1001"), ("offset", "10001"), ("offset", "x"), ("after", "x")),
            *(("source", "\0"), ("email", "x" * 321)),
        ]:
            answer = await client.get("/contacts", params={name: value})
            assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_INPUT"), (name, value)
            assert [issue["path"] for issue in answer.json()["issues"]] == [[name]]


async def test_get_contacts_attributes_are_shown_as_they_are_stored(database_url: str, tmp_path: Path) -> None:
    """Whatever the import takes in: to the digit, and as deep."""
    values = ",".join(f'"{name}":{value}' for name, value in TELLING.items())
    async with site(database_url, tmp_path) as place:
        job = await place.load("crm", f'{{"name":"Ann","email":"ann@x.org",{values}}}\n'.encode(), format="ndjson")
    assert (job.state, job.created) == ("succeeded", 1)
    async with served(database_url, tmp_path) as client:
        answer = await client.get("/contacts")
        assert answer.status_code == 200, answer.text
    shown = json.loads(answer.text.replace(DEEP, '"deep"'), parse_int=Decimal, parse_float=Decimal)
    attributes = shown["contacts"][0]["attributes"]
    assert attributes.pop("deep") == "deep"
    with_digits = {name: Decimal(value) for name, value in TELLING.items() if name != "deep"}
    assert attributes == with_digits
    assert '"zeros": 1.10' in answer.text


async def test_get_contacts_pages_of_contacts_end_at_their_bytes(database_url: str, tmp_path: Path) -> None:
    """However wide a contact is; following `next` finds every one of them, once."""
    fill(database_url, 40, """jsonb_build_object('x', repeat('é"', 50000))""")
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            """update public.contacts set attributes = jsonb_build_object('x', repeat('y', 3 << 20)) where record = 7"""
        )
    async with served(database_url, tmp_path) as client:
        seen: list[int] = []
        after: dict[str, str] = {}
        pages = 0
        while True:
            answer = await client.get("/contacts", params={"limit": "1000"} | after)
            page = answer.json()
            pages += 1
            seen += [contact["record"] for contact in page["contacts"]]
            assert len(answer.content) <= outgoing.PAGE_BYTES or len(page["contacts"]) == 1
            if page["next"] is None:
                break
            after = {"after": page["next"]}
        assert sorted(seen) == list(range(1, 41))
        assert 8 <= pages <= 12


async def test_get_contacts_a_page_of_wide_contacts_takes_little_memory(database_url: str, tmp_path: Path) -> None:
    fill(database_url, 60, """jsonb_build_object('x', repeat('y', 4 << 20))""")
    async with (
        api(database_url, tmp_path) as (process, port),
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client,
    ):
        before = rss(process.pid)
        answer = await client.get("/contacts")
        assert (answer.status_code, len(answer.json()["contacts"])) == (200, 1)
        assert rss(process.pid) - before < 64 << 20


async def test_get_contacts_slow_readers_of_contacts_leave_room_for_short_answers(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outgoing, "WAIT_SECONDS", 0.3)
    monkeypatch.setattr(outgoing, "ROOM_BYTES", 4 << 20)
    fill(database_url, 30, """jsonb_build_object('x', repeat('y', 30000))""")
    begun: list[str] = []

    async def never(message: Message) -> None:
        begun.append(message["type"])
        await asyncio.Event().wait()

    async def nothing() -> Message:
        return {"type": "http.request"}

    service = app.create(Settings(data_dir=tmp_path), database_url=database_url)
    scope = {"type": "http", "method": "GET", "path": "/contacts", "query_string": b"", "headers": []}
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=httpx.ASGITransport(service), base_url="http://localhost") as client,
    ):
        readers = [asyncio.create_task(service(dict(scope), nothing, never)) for _ in range(4)]
        await until(lambda: len(begun) == 4)
        assert (await client.get("/contacts", params={"limit": 1})).status_code == 200
        refused = await client.get("/contacts")
        assert (refused.status_code, refused.json()["code"]) == (503, "SERVER_BUSY")
        for reader in readers:
            reader.cancel()
        await asyncio.wait(readers)
        assert (await client.get("/contacts")).status_code == 200


def rss(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) << 10


async def test_get_contacts_room_for_answers_is_given_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "WAIT_SECONDS", 0.05)
    room = outgoing.Room(10)
    assert await room.take(100) == 10
    with pytest.raises(Busy):
        await room.take(1)
    large, small = asyncio.create_task(room.take(8)), asyncio.create_task(room.take(2))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.wait([large])
    room.give_back(10)
    assert await small == 2
    assert await room.take(8) == 8
