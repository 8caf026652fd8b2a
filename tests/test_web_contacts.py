"""Contacts as they are listed."""

from __future__ import annotations

from pathlib import Path

import psycopg

from rollcall.imports import new_id
from service import served


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
