"""What a database error means, and whose sessions are ended: every statement against a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack
from uuid import uuid4

import psycopg
import pytest

from faults.harness import until
from rollcall.database import Connection, Dialler, classify, connect, end_sessions, to_unavailable


@pytest.fixture
async def tx(database_url: str) -> AsyncIterator[Connection]:
    async with await connect(database_url, "test") as connection:
        yield connection


async def failing(connection: Connection, statement: str) -> psycopg.Error:
    with pytest.raises(psycopg.Error) as caught:
        await connection.execute(statement.encode())
    return caught.value


@pytest.mark.parametrize(
    ("state", "means"),
    [
        ("55P03", "locked"),
        ("40001", "again"),
        ("40P01", "again"),
        ("53100", "again"),
        ("58030", "again"),
        ("57P01", "lost"),
        ("08006", "lost"),
        ("25P03", "lost"),
        ("23505", "fault"),
        ("22P02", "fault"),
        ("42P01", "fault"),
    ],
)
async def test_database_what_an_error_means_on_a_connection_that_lives(tx: Connection, state: str, means: str) -> None:
    error = await failing(tx, f"do $$ begin raise exception using errcode = '{state}'; end $$")

    assert (error.sqlstate, classify(error, tx)) == (state, means)


async def test_database_on_a_dead_connection_every_error_means_that_it_is_lost(
    database_url: str, tx: Connection
) -> None:
    async with await connect(database_url, "other") as other:
        error = await failing(tx, "select 1 / 0")
        assert classify(error, tx) == "fault"
        await other.execute("select pg_terminate_backend(%s)", (tx.info.backend_pid,))
        await failing(tx, "select 1")

        assert classify(error, tx) == "lost"


async def test_database_a_transaction_that_was_idle_for_too_long(database_url: str, tx: Connection) -> None:
    """psycopg says so by an InternalError, which is no OperationalError."""
    async with await connect(database_url, "idle") as idle:
        await idle.execute("set idle_in_transaction_session_timeout = '10ms'")
        await idle.execute("begin")
        await until(lambda: are_there(tx, []), 10, "its session has ended")
        error = await failing(idle, "select 1")

        assert (error.sqlstate, classify(error), classify(error, idle)) == ("25P03", "lost", "lost")


async def test_database_whose_sessions_are_ended(database_url: str, tx: Connection) -> None:
    """Those of this import up to this attempt; nobody else's, however alike the name is."""
    job, other = uuid4(), uuid4()
    others = ["rollcall:worker:1", "rollcall:x:y:z", f"rollcall:{job}:99999999999:0", f"{job}:1:0", f"rollcall:{job}:1"]
    names = [f"rollcall:{other}:1:0", *(f"rollcall:{job}:{end}" for end in ("1:0", "1:11", "2:1", "2:10", "10:1"))]
    async with AsyncExitStack() as stack:
        for name in (*others, *names):
            connection = await connect(database_url, name)
            stack.push_async_callback(connection.close)
        left = {*others, *names}

        assert await end_sessions(tx, job, attempt=2, loader=1) == 1
        left -= {f"rollcall:{job}:2:1"}
        await until(lambda: are_there(tx, left), 10, "one loader's is gone")

        assert await end_sessions(tx, job, attempt=2) == 3
        left -= {f"rollcall:{job}:{end}" for end in ("1:0", "1:11", "2:10")}
        await until(lambda: are_there(tx, left), 10, "all loaders' are gone")


async def are_there(tx: Connection, names: Collection[str]) -> bool:
    """Whether just these sessions are there, beside this one."""
    rows = await (
        await tx.execute(
            """select application_name from pg_stat_activity where datname = current_database()
                  and pid <> pg_backend_pid() and backend_type = 'client backend'"""
        )
    ).fetchall()
    return {name for (name,) in rows} == set(names)


async def named(tx: Connection, connection: Connection) -> str:
    """What others see it as."""
    rows = await tx.execute(
        "select application_name from pg_stat_activity where pid = %s", (connection.info.backend_pid,)
    )
    row = await rows.fetchone()
    return str(row[0]) if row else ""


async def test_database_a_connection_is_used_again_under_another_name(database_url: str, tx: Connection) -> None:
    database = Dialler(database_url)
    first = await database.connect("rollcall:a:1:0")
    await database.give_back(first)
    assert await database.connect("rollcall:b:1:0") is first
    assert await named(tx, first) == "rollcall:b:1:0"

    await database.give_back(first)
    await database.unname("rollcall:b:1:")
    assert await named(tx, first) == "rollcall:idle"
    await database.close_idle()
    assert first.closed


async def test_database_what_was_not_left_in_order_or_was_ended_is_not_used_again(
    database_url: str, tx: Connection
) -> None:
    database = Dialler(database_url)
    midway, ended = await database.connect("one"), await database.connect("two")
    await midway.execute("begin")
    await database.give_back(midway)
    assert midway.closed

    await database.give_back(ended)
    await tx.execute("select pg_terminate_backend(%s)", (ended.info.backend_pid,))
    fresh = await database.connect("three")
    assert fresh is not ended
    assert await named(tx, fresh) == "three"
    await fresh.close()


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (psycopg.errors.LockNotAvailable(), "DATABASE_LOCKED"),
        (psycopg.errors.DeadlockDetected(), "DATABASE_LOCKED"),
        (psycopg.errors.SerializationFailure(), "DATABASE_LOCKED"),
        (psycopg.errors.DiskFull(), "DATABASE_FULL"),
        (psycopg.OperationalError(), "DATABASE_UNAVAILABLE"),
    ],
)
def test_database_to_unavailable_names_the_true_reason(error: Exception, code: str) -> None:
    assert to_unavailable(error).code == code
