"""What must hold after any fault, in one function; and what must hold all the while, in another.

The account of every import, its contacts and Rejects are the oracle's. Here is the rest: nothing is left over, progress
never goes back, a final state is final.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import psycopg

from faults import oracle
from faults.harness import Site, until
from faults.oracle import File
from rollcall.imports import FINAL
from service import objects

LEFT_SECONDS = 10.0
LOOK = """select i.id, i.state, p.read, i.error_code from rollcall.imports i
           cross join lateral rollcall.account(i.id) p"""
SESSIONS = """select application_name, state from pg_stat_activity
               where datname = current_database() and pid <> pg_backend_pid()
                 and (application_name ~ '^rollcall:[0-9a-f-]{36}:' or state like 'idle in transaction%%')"""


async def assert_sound(place: Site, files: dict[UUID, File]) -> None:
    """`files`: by the id of their import; all imports of the database, every one final."""
    assert await oracle.violations(place.url, files) == []
    await assert_nothing_left(place)


async def assert_nothing_left(place: Site) -> None:
    """No half Upload, no object without its row and no row without its object, no session of a loader, no
    transaction."""
    assert await place.query("select id from rollcall.uploads where state <> 'complete'") == []
    keys = {key for (key,) in await place.query("select key from rollcall.segments where state = 'durable'")}
    assert {path.name for path in objects(place.folder)} == keys
    assert await place.query("select count(*) from rollcall.segments") == [(len(keys),)]

    async def none() -> bool:
        return not await place.query(SESSIONS)

    await until(none, LEFT_SECONDS, "no session of an import is left")


@asynccontextmanager
async def watched(place: Site) -> AsyncIterator[None]:
    """Look on all the while: no account goes back, no final state is left.

    A crash of Postgres may take batches back that nobody was told are final; whoever looks loses its connection then,
    and begins anew. What is final stays so over a crash, too.
    """
    over = asyncio.Event()
    looking = asyncio.create_task(_look_on(place.url, over))
    try:
        yield
    finally:
        over.set()
        await looking


async def _look_on(url: str, over: asyncio.Event) -> None:
    final: dict[UUID, tuple[object, ...]] = {}
    while not over.is_set():
        with suppress(psycopg.OperationalError):
            async with await psycopg.AsyncConnection.connect(url, autocommit=True) as tx:
                await _compare(tx, final, over)
        await asyncio.sleep(0.05)


async def _compare(
    tx: psycopg.AsyncConnection[tuple[object, ...]], final: dict[UUID, tuple[object, ...]], over: asyncio.Event
) -> None:
    reached: dict[UUID, int] = {}
    while not over.is_set():
        for job_id, state, read, code in await (await tx.execute(LOOK.encode())).fetchall():
            assert isinstance(job_id, UUID)
            assert isinstance(read, int)
            assert read >= reached.get(job_id, 0), f"{job_id} went back from {reached[job_id]} to {read} Records"
            reached[job_id] = read
            if state in FINAL:
                ended = final.setdefault(job_id, (state, read, code))
                assert (state, read, code) == ended, f"{job_id} was {ended} and is {(state, read, code)}"
        await asyncio.sleep(0.05)
