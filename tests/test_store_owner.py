"""The owner of a store: two databases on one folder never delete each other's files."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql
from structlog.testing import capture_logs

from faults.harness import Site, site, until
from rollcall import store_owner, worker
from rollcall import sweep as story
from rollcall.cli import up
from rollcall.errors import StoreMismatch
from rollcall.migrations import migrate
from rollcall.storage import FileStore
from service import objects, rows, served

CSV = b"name,email\nAnn,ann@x.org\n"
DAY = timedelta(days=1)


@pytest.fixture
async def place(database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    async with site(database_url, tmp_path) as here:
        yield here


@pytest.fixture
async def other(empty_database_url: str, tmp_path: Path) -> AsyncIterator[Site]:
    """Another database, on the same folder."""
    await migrate(empty_database_url)
    async with site(empty_database_url, tmp_path) as here:
        yield here


async def sweep(place: Site, *, retention: timedelta = 7 * DAY) -> None:
    await story.sweep(
        place.database, place.store, retention=retention, rejects_retention=7 * DAY, imports_retention=7 * DAY
    )


def age_objects(place: Site) -> None:
    for path in objects(place.folder):
        os.utime(path, (time.time() - 25 * 3600,) * 2)


async def test_store_owner_sweep_deletes_nothing_of_another_database(place: Site, other: Site) -> None:
    await place.post("crm", CSV)
    age_objects(place)
    with pytest.raises(StoreMismatch):
        await sweep(other)
    assert len(objects(place.folder)) == 1
    job = await place.carry(await place.claim())
    assert job.state == "succeeded"
    await sweep(place, retention=timedelta(0))
    assert not objects(place.folder)


async def test_store_owner_sweep_of_a_database_from_before_claims_its_store(place: Site, other: Site) -> None:
    """It has files, and the store has no owner yet."""
    await place.post("crm", CSV)
    (place.folder / "store.database").unlink()
    await place.query("delete from rollcall.identity")
    age_objects(place)
    await sweep(place)
    with pytest.raises(StoreMismatch):
        await sweep(other)
    assert len(objects(place.folder)) == 1


async def test_store_owner_uploads_of_another_database_are_refused(place: Site, other: Site) -> None:
    await place.post("crm", CSV)
    with capture_logs() as logs:
        async with served(other.url, place.folder) as client:
            answer = await client.post("/import", content=CSV, headers={"Content-Type": "text/csv", "X-Source": "crm"})
            assert (answer.status_code, answer.json()["code"]) == (503, "STORE_MISMATCH")
            health = await client.get("/health")
            assert (health.status_code, health.json()["error"]) == (503, str(StoreMismatch()))

            async def logged() -> bool:
                return any(line["event"] == "store.mismatch" for line in logs)

            await until(logged, 10, "the start of the API has said it")
    assert len(objects(place.folder)) == 1
    assert not rows(other.url, "select id from rollcall.uploads")


async def test_store_owner_worker_and_up_end_at_another_databases_store(place: Site, other: Site) -> None:
    await place.post("crm", CSV)
    with pytest.raises(StoreMismatch):
        await asyncio.wait_for(worker.run(other.settings(), other.url, stop=asyncio.Event()), 20)
    with pytest.raises(StoreMismatch):
        await up.refuse_foreign_store(other.settings(), other.url)
    await up.refuse_foreign_store(place.settings(), place.url)


async def test_store_owner_claim_is_won_by_one_of_several_databases(place: Site, other: Site) -> None:
    async def claim(here: Site) -> str:
        async with here.database.session() as tx:
            try:
                await store_owner.claim(tx, FileStore(here.folder / "store"))
            except StoreMismatch:
                return "refused"
        return here.url

    claimed = await asyncio.gather(*(claim(here) for here in [place, other] * 5))
    assert sorted(claimed.count(each) for each in {place.url, other.url, "refused"}) == [0, 5, 5]
    assert [path.name for path in place.folder.iterdir() if path.is_file()] == ["store.database"]


async def test_store_owner_claim_after_the_owner_was_removed_moves_the_store(place: Site, other: Site) -> None:
    await place.post("crm", CSV)
    (place.folder / "store.database").unlink()
    await other.post("crm", CSV)
    with pytest.raises(StoreMismatch):
        await place.post("crm", CSV)


@pytest.fixture
def clone_url(cluster: str, template: str) -> Iterator[str]:
    name = f"{template}_clone"
    with psycopg.connect(cluster, dbname="postgres", autocommit=True) as connection:
        create = sql.SQL("create database {} template {}")
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    yield urlsplit(cluster)._replace(path=f"/{name}").geturl()
    with psycopg.connect(cluster, dbname="postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


async def test_store_owner_claim_tells_clones_of_one_template_apart(place: Site, clone_url: str) -> None:
    await place.post("crm", CSV)
    async with site(clone_url, place.folder) as clone:
        with pytest.raises(StoreMismatch):
            await clone.post("crm", CSV)
